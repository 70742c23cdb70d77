import { randomUUID } from 'node:crypto';
import type { Clock, Logger } from '@octomil/shared/runtime';
import { type RawBuilder, sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { JsonObject } from '../database/tables.js';
import { EVENTS_CHANNEL } from './assignment-port.js';

export const EVENT_TYPES = [
  'session',
  'round',
  'assignment',
  'update',
  'checkpoint',
  'evaluation',
  'drift',
  'version',
  'end',
] as const;
export type EventType = (typeof EVENT_TYPES)[number];

export interface NewEvent {
  readonly type: EventType;
  readonly data: JsonObject;
}

export interface SessionEvent extends NewEvent {
  readonly id: number;
}

/**
 * Appends events, in their order, if the common table expression `gate` has a row.
 *
 * A reader asks for what is above the last identifier it saw, so identifiers of one session must become visible in
 * ascending order. They do, because every statement that appends holds the lock of the session's row from before it
 * draws an identifier until it has committed: `gate` must depend on a lock of `training_sessions`.
 */
export function appendEvents(gate: string, sessionId: string, events: readonly NewEvent[]): RawBuilder<unknown> {
  return sql`insert into session_events (session_id, type, data)
    select ${sessionId}, event ->> 'type', event -> 'data'
    from (select 1 from ${sql.table(gate)} limit 1) gate,
      jsonb_array_elements(${JSON.stringify(events)}::jsonb) with ordinality as list(event, place)
    order by place`;
}

/** Reads events and wakes who follows a session, in this process and in others. */
export class EventFeed {
  readonly #database: Database;
  readonly #origin = randomUUID();
  readonly #followers = new Map<string, Set<() => void>>();

  constructor(database: Database) {
    this.#database = database;
  }

  /** Calls `wake` when the session may have new events. @returns ends it */
  follow(sessionId: string, wake: () => void): () => void {
    const followers = this.#followers.get(sessionId) ?? new Set();
    followers.add(wake);
    this.#followers.set(sessionId, followers);
    return () => {
      followers.delete(wake);
      if (followers.size === 0 && this.#followers.get(sessionId) === followers) this.#followers.delete(sessionId);
    };
  }

  wake(sessionId: string): void {
    for (const follower of this.#followers.get(sessionId) ?? []) follower();
  }

  /**
   * The next events above an identifier, whether or not that event is (still) there: of an assignment's progress only the
   * newest is kept, and none when the session has been over for a while. All other events stay.
   */
  async read(sessionId: string, afterId: number, limit = 500): Promise<SessionEvent[]> {
    const rows = await this.#database.kysely
      .selectFrom('session_events')
      .select(['id', 'type', 'data'])
      .where('session_id', '=', sessionId)
      .where('id', '>', afterId)
      .orderBy('id')
      .limit(limit)
      .execute();
    return rows.map((row) => ({ id: row.id, type: row.type as EventType, data: row.data }));
  }

  /** What other processes listen for. Names this one, whose followers were woken by the call already. */
  notice(sessionId: string): string {
    return `${sessionId} ${this.#origin}`;
  }

  async start(): Promise<() => Promise<void>> {
    return this.#database.listen(EVENTS_CHANNEL, (notice) => {
      const [sessionId = '', origin] = notice.split(' ');
      if (origin !== this.#origin) this.wake(sessionId);
    });
  }
}

const ANNOUNCE_PAUSE_MS = 10;

/**
 * Sends notifications without making anybody wait: what gathers while one statement is under way goes with the next,
 * each payload once. A lost one costs the time until the next sweep, nothing else.
 */
export class Announcer {
  readonly #database: Database;
  readonly #clock: Clock;
  readonly #logger: Logger;
  #pending = new Map<string, [channel: string, payload: string]>();
  #sending: Promise<void> | undefined;

  constructor(database: Database, clock: Clock, logger: Logger) {
    this.#database = database;
    this.#clock = clock;
    this.#logger = logger;
  }

  announce(channel: string, payload: string): void {
    this.#pending.set(`${channel}\n${payload}`, [channel, payload]);
    this.#sending ??= new Promise<void>((resolve) => setImmediate(resolve)).then(() => this.#send());
  }

  /** Resolves when everything announced so far is out. */
  async settle(): Promise<void> {
    while (this.#sending !== undefined) await this.#sending;
  }

  async #send(): Promise<void> {
    try {
      while (this.#pending.size > 0) {
        const batch = [...this.#pending.values()];
        this.#pending = new Map();
        const channels = batch.map(([channel]) => channel);
        const payloads = batch.map(([, payload]) => payload);
        await sql`select pg_notify(channel, payload)
          from unnest(${channels}::text[], ${payloads}::text[]) as list(channel, payload)`.execute(
          this.#database.kysely,
        );
        // The first goes at once; a round that follows it with many more sends a few.
        await new Promise<void>((resolve) => this.#clock.after(ANNOUNCE_PAUSE_MS, resolve));
      }
    } catch (error) {
      this.#logger.warn({ error }, 'notifications were lost; the sweep makes up for them');
    } finally {
      this.#sending = undefined;
    }
  }
}
