/**
 * Lets a change of a context's state in between the tokens of those that generate.
 *
 * node-llama-cpp decodes batch after batch under one lock while anything is queued, and a change needs the same lock: a new
 * request whose sequence must forget something would wait until all others have ended.
 */
export class Turnstile {
  #changes = 0;
  #held: PromiseWithResolvers<void> | undefined;

  /** What whoever generates waits for before its next token; undefined where there is nothing to wait for. */
  get closed(): Promise<void> | undefined {
    return this.#held?.promise;
  }

  async change(work: () => Promise<void>): Promise<void> {
    this.#changes += 1;
    this.#held ??= Promise.withResolvers();
    try {
      await work();
    } finally {
      this.#changes -= 1;
      if (this.#changes === 0) {
        this.#held.resolve();
        this.#held = undefined;
      }
    }
  }
}
