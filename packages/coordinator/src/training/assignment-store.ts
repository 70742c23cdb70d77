import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { AssignmentState, JsonObject, RoundState } from '../database/tables.js';
import type { AssignmentKey, UpdateHeaderFields } from './assignment-port.js';
import { LOST_CONTROL_VARIATE } from './control-variates.js';
import { type CachedAnswer, questionHash } from './describe-cache.js';
import { appendEvents, type NewEvent } from './event-feed.js';
import type { RoundFacts } from './round-facts.js';
import { MAX_ASSIGNMENT_ATTEMPTS } from './round-machine.js';
import { lockSession, type NewAssignment, roundLabel } from './round-store.js';

/** An assignment as it is now, with what decides whether it still counts. */
export interface AssignmentRow {
  readonly id: string;
  readonly roundId: string;
  readonly deviceId: string;
  readonly deviceName: string;
  readonly site: unknown;
  readonly attempt: number;
  readonly state: AssignmentState;
  readonly reasonCode: string | null;
  readonly reason: string | null;
  readonly roundState: RoundState;
  /** Milliseconds until the round's deadline; 0 when past. */
  readonly deadlineMs: number;
}

export interface KnownUpdate {
  readonly state: 'received' | 'accepted' | 'rejected';
  readonly sha256: string;
  readonly reasonCode: string | null;
  readonly reason: string | null;
}

export interface AnswerToStore {
  readonly updateId: string;
  readonly key: AssignmentKey;
  readonly deviceId: string;
  readonly format: UpdateHeaderFields['format'];
  readonly objectKey: string | null;
  readonly sha256: string;
  readonly sizeBytes: number;
  readonly sampleCount: number;
  readonly weight: number;
  readonly metrics: JsonObject;
}

export interface CountedAnswer {
  /** Place among the accepted answers of the round, from 1. */
  readonly nth: number;
  /** None was accepted after it, so far. */
  readonly last: boolean;
}

const COLUMNS = sql`a.id, a.round_id as "roundId", a.device_id as "deviceId", d.device_identifier as "deviceName", d.site,
  a.attempt, a.state, a.reason_code as "reasonCode", a.reason, r.state as "roundState",
  greatest(0, coalesce(extract(epoch from r.deadline_at - now()) * 1000, 0))::float8 as "deadlineMs"`;
const SOURCES = sql`assignments a join rounds r on r.id = a.round_id join devices d on d.id = a.device_id`;

