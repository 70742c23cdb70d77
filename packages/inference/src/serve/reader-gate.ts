/** Holds a producer back while its reader's socket is full. */
export class ReaderGate {
  #held: PromiseWithResolvers<void> | undefined;

  /** @param signal lets the producer go on when the reader has left, so that it hears of that */
  constructor(signal: AbortSignal) {
    signal.addEventListener('abort', () => this.resume(), { once: true });
  }

  pause(): void {
    this.#held ??= Promise.withResolvers();
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
