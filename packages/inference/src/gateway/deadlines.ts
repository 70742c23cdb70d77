import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';

/** How long a server may take, in milliseconds. */
export interface BackendTimeouts {
  /** Until a connection stands. Default 5,000. */
  readonly connectMs: number;
  /** Until the first text of a stream; comments and empty lines do not count. Default 30,000. */
  readonly firstContentMs: number;
  /** Between two texts of a stream. Default 30,000. */
  readonly idleMs: number;
  /** A whole stream. Default 600,000. */
  readonly totalMs: number;
  /** A whole answer that is not streamed. Default 30,000. */
  readonly answerMs: number;
}

export const DEFAULT_TIMEOUTS: BackendTimeouts = {
  connectMs: 5_000,
  firstContentMs: 30_000,
  idleMs: 30_000,
  totalMs: 600_000,
  answerMs: 30_000,
};

export interface DeadlinesOptions {
  readonly backend: string;
  readonly timeouts: BackendTimeouts;
  readonly streaming: boolean;
  readonly clock: Clock;
  readonly expired: (error: OctomilError) => void;
}

interface Deadline {
  readonly atMs: number;
  readonly limit: 'first_content' | 'idle' | 'total';
  readonly reason: string;
  readonly limitMs: number;
}

/** The time limits of one request. One timer, set again only when it fires, so that a token costs no timer. */
export class Deadlines {
  readonly #options: DeadlinesOptions;
  readonly #startedAtMs: number;
  #contentAtMs: number | undefined;
  #paused = false;
  #graceUntilMs: number | undefined;
  #cancel: () => void = () => undefined;

  constructor(options: DeadlinesOptions) {
    this.#options = options;
    this.#startedAtMs = options.clock.now();
    this.#arm();
  }

  /** A text came. */
  content(): void {
    this.#contentAtMs = this.#options.clock.now();
  }

  /** Waiting for a slow reader is not the server's fault; only the whole stream's limit goes on. */
  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.#contentAtMs = this.#options.clock.now();
  }

  /** The answer is whole; what may still come (usage) has this long. */
  grace(graceMs: number): void {
    this.#graceUntilMs = this.#options.clock.now() + graceMs;
    this.#cancel();
    this.#arm();
  }

  close(): void {
    this.#cancel();
  }

  #arm(): void {
    const { clock, timeouts } = this.#options;
    const leftMs = this.#next().atMs - clock.now();
    // While paused it is looked now and then whether the server's time runs again.
    const delayMs = this.#paused ? Math.min(leftMs, timeouts.idleMs) : leftMs;
    this.#cancel = clock.after(Math.max(1, delayMs), () => this.#check());
  }

  #check(): void {
    const { atMs, limit, reason, limitMs } = this.#next();
    if (this.#options.clock.now() < atMs) {
      this.#arm();
      return;
    }
    const { backend, expired } = this.#options;
    expired(
      new OctomilError('request_timeout', `${backend} ${reason} within ${limitMs} ms`, {
        details: { provider: backend, limit, limit_ms: limitMs },
      }),
    );
  }

  #next(): Deadline {
    const { timeouts, streaming } = this.#options;
    if (this.#graceUntilMs !== undefined) {
      return { atMs: this.#graceUntilMs, limit: 'total', reason: 'did not end', limitMs: 0 };
    }
    const wholeMs = streaming ? timeouts.totalMs : timeouts.answerMs;
    const whole: Deadline = {
      atMs: this.#startedAtMs + wholeMs,
      limit: 'total',
      reason: 'did not finish its answer',
      limitMs: wholeMs,
    };
    if (!streaming || this.#paused) return whole;
    const next: Deadline =
      this.#contentAtMs === undefined
        ? {
            atMs: this.#startedAtMs + timeouts.firstContentMs,
            limit: 'first_content',
            reason: 'sent no text',
            limitMs: timeouts.firstContentMs,
          }
        : {
            atMs: this.#contentAtMs + timeouts.idleMs,
            limit: 'idle',
            reason: 'sent no further text',
            limitMs: timeouts.idleMs,
          };
    return next.atMs < whole.atMs ? next : whole;
  }
}
