/** How much a producer may still send before its reader has to take something. */
export class Credit {
  #left: number;
  #waiting: (() => void) | undefined;

  constructor(window: number) {
    this.#left = window;
  }

  /** Takes from the credit at once; the promise, if there is one, is for the time when there is some again. */
  spend(amount: number): Promise<void> | undefined {
    this.#left -= amount;
    if (this.#left > 0) return undefined;
    return new Promise((resolve) => {
      this.#waiting = resolve;
    });
  }

  grant(amount: number): void {
    this.#left += amount;
    if (this.#left > 0) this.release();
  }

  /** Lets a waiting producer go on whatever the credit, so that it sees that it is to end. */
  release(): void {
    this.#waiting?.();
    this.#waiting = undefined;
  }
}
