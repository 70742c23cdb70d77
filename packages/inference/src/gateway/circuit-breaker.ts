import type { Clock } from '@octomil/shared/runtime';

export type CircuitState = 'closed' | 'open' | 'half_open';

export interface CircuitBreakerOptions {
  readonly clock: Pick<Clock, 'now'>;
  /** Failures in a row that open it. Default 5. */
  readonly failures?: number;
  /** How long it stays open at first; twice as long after each probe that fails. Default 5,000. */
  readonly openMs?: number;
  /** Default 60,000. */
  readonly maxOpenMs?: number;
}

/** What one request through the circuit came to. */
export type CircuitOutcome = 'success' | 'failure' | 'unknown';

/** What somebody who was let through has: `answering` once a text came, `leave` at the end. */
export interface CircuitPass {
  /** A probe that takes minutes to be whole must not keep everybody else out until then. */
  answering(): void;
  /** @param mayBeItsOwn whether the failure may come of what was asked, rather than of the server */
  leave(outcome: CircuitOutcome, reason?: string, mayBeItsOwn?: boolean): void;
}

/**
 * Keeps requests from waiting for a server that fails: after some failures in a row it is left alone for a while, then
 * one request tries it (Nygard, Release It!, 2007).
 */
export class CircuitBreaker {
  readonly #clock: Pick<Clock, 'now'>;
  readonly #limit: number;
  readonly #firstOpenMs: number;
  readonly #maxOpenMs: number;
  #failures = 0;
  #openMs: number;
  #openUntilMs: number | undefined;
  #probing = false;
  #reason: string | undefined;

  constructor({ clock, failures = 5, openMs = 5_000, maxOpenMs = 60_000 }: CircuitBreakerOptions) {
    this.#clock = clock;
    this.#limit = failures;
    this.#firstOpenMs = openMs;
    this.#openMs = openMs;
    this.#maxOpenMs = maxOpenMs;
  }

  get state(): CircuitState {
    if (this.#openUntilMs === undefined) return 'closed';
    return this.#clock.now() < this.#openUntilMs ? 'open' : 'half_open';
  }

  /** Why it opened, while it is not closed. */
  get reason(): string | undefined {
    return this.#openUntilMs === undefined ? undefined : this.#reason;
  }

  /** Until the next probe may go. */
  get retryAfterMs(): number {
    return Math.max(0, (this.#openUntilMs ?? 0) - this.#clock.now());
  }

  /** Lets a request through, or not. Whoever is let through must `leave`, once. */
  enter(): CircuitPass | undefined {
    const { state } = this;
    if (state === 'open' || (state === 'half_open' && this.#probing)) return undefined;
    const isProbe = state === 'half_open';
    if (isProbe) this.#probing = true;
    let holds = isProbe;
    const release = (): void => {
      if (holds) this.#probing = false;
      holds = false;
    };
    return {
      answering: () => {
        if (!holds) return;
        release();
        // Not yet a success: the failures are remembered, and one more opens it again.
        this.#openUntilMs = undefined;
      },
      leave: (outcome, reason) => {
        release();
        if (outcome === 'success') this.#close();
        else if (outcome === 'failure') this.#fail(isProbe, reason);
      },
    };
  }

  #close(): void {
    this.#failures = 0;
    this.#openUntilMs = undefined;
    this.#openMs = this.#firstOpenMs;
  }

  #fail(isProbe: boolean, reason: string | undefined): void {
    this.#failures += 1;
    if (isProbe) this.#openMs = Math.min(this.#maxOpenMs, this.#openMs * 2);
    // Requests that were under way when it opened say nothing new.
    else if (this.#failures < this.#limit || this.#openUntilMs !== undefined) return;
    this.#reason = reason;
    this.#openUntilMs = this.#clock.now() + this.#openMs;
  }
}
