import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import { type DeviceIdentity, revoked } from './credential-check.js';
import { type CheckedToken, type DeviceTokens, hashToken } from './device-tokens.js';
import { ReadsUnderWay } from './reads-under-way.js';

interface Known {
  readonly token: CheckedToken;
  readonly readAtMs: number;
}

const CACHE_MS = 5000;
const MAX_CACHED = 50_000;

/** Checks access tokens; the row behind each is kept for five seconds, or until a notification names the device. */
export class TokenCheck {
  readonly #tokens: DeviceTokens;
  readonly #clock: Clock;
  readonly #known = new Map<string, Known>();
  readonly #hashesOf = new Map<string, Set<string>>();
  readonly #reads = new ReadsUnderWay();

  constructor(tokens: DeviceTokens, clock: Clock) {
    this.#tokens = tokens;
    this.#clock = clock;
  }

  forget(deviceId: string): void {
    this.#reads.forget(deviceId);
    for (const hash of this.#hashesOf.get(deviceId) ?? []) this.#known.delete(hash);
    this.#hashesOf.delete(deviceId);
  }

  /** @throws `authentication_failed`, `token_expired`, `device_revoked` */
  async check(accessToken: string): Promise<DeviceIdentity> {
    const { token, readAtMs } = await this.#read(hashToken(accessToken));
    if (token.status === 'revoked') throw revoked(token.deviceId);
    if (this.#clock.now() - readAtMs >= token.expiresInMs) {
      throw new OctomilError(
        'token_expired',
        'this access token has expired; refresh it, or bootstrap the device again',
      );
    }
    return { deviceId: token.deviceId, organizationId: token.organizationId, scopes: token.scopes };
  }

  async #read(hash: string): Promise<Known> {
    const cached = this.#known.get(hash);
    if (cached !== undefined && this.#clock.now() - cached.readAtMs < CACHE_MS) return cached;
    const readAtMs = this.#clock.now();
    const { row: token, forgotten } = await this.#reads.during(() => this.#tokens.read(hash));
    if (token === undefined) {
      throw new OctomilError(
        'authentication_failed',
        'this access token is not known here or was revoked; bootstrap the device again',
      );
    }
    const known = { token, readAtMs };
    if (forgotten.has(token.deviceId)) return known;
    if (this.#known.size >= MAX_CACHED) {
      this.#known.clear();
      this.#hashesOf.clear();
    }
    this.#known.set(hash, known);
    this.#hashesOf.set(token.deviceId, (this.#hashesOf.get(token.deviceId) ?? new Set()).add(hash));
    return known;
  }
}
