import type { Clock, Logger } from '@octomil/shared/runtime';

/** The two commands of Redis that sharing needs. */
export interface CountStore {
  /** Adds to each count, keeps it for a few seconds, and answers the new totals in order. */
  addAll(counts: readonly (readonly [name: string, by: number])[]): Promise<number[]>;
}

interface Count {
  /** Counted here and not yet sent. */
  pending: number;
  sent: number;
  /** What all coordinators together had sent at the last exchange. */
  total: number;
}

const EXCHANGE_EVERY_MS = 100;

/**
 * Counts that several coordinators add up, exchanged ten times a second in one round trip rather than asked for with
 * every request. While the store does not answer, each coordinator counts for itself.
 */
export class SharedCounts {
  readonly #store: CountStore;
  readonly #clock: Clock;
  readonly #logger: Logger;
  #window = 0;
  #counts = new Map<string, Count>();
  #scheduled = false;
  #failing = false;

  constructor({ store, clock, logger }: { store: CountStore; clock: Clock; logger: Logger }) {
    this.#store = store;
    this.#clock = clock;
    this.#logger = logger;
  }

  /** Counts one, and answers what others counted in the same window, as far as it is known. */
  add(name: string, window: number): number {
    if (window !== this.#window) {
      this.#window = window;
      this.#counts = new Map();
    }
    const count = this.#counts.get(name) ?? { pending: 0, sent: 0, total: 0 };
    this.#counts.set(name, count);
    count.pending++;
    if (!this.#scheduled) {
      this.#scheduled = true;
      this.#clock.after(EXCHANGE_EVERY_MS, () => void this.#exchange());
    }
    return count.total - count.sent;
  }

  async #exchange(): Promise<void> {
    this.#scheduled = false;
    const window = this.#window;
    const open = [...this.#counts].filter(([, count]) => count.pending > 0);
    const batch = open.map(([name, count]) => [`octomil:rate:${window}:${name}`, count.pending] as const);
    for (const [, count] of open) {
      count.sent += count.pending;
      count.total += count.pending;
      count.pending = 0;
    }
    try {
      const totals = await this.#store.addAll(batch);
      // A total holds what was sent until now; more may have been counted meanwhile, which is not in it.
      for (const [index, [, count]] of open.entries()) count.total = Math.max(count.total, totals[index] ?? 0);
      this.#failing = false;
    } catch (error) {
      if (!this.#failing)
        this.#logger.warn({ error }, 'Redis does not take request counts; each coordinator counts alone');
      this.#failing = true;
    }
  }
}
