import { createHash } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import type { SharedCounts } from './shared-counts.js';

export interface RateLimitOptions {
  readonly clock: Clock;
  /** Requests of one key or device in one second, over all coordinators when `shared` is given; 0: no limit. */
  readonly perSecond: number;
  /** Refused keys and tokens from one address in a minute, before it is asked to wait. Default 300. */
  readonly failuresPerMinute?: number;
  /** What other coordinators counted; without it each counts for itself. */
  readonly shared?: SharedCounts;
}

const SECOND_MS = 1_000;
const MINUTE_MS = 60_000;
const DEFAULT_FAILURES = 300;
const MAX_KNOWN = 10_000;

/**
 * Counts requests in fixed windows: one second per caller, one minute per address for failed sign-ins. A count costs no
 * round trip; what other coordinators counted arrives a moment later, so that together they may let a tenth of a second
 * more through.
 */
export class RateLimits {
  readonly #clock: Clock;
  readonly #perSecond: number;
  readonly #failuresPerMinute: number;
  readonly #shared: SharedCounts | undefined;
  #second = 0;
  #minute = 0;
  readonly #counts = new Map<string, number>();
  readonly #failures = new Map<string, number>();
  /** Digests of tokens that were good lately: an address with failures keeps those. */
  #known = new Set<string>();

  constructor({ clock, perSecond, failuresPerMinute = DEFAULT_FAILURES, shared }: RateLimitOptions) {
    this.#clock = clock;
    this.#perSecond = perSecond;
    this.#failuresPerMinute = failuresPerMinute;
    this.#shared = shared;
  }

  /** @throws OctomilError `rate_limited` with the seconds until the next window */
  count(caller: string): void {
    if (this.#perSecond === 0) return;
    const now = this.#clock.now();
    const second = Math.floor(now / SECOND_MS);
    if (second !== this.#second) {
      this.#second = second;
      this.#counts.clear();
    }
    const count = (this.#counts.get(caller) ?? 0) + 1;
    this.#counts.set(caller, count);
    const others = this.#shared?.add(caller, second) ?? 0;
    if (count + others <= this.#perSecond) return;
    throw new OctomilError(
      'rate_limited',
      `more than ${this.#perSecond} requests within one second with one key; wait a second, or raise OCTOMIL_RATE_LIMIT`,
      { retryAfterSeconds: 1, details: { limit_per_second: this.#perSecond } },
    );
  }

  /** Before a token is looked up. @throws OctomilError `rate_limited` for an address that sent too many bad ones */
  checkAddress(address: string, token: string): void {
    if (this.#perSecond === 0) return;
    const now = this.#clock.now();
    const minute = Math.floor(now / MINUTE_MS);
    if (minute !== this.#minute) {
      this.#minute = minute;
      this.#failures.clear();
    }
    if ((this.#failures.get(address) ?? 0) < this.#failuresPerMinute || this.#known.has(digest(token))) return;
    throw new OctomilError(
      'rate_limited',
      `${address} sent ${this.#failuresPerMinute} refused keys within a minute; wait, and use a key that is known here`,
      { retryAfterSeconds: ((minute + 1) * MINUTE_MS - now) / 1000 },
    );
  }

  noteFailure(address: string): void {
    // Without a limit nobody looks at them, and nobody forgets them.
    if (this.#perSecond === 0) return;
    if (this.#failures.size >= MAX_KNOWN && !this.#failures.has(address)) this.#failures.clear();
    this.#failures.set(address, (this.#failures.get(address) ?? 0) + 1);
  }

  noteSuccess(address: string, token: string): void {
    // Only while somebody at this address fails does it matter who else is known.
    if (!this.#failures.has(address)) return;
    if (this.#known.size >= MAX_KNOWN) this.#known = new Set();
    this.#known.add(digest(token));
  }
}

function digest(token: string): string {
  return createHash('sha256').update(token).digest('base64');
}
