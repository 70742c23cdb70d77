import type { Kysely } from 'kysely';
import type { Tables } from './tables.js';

/** PostgreSQL, or PGlite embedded: the same rows, the same rules. */
export interface Database {
  readonly kind: 'postgres' | 'pglite';
  /** One statement at a time, or `transact`. Awaiting it inside somebody's transaction is refused on both databases. */
  readonly kysely: Kysely<Tables>;
  /**
   * Runs `work` in one transaction, retried on serialization failures and deadlocks.
   * Inside, use only the handle given: the outer `kysely` and the job queues would wait for ever on PGlite,
   * which has a single session, so a guard throws instead (`internal`).
   */
  transact<T>(work: (transaction: Kysely<Tables>) => Promise<T>): Promise<T>;
  /** Tells every listener, in every process, once the surrounding transaction commits. Payload at most 7,900 bytes. */
  notify(channel: string, payload: string, within?: Kysely<Tables>): Promise<void>;
  /** A receiver that throws is logged, never fatal. Notifications sent while a connection is down are lost: re-read rows. */
  listen(channel: string, receive: (payload: string) => void): Promise<() => Promise<void>>;
  /** Throws when the database does not answer. */
  ping(): Promise<void>;
  close(): Promise<void>;
}
