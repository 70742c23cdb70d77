import type { Clock, Logger } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import { TRAINING_PREFIXES } from './object-keys.js';

export interface RetentionSettings {
  /**
   * Updates of a finished round, and the events of progress of a finished session, are kept so long. Default 24; 0 deletes
   * them at the next run.
   */
  readonly keepUpdatesHours?: number;
  /** An object that no row names is deleted when it is older than this. Default 24. */
  readonly orphanGraceHours?: number;
  /** How often this runs. Default 24. */
  readonly everyHours?: number;
}

const HOUR_MS = 3_600_000;
/** Each batch reads the tables that may name an object once, whatever its size. */
const KEYS_AT_ONCE = 5_000;

const EVENTS_AT_ONCE = 5_000;
/** Of an event `e`, as the index `session_events_of_progress` has it. */
const IS_PROGRESS = sql`e.type = 'assignment' and e.data ->> 'state' = 'accepted'`;

/**
 * Deletes what nobody needs: updates of finished rounds, progress of finished sessions, objects without a row, tickets that
 * were never used up.
 */
export class Retention {
  readonly #on: { database: Database; objects: ObjectStore; logger: Logger; clock: Clock; settings: RetentionSettings };
  #nextAtMs: number;

  constructor(dependencies: {
    database: Database;
    objects: ObjectStore;
    logger: Logger;
    clock: Clock;
    settings: RetentionSettings;
  }) {
    this.#on = dependencies;
    // Not at once: a process that restarts often must not sweep each time.
    this.#nextAtMs = dependencies.clock.now() + HOUR_MS;
  }

  /** @param signal ends it early; the next run goes on */
  async runIfDue(signal?: AbortSignal): Promise<void> {
    const { clock, settings } = this.#on;
    if (clock.now() < this.#nextAtMs) return;
    this.#nextAtMs = clock.now() + (settings.everyHours ?? 24) * HOUR_MS;
    await this.run(signal);
  }

  /** Safe to repeat and to run on several coordinators at once. */
  async run(signal?: AbortSignal): Promise<{ updates: number; events: number; orphans: number; tickets: number }> {
    const result = {
      updates: await this.#deleteUpdates(signal),
      events: await this.#deleteProgress(signal),
      orphans: await this.#sweepOrphans(signal),
      tickets: await this.#abandonTickets(),
    };
    this.#on.logger.info(result, 'deleted what is no longer needed');
    return result;
  }

  get #keepSeconds(): number {
    return (this.#on.settings.keepUpdatesHours ?? 24) * (HOUR_MS / 1_000);
  }

  async #deleteUpdates(signal: AbortSignal | undefined): Promise<number> {
    const { database, objects } = this.#on;
    const keepSeconds = this.#keepSeconds;
    let deleted = 0;
    // In the order of an index, so that rows of rounds long past are read once and not for every batch.
    let afterId = '';
    for (;;) {
      const { rows } = await sql<{ id: string; object_key: string }>`
        select u.id, u.object_key from updates u join rounds r on r.id = u.round_id
        where u.id > ${afterId} and u.object_key is not null and r.finished_at < now() - make_interval(secs => ${keepSeconds}::float8)
          and r.state in ('completed', 'insufficient_updates', 'failed', 'cancelled')
        order by u.id limit 500`.execute(database.kysely);
      const last = rows.at(-1);
      if (last === undefined) return deleted;
      afterId = last.id;
      const gone: string[] = [];
      for (const row of rows) {
        if (signal?.aborted === true) break;
        await objects.delete(row.object_key);
        gone.push(row.id);
      }
      await sql`update updates set object_key = null where id = any(${gone}::text[])`.execute(database.kysely);
      deleted += gone.length;
      if (gone.length < rows.length) return deleted;
    }
  }

  /** Only progress says nothing any more when it is over; all else stays the session's history. */
  async #deleteProgress(signal: AbortSignal | undefined): Promise<number> {
    let deleted = 0;
    while (signal?.aborted !== true) {
      const { rows } = await sql<{ count: number }>`
        with old as (select e.id from session_events e join training_sessions s on s.id = e.session_id
            where ${IS_PROGRESS} and s.finished_at < now() - make_interval(secs => ${this.#keepSeconds}::float8)
            limit ${EVENTS_AT_ONCE}::integer),
          gone as (delete from session_events using old where session_events.id = old.id returning 1)
        select count(*)::integer as count from gone`.execute(this.#on.database.kysely);
      const count = rows[0]?.count ?? 0;
      deleted += count;
      if (count < EVENTS_AT_ONCE) break;
    }
    return deleted;
  }

  /** Mark and sweep. An object is stored before its row, so only old ones are candidates. */
  async #sweepOrphans(signal: AbortSignal | undefined): Promise<number> {
    const { objects, clock, settings } = this.#on;
    const beforeMs = clock.now() - (settings.orphanGraceHours ?? 24) * HOUR_MS;
    let deleted = 0;
    for (const prefix of TRAINING_PREFIXES) {
      let candidates: string[] = [];
      for await (const { key, modifiedAtMs } of objects.list(prefix)) {
        if (signal?.aborted === true) return deleted;
        if (modifiedAtMs < beforeMs) candidates.push(key);
        if (candidates.length < KEYS_AT_ONCE) continue;
        deleted += await this.#deleteUnnamed(candidates, signal);
        candidates = [];
      }
      deleted += await this.#deleteUnnamed(candidates, signal);
    }
    return deleted;
  }

  async #deleteUnnamed(keys: readonly string[], signal: AbortSignal | undefined): Promise<number> {
    if (keys.length === 0) return 0;
    const { database, objects } = this.#on;
    const { rows } = await sql<{ key: string }>`
      select unnest(${keys}::text[]) as key
      except select object_key from checkpoints where object_key = any(${keys}::text[])
      except select strategy_state_key from checkpoints where strategy_state_key = any(${keys}::text[])
      except select object_key from updates where object_key = any(${keys}::text[])
      except select object_key from personalized_models where object_key = any(${keys}::text[])
      except select object_key from artifacts where object_key = any(${keys}::text[])`.execute(database.kysely);
    let deleted = 0;
    for (const { key } of rows) {
      if (signal?.aborted === true) break;
      await objects.delete(key);
      deleted++;
    }
    return deleted;
  }

  /** Their parts are deleted by the transfers room, which looks for tickets that are not open. */
  async #abandonTickets(): Promise<number> {
    const { rows } = await sql<{ id: string }>`
      update upload_tickets set state = 'abandoned' where state = 'open' and expires_at < now() returning id`.execute(
      this.#on.database.kysely,
    );
    return rows.length;
  }
}
