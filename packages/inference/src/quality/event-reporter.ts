import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import type { InferenceEvent } from './inference-event.js';

export interface EventReporterOptions {
  /** Delivers events, oldest first. A rejection means: again later, unless its code is never to be retried. */
  readonly send: (events: readonly InferenceEvent[], signal: AbortSignal) => Promise<void>;
  readonly clock: Clock;
  /** Sent as soon as there are this many. Default 50. */
  readonly maxBatch?: number;
  /** The longest an event waits. Default 5,000. */
  readonly intervalMs?: number;
  /** Beyond these, the oldest are dropped. Default 1,000. */
  readonly maxPending?: number;
  /** The longest one delivery, and the last one on `stop`, may take. Default 5,000. */
  readonly timeoutMs?: number;
}

const MAX_BACKOFF_MS = 60_000;

/**
 * Delivers events in batches, in the background. `report` neither waits nor throws: a generation is worth more than the
 * figures about it.
 */
export class EventReporter {
  readonly #options: Required<EventReporterOptions>;
  #pending: InferenceEvent[] = [];
  #dropped = 0;
  #failures = 0;
  #cancel: (() => void) | undefined;
  #sending: Promise<void> | undefined;
  #stopped = false;

  constructor(options: EventReporterOptions) {
    this.#options = { maxBatch: 50, intervalMs: 5_000, maxPending: 1_000, timeoutMs: 5_000, ...options };
  }

  /** Events that were given up: too many waited, or the receiver will never take them. */
  get dropped(): number {
    return this.#dropped;
  }

  get pending(): number {
    return this.#pending.length;
  }

  report(event: InferenceEvent): void {
    if (this.#stopped) {
      this.#dropped += 1;
      return;
    }
    this.#pending.push(event);
    const tooMany = this.#pending.length - this.#options.maxPending;
    if (tooMany > 0) {
      this.#pending.splice(0, tooMany);
      this.#dropped += tooMany;
    }
    // After a failure the pause holds, however many gather.
    if (this.#pending.length >= this.#options.maxBatch && this.#failures === 0) this.#begin();
    else this.#later(this.#options.intervalMs);
  }

  /** Resolves once what was reported so far is delivered, or could not be. */
  async flush(): Promise<void> {
    await this.#sending;
    this.#begin();
    await this.#sending;
  }

  /** Delivers what waits, for at most `timeoutMs`. Safe to repeat. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.flush();
    this.#cancel?.();
    this.#dropped += this.#pending.length;
    this.#pending = [];
  }

  #later(delayMs: number): void {
    if (this.#sending !== undefined) return;
    this.#cancel ??= this.#options.clock.after(delayMs, () => {
      this.#cancel = undefined;
      this.#begin();
    });
  }

  #begin(): void {
    if (this.#sending !== undefined || this.#pending.length === 0) return;
    this.#cancel?.();
    this.#cancel = undefined;
    this.#sending = this.#deliver().finally(() => {
      this.#sending = undefined;
      if (this.#pending.length === 0 || this.#stopped) return;
      const { intervalMs } = this.#options;
      this.#later(this.#failures === 0 ? intervalMs : Math.min(MAX_BACKOFF_MS, intervalMs * 2 ** this.#failures));
    });
  }

  async #deliver(): Promise<void> {
    while (this.#pending.length > 0) {
      const batch = this.#pending.splice(0, this.#options.maxBatch);
      try {
        // Called inside the promise: whatever it throws is a failed delivery.
        await this.#options.send(batch, AbortSignal.timeout(this.#options.timeoutMs));
        this.#failures = 0;
      } catch (error) {
        if (error instanceof OctomilError && error.entry.retry === 'never') {
          this.#dropped += batch.length;
          continue;
        }
        this.#failures += 1;
        const room = Math.max(0, this.#options.maxPending - this.#pending.length);
        this.#dropped += Math.max(0, batch.length - room);
        this.#pending.unshift(...batch.slice(Math.max(0, batch.length - room)));
        return;
      }
    }
  }
}