/** The rows of assignments and updates; the rules of `RoundStore` hold here too. */
export class AssignmentStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Everything these devices should be doing now. */
  async openOf(deviceIds: readonly string[]): Promise<AssignmentRow[]> {
    const { rows } = await sql<AssignmentRow>`
      select ${COLUMNS} from ${SOURCES} join training_sessions s on s.id = r.session_id
      where a.device_id = any(${deviceIds}::text[]) and a.state in ('open', 'accepted') and r.state = 'collecting'
        and s.state = 'running'
      order by a.created_at, a.id`.execute(this.#database.kysely);
    return rows;
  }

  async find(ids: readonly string[]): Promise<AssignmentRow[]> {
    const { rows } = await sql<AssignmentRow>`
      select ${COLUMNS} from ${SOURCES} where a.id = any(${ids}::text[])`.execute(this.#database.kysely);
    return rows;
  }

  /**
   * `open → accepted`, for all the devices of a round that answer at the same moment. Takes the session's lock as
   * everything does that moves several assignments, so that the order of their rows leads to no deadlock.
   *
   * @returns for each whether it counts; also for one that is accepted already
   */
  async accept(facts: RoundFacts, accepted: readonly { deviceId: string; key: AssignmentKey }[]): Promise<boolean[]> {
    const ids = accepted.map(({ key }) => key.assignmentId);
    const { rows } = await sql<{ id: string; deviceId: string; attempt: number }>`
      with locked as (select id from training_sessions where id = ${facts.sessionId} for no key update)
      update assignments set state = 'accepted', updated_at = now(),
        lease_until = now() + make_interval(secs => ${facts.config.noProgressSeconds})
      from locked, rounds r, unnest(${ids}::text[], ${accepted.map(({ deviceId }) => deviceId)}::text[],
          ${accepted.map(({ key }) => key.attempt)}::bigint[]) as list(id, device_id, attempt)
      where r.id = ${facts.id} and r.state = 'collecting' and assignments.round_id = r.id
        and assignments.id = list.id and assignments.device_id = list.device_id
        and assignments.attempt = list.attempt and assignments.state in ('open', 'accepted')
      returning assignments.id, assignments.device_id as "deviceId", assignments.attempt`.execute(
      this.#database.kysely,
    );
    const moved = new Set(rows.map(({ id, deviceId, attempt }) => `${id} ${deviceId} ${attempt}`));
    return accepted.map(({ deviceId, key }) => moved.has(`${key.assignmentId} ${deviceId} ${key.attempt}`));
  }

  /**
   * Renews the lease and tells the session's followers.
   *
   * @param replaced events of its earlier progress, which go: of many devices that train for long they would be most rows
   * @returns the event's identifier; undefined when the assignment does not count (any more)
   */
  async progress(
    facts: RoundFacts,
    deviceId: string,
    key: AssignmentKey,
    step: { phase: string; completed: number; total: number },
    event: NewEvent,
    replaced: readonly number[],
  ): Promise<number | undefined> {
    const { rows } = await sql<{ id: number }>`
      with ${lockSession(facts.sessionId)},
      renewed as (update assignments set state = 'accepted', phase = ${step.phase}, completed = ${step.completed}::bigint,
          total = ${step.total}::bigint, updated_at = now(),
          lease_until = now() + make_interval(secs => ${facts.config.noProgressSeconds})
        from locked, rounds r where assignments.id = ${key.assignmentId} and assignments.device_id = ${deviceId}
          and assignments.attempt = ${key.attempt}::bigint and assignments.state in ('open', 'accepted')
          and r.id = assignments.round_id and r.state = 'collecting' returning assignments.id),
      told as (${appendEvents('renewed', facts.sessionId, [event])} returning id),
      gone as (delete from session_events using told where session_events.id = any(${replaced}::bigint[]))
      select id from told`.execute(this.#database.kysely);
    return rows[0]?.id;
  }

  /** `open | accepted → refused | failed`, and the rejected update that led to it, if one did. */
  async finish(
    facts: RoundFacts,
    deviceId: string,
    key: AssignmentKey,
    outcome: { state: 'refused' | 'failed'; code: string; reason: string; rejected?: AnswerToStore },
    events: readonly NewEvent[],
  ): Promise<boolean> {
    const { rejected } = outcome;
    const { rows } = await sql<{ moved: number }>`
      with ${lockSession(facts.sessionId)},
      round as (select rounds.id from rounds, locked where rounds.id = ${facts.id} and rounds.state = 'collecting'
        for no key update of rounds),
      moved as (update assignments set state = ${outcome.state}, reason_code = ${outcome.code},
          reason = ${outcome.reason}, updated_at = now()
        from round where assignments.id = ${key.assignmentId} and assignments.device_id = ${deviceId}
          and assignments.attempt = ${key.attempt}::bigint and assignments.state in ('open', 'accepted')
        returning assignments.id),
      ${
        rejected === undefined
          ? sql``
          : sql`kept as (insert into updates (id, round_id, device_id, assignment_id, state, format, object_key, sha256,
              size_bytes, sample_count, weight, metrics, reason_code, reason)
            select ${rejected.updateId}, ${facts.id}, ${deviceId}, moved.id, 'rejected', ${rejected.format}, null,
              ${rejected.sha256}, ${rejected.sizeBytes}::bigint, ${rejected.sampleCount}::bigint, 0,
              ${JSON.stringify(rejected.metrics)}::jsonb, ${outcome.code}, ${outcome.reason} from moved),`
      }
      told as (${appendEvents('moved', facts.sessionId, events)})
      select count(*)::integer as moved from moved`.execute(this.#database.kysely);
    return rows[0]?.moved === 1;
  }

  /**
   * Counts answers: assignments, round and updates in one statement. The round's counter is read anew under its lock, so
   * of several statements at once exactly one sees the quorum reached.
   *
   * @returns for each its place among the accepted answers of the round; `undefined` for one that does not count (any
   * more), or that came twice
   */
  async countAnswers(
    facts: RoundFacts,
    answers: readonly { answer: AnswerToStore; event: NewEvent }[],
  ): Promise<(CountedAnswer | undefined)[]> {
    const seen = new Set<string>();
    const items = answers.flatMap(({ answer: { key, ...answer }, event }, place) => {
      if (seen.has(key.assignmentId)) return [];
      seen.add(key.assignmentId);
      return [{ place, ...key, ...answer, event }];
    });
    const { rows } = await sql<{ place: number; nth: number; accepted: number }>`
      with ${lockSession(facts.sessionId)},
      round as (select rounds.id from rounds, locked where rounds.id = ${facts.id} and rounds.state = 'collecting'
        for no key update of rounds),
      list as (select * from jsonb_to_recordset(${JSON.stringify(items)}::jsonb) as item(place integer,
        "assignmentId" text, attempt bigint, "updateId" text, "deviceId" text, format text, "objectKey" text,
        sha256 text, "sizeBytes" bigint, "sampleCount" bigint, weight float8, metrics jsonb, event jsonb)),
      mine as (select assignments.id, list.* from list, assignments, round
        where assignments.id = list."assignmentId" and assignments.round_id = round.id
          and assignments.device_id = list."deviceId" and assignments.attempt = list.attempt
          and assignments.state in ('open', 'accepted')
        order by list.place for no key update of assignments),
      kept as (insert into updates (id, round_id, device_id, assignment_id, state, format, object_key, sha256, size_bytes,
          sample_count, weight, metrics)
        select "updateId", ${facts.id}, "deviceId", mine.id, 'accepted', format, "objectKey", sha256, "sizeBytes",
          "sampleCount", weight, metrics from mine),
      ended as (update assignments set state = 'done', phase = 'done', updated_at = now()
        from mine where assignments.id = mine.id),
      counted as (update rounds set accepted_updates = accepted_updates + news.count
        from (select count(*)::integer as count from mine) news
        where rounds.id = ${facts.id} and news.count > 0
        returning rounds.accepted_updates as accepted, news.count),
      numbered as (select place, event, accepted,
          (accepted - count + row_number() over (order by place))::integer as nth from mine, counted),
      told as (insert into session_events (session_id, type, data)
        select ${facts.sessionId}, event ->> 'type', (event -> 'data') || jsonb_build_object('accepted', nth)
        from numbered order by place)
      select place, nth, accepted from numbered`.execute(this.#database.kysely);
    const results: (CountedAnswer | undefined)[] = answers.map(() => undefined);
    for (const { place, nth, accepted } of rows) results[place] = { nth, last: nth === accepted };
    return results;
  }

  /**
   * Digest of the device's last update that a completed round of the session was made of, since the control variates last
   * started over: what the server's control variate counts on.
   */
  async lastFolded(sessionId: string, deviceId: string): Promise<string | undefined> {
    const { rows } = await sql<{ sha256: string }>`
      select u.sha256 from updates u join rounds r on r.id = u.round_id
      where r.session_id = ${sessionId} and u.device_id = ${deviceId} and u.state = 'accepted'
        and r.kind = 'train' and r.state = 'completed'
        and r.number > coalesce((select max(restarted.number) from rounds restarted
          where restarted.session_id = ${sessionId} and restarted.state = 'completed'
            and restarted.metrics -> 'control_variates' ->> 'restarted' = 'true'), 0)
      order by r.number desc limit 1`.execute(this.#database.kysely);
    return rows[0]?.sha256;
  }

  /** How many completed rounds of the session the device's lost control variate has made start over. */
  async losses(sessionId: string, deviceId: string): Promise<number> {
    const { rows } = await sql<{ count: number }>`
      select count(*)::integer as count from updates u join rounds r on r.id = u.round_id
      where r.session_id = ${sessionId} and u.device_id = ${deviceId} and u.state = 'accepted'
        and r.kind = 'train' and r.state = 'completed'
        and u.metrics ->> ${LOST_CONTROL_VARIATE}::text = 'true'`.execute(this.#database.kysely);
    return rows[0]?.count ?? 0;
  }

  /** What is known of updates of this assignment, newest first. */
  async updatesOf(assignmentId: string): Promise<KnownUpdate[]> {
    const rows = await this.#database.kysely
      .selectFrom('updates')
      .select(['state', 'sha256', 'reason_code as reasonCode', 'reason'])
      .where('assignment_id', '=', assignmentId)
      // By its round, which has an index.
      .where('round_id', '=', (of) => of.selectFrom('assignments').select('round_id').where('id', '=', assignmentId))
      .orderBy('created_at', 'desc')
      .execute();
    return rows;
  }

  /** Ends assignments of a round that made no progress for too long. @returns their devices */
  async expire(facts: RoundFacts): Promise<string[]> {
    const reason = `no bytes moved and no step was trained for ${facts.config.noProgressSeconds} s`;
    const { rows } = await sql<{ device_id: string }>`
      with ${lockSession(facts.sessionId)},
      moved as (update assignments set state = 'expired', reason_code = 'no_progress', reason = ${reason},
          updated_at = now()
        from locked where assignments.round_id = ${facts.id} and assignments.state in ('open', 'accepted')
          and assignments.lease_until < now() returning assignments.device_id),
      told as (insert into session_events (session_id, type, data)
        select ${facts.sessionId}, 'assignment', ${JSON.stringify({
          session_id: facts.sessionId,
          round_id: facts.id,
          round_number: facts.number,
          state: 'expired',
          reason,
        })}::jsonb || jsonb_build_object('device_id', d.id, 'device', d.device_identifier)
        from moved join devices d on d.id = moved.device_id)
      select device_id from moved`.execute(this.#database.kysely);
    return rows.map((row) => row.device_id);
  }

  /** Asks further devices in a collecting round; one that was asked before gets the next attempt number. @returns those asked */
  async topUp(facts: RoundFacts, assignments: readonly NewAssignment[]): Promise<string[]> {
    const event: JsonObject = { ...roundLabel(facts), state: 'open', reason: 'replacement' };
    const { rows } = await sql<{ device_id: string }>`
      with ${lockSession(facts.sessionId)},
      round as (select rounds.id from rounds, locked where rounds.id = ${facts.id} and rounds.state = 'collecting'
        for no key update of rounds),
      asked as (insert into assignments (id, round_id, device_id, attempt, state, lease_until)
        select list.id, round.id, list.device_id, 1, 'open',
          now() + make_interval(secs => ${facts.config.noProgressSeconds})
        from round, unnest(${assignments.map(({ id }) => id)}::text[], ${assignments.map(({ deviceId }) => deviceId)}::text[])
          as list(id, device_id)
        on conflict (round_id, device_id) do update set attempt = assignments.attempt + 1, state = 'open',
          lease_until = excluded.lease_until, reason_code = null, reason = null, phase = null, completed = 0, total = 0,
          updated_at = now()
          where assignments.state = 'expired' and assignments.attempt < ${MAX_ASSIGNMENT_ATTEMPTS}
        returning device_id),
      told as (insert into session_events (session_id, type, data)
        select ${facts.sessionId}, 'assignment',
          ${JSON.stringify(event)}::jsonb || jsonb_build_object('device_id', d.id, 'device', d.device_identifier)
        from asked join devices d on d.id = asked.device_id)
      select device_id from asked`.execute(this.#database.kysely);
    return rows.map((row) => row.device_id);
  }

  /**
   * Answers that a describe round has already, from its cache: counted at once, nobody is asked. One that was replaced since
   * it was found does not count, and its device is asked.
   */
  async countCached(facts: RoundFacts, cached: readonly CachedAnswer[]): Promise<void> {
    await sql`
      with ${lockSession(facts.sessionId)},
      round as (select rounds.id from rounds, locked where rounds.id = ${facts.id} and rounds.state = 'collecting'
        for no key update of rounds),
      list as (select item.*, kept.statistics from jsonb_to_recordset(${JSON.stringify(cached)}::jsonb) as item(
          "assignmentId" text, "updateId" text, "deviceId" text, "dataSet" text, digest text)
        join site_statistics kept on kept.device_id = item."deviceId" and kept.data_set = item."dataSet"
          and kept.digest = item.digest and kept.question_hash = ${questionHash(facts.config)}),
      asked as (insert into assignments (id, round_id, device_id, attempt, state, phase, lease_until)
        select list."assignmentId", round.id, list."deviceId", 1, 'done', 'cached', now() from round, list
        on conflict (round_id, device_id) do nothing returning id),
      kept as (insert into updates (id, round_id, device_id, assignment_id, state, format, object_key, sha256, size_bytes,
          sample_count, weight, metrics)
        select list."updateId", ${facts.id}, list."deviceId", asked.id, 'accepted', 'weights', null, list.digest, 0, 0, 0,
          jsonb_build_object('report', list.statistics)
        from asked join list on list."assignmentId" = asked.id returning id)
      update rounds set accepted_updates = accepted_updates + (select count(*) from kept)
      where id = ${facts.id} and exists (select 1 from kept)`.execute(this.#database.kysely);
  }
}
