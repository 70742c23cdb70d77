import { type Kysely, type RawBuilder, sql } from 'kysely';
import type { Database } from '../../database/database.js';
import type { Tables } from '../../database/tables.js';

export interface RepeatKey {
  readonly organizationId: string;
  /** Who sends it: another caller's key of the same name is another key. */
  readonly caller: string;
  readonly key: string;
}

export type Reservation =
  /** Nobody has done it: do it, and `complete` or `release` it with `lock`, the time at which it was begun. */
  | { readonly kind: 'mine'; readonly lock: string }
  | { readonly kind: 'done'; readonly status: number; readonly body: string }
  | { readonly kind: 'in_progress'; readonly retryAfterSeconds: number }
  | { readonly kind: 'other_request'; readonly route: string };

/** A coordinator that dies in a request holds its key so long. */
const LOCK_SECONDS = 60;
export const RENEW_EVERY_MS = 20_000;
const KEEP_HOURS = 24;
const SWEEP_ROWS = 10_000;
/** Of one caller, at each sweep: who sends more has answers of less than a day, and never of less than since that sweep. */
const MAX_KEPT_PER_CALLER = 100_000;

/** Rows of `idempotency_keys`: which requests with a key were begun, and what they were answered. */
export class IdempotencyStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /**
   * Does not wait for the disk: the commit of the change that follows comes later in the same log, so that the disk has
   * the reservation whenever it has the change.
   */
  async reserve(id: RepeatKey, route: string, requestHash: string): Promise<Reservation> {
    const taken = await sql<{ lock: string }>`
      insert into idempotency_keys as held (organization_id, caller, key, route, request_hash, locked_until)
      select ${id.organizationId}, ${id.caller}, ${id.key}, ${route}, ${requestHash},
        now() + make_interval(secs => ${LOCK_SECONDS})
      from (select set_config('synchronous_commit', 'off', true)) as unsynced
      on conflict (organization_id, caller, key) do update
        set route = excluded.route, request_hash = excluded.request_hash, locked_until = excluded.locked_until,
          status = null, body = null, created_at = now()
        where held.created_at < now() - make_interval(hours => ${KEEP_HOURS})
          or (held.status is null and held.locked_until < now() and held.request_hash = excluded.request_hash)
      returning created_at::text as lock`.execute(this.#database.kysely);
    const lock = taken.rows[0]?.lock;
    if (lock !== undefined) return { kind: 'mine', lock };
    const found = await sql<{
      route: string;
      request_hash: string;
      status: number | null;
      body: string | null;
      remaining: number;
    }>`
      select route, request_hash, status, body,
        greatest(1, ceil(extract(epoch from locked_until - now())))::float8 as remaining
      from idempotency_keys
      where organization_id = ${id.organizationId} and caller = ${id.caller} and key = ${id.key}`.execute(
      this.#database.kysely,
    );
    const row = found.rows[0];
    // Released in between: the caller's next try gets it.
    if (row === undefined) return { kind: 'in_progress', retryAfterSeconds: 1 };
    if (row.request_hash !== requestHash) return { kind: 'other_request', route: row.route };
    if (row.status === null || row.body === null) {
      return { kind: 'in_progress', retryAfterSeconds: Math.min(row.remaining, 5) };
    }
    return { kind: 'done', status: row.status, body: row.body };
  }

  /** For requests that take long. Answers whether the key is still held. */
  renew(id: RepeatKey, lock: string): Promise<boolean> {
    return this.#held(id, lock, sql`locked_until = now() + make_interval(secs => ${LOCK_SECONDS})`);
  }

  /**
   * @param beside a statement that is stored in the same commit, whether the key is still held or not
   * @param within the transaction of the change itself
   */
  async complete(
    id: RepeatKey,
    lock: string,
    answer: { status: number; body: string },
    { beside, within }: { beside?: RawBuilder<unknown> | undefined; within?: Kysely<Tables> } = {},
  ): Promise<void> {
    await this.#held(id, lock, sql`status = ${answer.status}, body = ${answer.body}`, { beside, within });
  }

  /** The request had no final outcome: it may be sent again. */
  async release(id: RepeatKey, lock: string): Promise<void> {
    await sql`delete from idempotency_keys
      where organization_id = ${id.organizationId} and caller = ${id.caller} and key = ${id.key}
        and status is null and created_at = ${lock}::timestamptz`.execute(this.#database.kysely);
  }

  /** Deletes what is older than a day, a bounded number at a time. Answers how many. */
  async sweep(): Promise<number> {
    const { numAffectedRows = 0n } = await sql`delete from idempotency_keys where ctid in (
      select ctid from idempotency_keys where created_at < now() - make_interval(hours => ${KEEP_HOURS})
      order by created_at limit ${SWEEP_ROWS})`.execute(this.#database.kysely);
    return Number(numAffectedRows);
  }

  /**
   * Deletes the oldest answers of callers that have more than their share, so that none fills the table in a day. Keys
   * that are held stay. Answers how many.
   */
  async sweepCrowded(maxPerCaller: number = MAX_KEPT_PER_CALLER): Promise<number> {
    const { numAffectedRows = 0n } = await sql`
      with crowded as (
        select organization_id, caller from idempotency_keys group by 1, 2 having count(*) > ${maxPerCaller}
      )
      delete from idempotency_keys where status is not null and ctid in (
        select excess.ctid from crowded cross join lateral (
          select k.ctid from idempotency_keys k
          where k.organization_id = crowded.organization_id and k.caller = crowded.caller
          order by k.created_at desc offset ${maxPerCaller}::integer
        ) excess)`.execute(this.#database.kysely);
    return Number(numAffectedRows);
  }

  async #held(
    id: RepeatKey,
    lock: string,
    change: RawBuilder<unknown>,
    { beside, within }: { beside?: RawBuilder<unknown> | undefined; within?: Kysely<Tables> | undefined } = {},
  ): Promise<boolean> {
    const { numAffectedRows = 0n } = await sql`${beside === undefined ? sql`` : sql`with beside as (${beside})`}
      update idempotency_keys set ${change}
      where organization_id = ${id.organizationId} and caller = ${id.caller} and key = ${id.key}
        and status is null and created_at = ${lock}::timestamptz`.execute(within ?? this.#database.kysely);
    return numAffectedRows > 0n;
  }
}
