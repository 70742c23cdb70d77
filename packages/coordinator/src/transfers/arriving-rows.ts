import type { PartUpload } from '@octomil/shared/storage';
import { type RawBuilder, sql } from 'kysely';
import type { Database } from '../database/database.js';

/** What checking asks of the rows of uploads. `Claimed` is one whose bytes are this process's to check for a while. */
export interface ArrivedRows<Claimed extends { readonly id: string; readonly attempts: number }> {
  /** Those that arrived and nobody checks, or whose checker let its lease end; at most 20. */
  unclaimed(): Promise<string[]>;
  /** undefined where somebody else has it, or it is settled. */
  claim(id: string, ownerId: string, leaseMs: number): Promise<Claimed | undefined>;
  renew(id: string, ownerId: string, leaseMs: number): Promise<void>;
  /** To be tried again after a while, by whoever finds it. */
  release(id: string, ownerId: string, delayMs: number): Promise<void>;
}

/**
 * Rows of uploads whose bytes may go past this process: updates by ticket, files of versions. Both tables have the columns
 * `state`, `claimed_by`, `claimed_until`, `attempts` and `header`, whose field `direct` is the upload to the bucket.
 */
export class ArrivingRows {
  readonly #database: Database;
  readonly #table: RawBuilder<unknown>;

  constructor(database: Database, table: 'upload_tickets' | 'artifact_uploads') {
    this.#database = database;
    this.#table = sql.table(table);
  }

  async unclaimed(): Promise<string[]> {
    return this.#ids(sql`
      select id from ${this.#table} where state = 'arrived' and (claimed_until is null or claimed_until < now())
      order by created_at limit 20`);
  }

  /** @returns how often it was taken, with this time */
  async take(id: string, ownerId: string, leaseMs: number): Promise<number | undefined> {
    const { rows } = await sql<{ attempts: number }>`
      update ${this.#table} set claimed_by = ${ownerId}, claimed_until = ${inMs(leaseMs)}, attempts = attempts + 1
      where id = ${id} and state = 'arrived' and (claimed_until is null or claimed_until < now())
      returning attempts`.execute(this.#database.kysely);
    return rows[0]?.attempts;
  }

  async renew(id: string, ownerId: string, leaseMs: number): Promise<void> {
    await this.#execute(sql`
      update ${this.#table} set claimed_until = ${inMs(leaseMs)}
      where id = ${id} and state = 'arrived' and claimed_by = ${ownerId}`);
  }

  async release(id: string, ownerId: string, delayMs: number): Promise<void> {
    await this.#execute(sql`
      update ${this.#table} set claimed_by = null, claimed_until = ${inMs(delayMs)}
      where id = ${id} and state = 'arrived' and claimed_by = ${ownerId}`);
  }

  /** The upload to the bucket that was begun. */
  async directOf(id: string): Promise<PartUpload | undefined> {
    const { rows } = await sql<{ direct: PartUpload | null }>`
      select header -> 'direct' as direct from ${this.#table} where id = ${id}`.execute(this.#database.kysely);
    return rows[0]?.direct ?? undefined;
  }

  /** Of two that begin at once the first stays. @returns the one that stays */
  async rememberDirect(id: string, upload: PartUpload): Promise<PartUpload> {
    await this.#execute(sql`
      update ${this.#table} set header = header::jsonb || ${JSON.stringify({ direct: upload })}::jsonb
      where id = ${id} and (header -> 'direct') is null`);
    return (await this.directOf(id)) ?? upload;
  }

  async forgetDirect(id: string): Promise<void> {
    await this.#execute(sql`update ${this.#table} set header = header::jsonb - 'direct' where id = ${id}`);
  }

  /** Those that are over and may still have something in the bucket; at most 100. */
  async settledWithDirect(): Promise<string[]> {
    return this.#ids(sql`
      select id from ${this.#table} where state in ('completed', 'abandoned') and (header -> 'direct') is not null
      limit 100`);
  }

  async #execute(statement: RawBuilder<unknown>): Promise<void> {
    await statement.execute(this.#database.kysely);
  }

  async #ids(statement: RawBuilder<unknown>): Promise<string[]> {
    const { rows } = await statement.execute(this.#database.kysely);
    return (rows as { id: string }[]).map(({ id }) => id);
  }
}

export function inMs(ms: number): RawBuilder<Date> {
  return sql<Date>`now() + ${ms}::double precision * interval '1 millisecond'`;
}
