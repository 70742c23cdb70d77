import { outsideAnyTransaction, refuseInsideTransaction } from './transaction-guard.js';

/** So many keys in one statement. */
const MAX_KEYS = 500;

interface Asked<K, V> {
  readonly key: K;
  readonly resolve: (value: V | undefined) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Reads by key, gathered: what is asked for while a statement is under way goes together into the next one, and equal keys
 * are read once. A statement costs the same round trip for one key as for fifty, so that a busy coordinator needs far
 * fewer of them, and an idle one waits for nothing. A reading always begins after it was asked for: whoever has seen a
 * change committed reads it.
 */
export class GatheredReads<K, V> {
  readonly #name: (key: K) => string;
  readonly #read: (keys: readonly K[]) => Promise<ReadonlyMap<string, V>>;
  #asked: Asked<K, V>[] = [];
  #reading = false;

  /**
   * @param name equal for equal keys
   * @param read answers what there is, by name. The values are shared by all who ask: nobody may change them
   */
  constructor(name: (key: K) => string, read: (keys: readonly K[]) => Promise<ReadonlyMap<string, V>>) {
    this.#name = name;
    this.#read = read;
  }

  /** Nobody waits. */
  get idle(): boolean {
    return !this.#reading;
  }

  /** @throws OctomilError `internal` inside a transaction, which the reading would not belong to */
  get(key: K): Promise<V | undefined> {
    refuseInsideTransaction('read');
    return new Promise((resolve, reject) => {
      this.#asked.push({ key, resolve, reject });
      if (this.#reading) return;
      this.#reading = true;
      // Requests that arrived in the same turn are handled before this.
      outsideAnyTransaction(() => setImmediate(() => void this.#work()));
    });
  }

  async #work(): Promise<void> {
    while (this.#asked.length > 0) {
      const batch = this.#asked.splice(0, MAX_KEYS);
      const keys = new Map(batch.map(({ key }) => [this.#name(key), key]));
      try {
        const found = await this.#read([...keys.values()]);
        for (const { key, resolve } of batch) resolve(found.get(this.#name(key)));
      } catch (error) {
        if (batch.length === 1) batch[0]?.reject(error);
        else await Promise.all(batch.map((asked) => this.#readAlone(asked)));
      }
    }
    this.#reading = false;
  }

  /** What the database refuses for one key must not fail those who asked beside it. */
  async #readAlone({ key, resolve, reject }: Asked<K, V>): Promise<void> {
    try {
      resolve((await this.#read([key])).get(this.#name(key)));
    } catch (error) {
      reject(error);
    }
  }
}
