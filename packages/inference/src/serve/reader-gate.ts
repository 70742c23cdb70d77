/** Holds a producer back while its reader's socket is full. */
export class ReaderGate {
  readonly #signal: AbortSignal;
  #held: PromiseWithResolvers<void> | undefined;

  /** @param signal lets the producer go on when the reader has left, so that it hears of that */
  constructor(signal: AbortSignal) {
    this.#signal = signal;
    signal.addEventListener('abort', () => this.resume(), { once: true });
  }

  pause(): void {
    // A socket that is gone takes nothing and never drains: whoever waited for it would wait for ever.
    if (!this.#signal.aborted) this.#held ??= Promise.withResolvers();
  }

  resume(): void {
    this.#held?.resolve();
    this.#held = undefined;
  }

  /** Undefined where nothing has to be waited for. */
  get open(): Promise<void> | undefined {
    return this.#held?.promise;
  }
}
