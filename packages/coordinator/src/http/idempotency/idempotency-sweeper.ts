import type { Clock, Logger } from '@octomil/shared/runtime';
import type { IdempotencyStore } from './idempotency-store.js';

const HOUR_MS = 3_600_000;

/** Deletes stored answers after a day, and what is too much of one caller, once an hour. Several coordinators may do so at once. */
export class IdempotencySweeper {
  readonly #on: { store: IdempotencyStore; clock: Clock; logger: Logger };
  #cancel: () => void = () => undefined;
  #running: Promise<void> | undefined;
  #stopped = false;

  constructor(dependencies: { store: IdempotencyStore; clock: Clock; logger: Logger }) {
    this.#on = dependencies;
  }

  start(): void {
    this.#cancel = this.#on.clock.after(HOUR_MS, () => {
      this.#running = this.#sweep();
    });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancel();
    await this.#running;
  }

  async #sweep(): Promise<void> {
    const { store, logger } = this.#on;
    try {
      while (!this.#stopped && (await store.sweep()) > 0);
      if (!this.#stopped) await store.sweepCrowded();
    } catch (error) {
      logger.warn({ error }, 'stored answers could not be swept; tried again in an hour');
    }
    if (!this.#stopped) this.start();
  }
}
