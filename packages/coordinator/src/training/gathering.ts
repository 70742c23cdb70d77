interface Waiting<Item, Result> {
  readonly item: Item;
  readonly resolve: (result: Result) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Group commit: the first item of a key goes at once, and what arrives while a statement is under way goes together with
 * the next. One item alone waits for nobody, and many at once share the price of a commit.
 */
export class Gathering<Item, Result> {
  readonly #work: (key: string, items: readonly Item[]) => Promise<readonly Result[]>;
  readonly #maxItems: number;
  readonly #waiting = new Map<string, Waiting<Item, Result>[]>();

  /** @param work answers one result for each item, in their order */
  constructor(work: (key: string, items: readonly Item[]) => Promise<readonly Result[]>, maxItems = 128) {
    this.#work = work;
    this.#maxItems = maxItems;
  }

  /** @throws what `work` throws for this item alone: a faulty one does not fail those it went with */
  add(key: string, item: Item): Promise<Result> {
    return new Promise((resolve, reject) => {
      const entry = { item, resolve, reject };
      const waiting = this.#waiting.get(key);
      if (waiting !== undefined) {
        waiting.push(entry);
        return;
      }
      const list = [entry];
      this.#waiting.set(key, list);
      void this.#drain(key, list);
    });
  }

  async #drain(key: string, waiting: Waiting<Item, Result>[]): Promise<void> {
    while (waiting.length > 0) await this.#carryOut(key, waiting.splice(0, this.#maxItems));
    this.#waiting.delete(key);
  }

  async #carryOut(key: string, batch: readonly Waiting<Item, Result>[]): Promise<void> {
    try {
      const results = await this.#work(
        key,
        batch.map(({ item }) => item),
      );
      for (const [place, { resolve }] of batch.entries()) resolve(results[place] as Result);
    } catch (error) {
      if (batch.length === 1) batch[0]?.reject(error);
      else for (const entry of batch) await this.#carryOut(key, [entry]);
    }
  }
}
