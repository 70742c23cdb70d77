import type { Clock, Logger } from '@octomil/shared/runtime';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';

const HOUR_MS = 3_600_000;
const MAX_ROWS = 5_000;
/** So long an event that is sent again is known to be one. */
export const KEEP_EVENTS_DAYS = 7;
export const KEEP_AGGREGATES_DAYS = 30;

/** Deletes old events and figures once an hour. Several coordinators may do so at once. */
export class EventSweeper {
  readonly #on: { database: Database; clock: Clock; logger: Logger };
  #cancel: () => void = () => undefined;
  #running: Promise<void> | undefined;
  #stopped = false;

  constructor(dependencies: { database: Database; clock: Clock; logger: Logger }) {
    this.#on = dependencies;
  }

  start(): void {
    this.#cancel = this.#on.clock.after(HOUR_MS, () => {
      this.#running = this.#run();
    });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancel();
    await this.#running;
  }

  /** Deletes what is due now, in portions. @returns how many rows */
  async sweep(): Promise<number> {
    const events = this.#portions('inference_events', 'created_at', KEEP_EVENTS_DAYS);
    return (await events) + (await this.#portions('inference_aggregates', 'hour', KEEP_AGGREGATES_DAYS));
  }

  async #portions(table: string, column: string, days: number): Promise<number> {
    for (let total = 0; ; ) {
      const { numAffectedRows = 0n } = await sql`
        delete from ${sql.table(table)} where ctid = any(array(
          select ctid from ${sql.table(table)} where ${sql.ref(column)} < now() - ${days}::integer * interval '1 day'
          limit ${MAX_ROWS}))`.execute(this.#on.database.kysely);
      total += Number(numAffectedRows);
      if (this.#stopped || Number(numAffectedRows) < MAX_ROWS) return total;
    }
  }

  async #run(): Promise<void> {
    try {
      await this.sweep();
    } catch (error) {
      this.#on.logger.warn({ error }, 'old events of inference could not be swept; tried again in an hour');
    }
    if (!this.#stopped) this.start();
  }
}
