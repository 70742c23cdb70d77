import { OctomilError } from '@octomil/shared/errors';
import type { Kysely, RawBuilder } from 'kysely';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { JsonObject, RoundKind, Tables } from '../database/tables.js';
import { violatedUnique } from '../database/transact.js';
import { appendEvents, type NewEvent } from './event-feed.js';
import { alreadyOpen, OPEN_FOR_INDEX, type Opening, opened } from './open-round.js';
import type { RoundFacts } from './round-facts.js';
import { DESCRIBE_PATIENCE_RATIO } from './round-machine.js';
import type {
  AcceptedAnswer,
  CancelledAssignment,
  NewAssignment,
  NewCheckpoint,
  NextRound,
  RoundTallyRow,
  UnansweredAssignment,
} from './round-rows.js';

export type * from './round-rows.js';

type Handle = Kysely<Tables>;

/** A common table expression that locks the session while it runs. */
export function lockSession(sessionId: string): RawBuilder<unknown> {
  return sql`locked as (select id from training_sessions where id = ${sessionId} and state = 'running' for no key update)`;
}

/** Ends what is still open of the round in `gate`. */
function cancelOpen(gate: string, code: string, reason: string): RawBuilder<unknown> {
  return sql`cancelled as (update assignments set state = 'cancelled', reason_code = ${code}, reason = ${reason},
    updated_at = now() from ${sql.table(gate)} where assignments.round_id = ${sql.table(gate)}.id
    and assignments.state in ('open', 'accepted') returning assignments.id, assignments.device_id, assignments.attempt)`;
}

const CANCELLED_LIST = sql`(select coalesce(jsonb_agg(jsonb_build_object(
  'id', id, 'deviceId', device_id, 'attempt', attempt)), '[]') from cancelled)`;

function insertRound(sessionId: string, next: NextRound, gate: string): RawBuilder<unknown> {
  return sql`insert into rounds (id, session_id, kind, number, attempt, retries, state, seed, base_checkpoint_id,
      min_updates, target_devices)
    select ${next.id}, ${sessionId}, ${next.kind}, ${next.number}::integer, ${next.attempt}::integer,
      ${next.retries}::integer, 'scheduled', ${next.seed}::bigint, ${next.baseCheckpointId},
      ${next.minUpdates}::integer, ${next.targetDevices}::integer
    from ${sql.table(gate)}`;
}

const PATIENCE_OVER = sql`now() >= r.started_at + (r.deadline_at - r.started_at) * ${DESCRIBE_PATIENCE_RATIO}::float8`;

/** Rounds that a sweep looks at together. */
export const DUE_AT_ONCE = 1_000;

/** A report may have a few MiB. */
const ANSWERS_AT_ONCE = 64;

/** What all answers of a round may have as JSON; as objects they take a few times as much. */
const MAX_ANSWERS_BYTES = 256 * 1024 * 1024;

/**
 * The rounds' rows. Every move is one statement that first locks the session's row and then compares the state it
 * expects. The lock comes first in all of them, so they never deadlock, and events become visible in their order.
 *
 * Under READ COMMITTED a statement that waited for the lock still sees other rows as they were before it waited; only
 * rows that it locks or updates itself are read anew. Hence no statement here decides by a count of other rows.
 */
export class RoundStore {
  readonly #database: Database;
  readonly #maxAnswersBytes: number;

  constructor(database: Database, { maxAnswersBytes = MAX_ANSWERS_BYTES }: { readonly maxAnswersBytes?: number } = {}) {
    this.#database = database;
    this.#maxAnswersBytes = maxAnswersBytes;
  }

  async tally(roundId: string): Promise<RoundTallyRow | undefined> {
    const { rows } = await sql<RoundTallyRow>`
      select r.state, s.state as "sessionState", r.accepted_updates as accepted, r.min_updates as "minUpdates",
        r.target_devices as target, r.retries, coalesce(r.deadline_at <= now(), false) as "deadlinePassed",
        coalesce(${PATIENCE_OVER}, false) as "patienceOver",
        coalesce(r.state = 'aggregating' and r.owner_until <= now(), false) as orphaned,
        t.asked, t.working, t.overdue
      from rounds r join training_sessions s on s.id = r.session_id,
        lateral (select count(*)::integer as asked,
            (count(*) filter (where a.state in ('open', 'accepted')))::integer as working,
            (count(*) filter (where a.state in ('open', 'accepted') and a.lease_until < now()))::integer as overdue
          from assignments a where a.round_id = r.id) t
      where r.id = ${roundId}`.execute(this.#database.kysely);
    return rows[0];
  }

  /**
   * Rounds for which something is due: the safety net for lost wake-ups and dead coordinators. In pages, as rounds that wait
   * for devices are always due and would take the turn of all others.
   *
   * @param afterId the last of the page before
   */
  async due(afterId = ''): Promise<string[]> {
    const { rows } = await sql<{ id: string }>`
      select r.id from rounds r join training_sessions s on s.id = r.session_id
      where r.id > ${afterId} and r.state in ('scheduled', 'selecting', 'collecting', 'aggregating') and s.state = 'running'
        and (s.admission = 'assigned' or r.state <> 'collecting' or r.deadline_at <= now()
          or (r.deadline_at is not null and r.accepted_updates >= r.min_updates)) and (
        r.state in ('scheduled', 'selecting')
        or (r.state = 'aggregating' and r.owner_until <= now())
        or (r.state = 'collecting' and (
          r.deadline_at <= now()
          or (r.kind = 'train' and r.accepted_updates >= r.min_updates)
          or (r.kind = 'describe' and r.accepted_updates >= r.min_updates and ${PATIENCE_OVER})
          or (select count(*) from assignments a where a.round_id = r.id and a.state in ('open', 'accepted')
              and a.lease_until >= now()) + r.accepted_updates < r.target_devices
          or (r.kind <> 'train' and not exists (select 1 from assignments a where a.round_id = r.id
              and a.state in ('open', 'accepted')))
          or exists (select 1 from assignments a where a.round_id = r.id and a.state in ('open', 'accepted')
              and a.lease_until < now()))))
      order by r.id limit ${DUE_AT_ONCE}::integer`.execute(this.#database.kysely);
    return rows.map((row) => row.id);
  }

  /** `scheduled | selecting → collecting`, with its first assignments. @returns false when it had moved on */
  async start(facts: RoundFacts, assignments: readonly NewAssignment[], events: readonly NewEvent[]): Promise<boolean> {
    const { config } = facts;
    const { rows } = await sql<{ started: number }>`
      with ${lockSession(facts.sessionId)},
      moved as (update rounds set state = 'collecting', started_at = now(), reason_code = null, reason = null,
          deadline_at = now() + make_interval(secs => ${config.roundDeadlineSeconds})
        from locked where rounds.id = ${facts.id} and rounds.state in ('scheduled', 'selecting') returning rounds.id),
      asked as (insert into assignments (id, round_id, device_id, attempt, state, lease_until)
        select list.id, moved.id, list.device_id, 1, 'open', now() + make_interval(secs => ${config.noProgressSeconds})
        from moved, unnest(${assignments.map(({ id }) => id)}::text[], ${assignments.map(({ deviceId }) => deviceId)}::text[])
          as list(id, device_id)),
      told as (${appendEvents('moved', facts.sessionId, events)})
      select count(*)::integer as started from moved`.execute(this.#database.kysely);
    return rows[0]?.started === 1;
  }

  /** As `start`, for whoever uploads. @throws `conflict` when another round collects for the same model and base */
  async open(facts: RoundFacts, opening: Opening, events: readonly NewEvent[]): Promise<boolean> {
    try {
      const { rows } = await sql<{ moved: number }>`
        with ${lockSession(facts.sessionId)},
        moved as (update rounds set ${opened(opening)}
          from locked where rounds.id = ${facts.id} and rounds.state in ('scheduled', 'selecting') returning rounds.id),
        told as (${appendEvents('moved', facts.sessionId, events)})
        select count(*)::integer as moved from moved`.execute(this.#database.kysely);
      return rows[0]?.moved === 1;
    } catch (error) {
      throw violatedUnique(error) === OPEN_FOR_INDEX ? alreadyOpen(error) : error;
    }
  }

  /**
   * `scheduled → selecting`, or a new reason for the wait. The deadline runs from the first time.
   *
   * @param withinSeconds until the deadline; default the session's
   */
  async wait(
    facts: RoundFacts,
    reason: string,
    event: NewEvent,
    withinSeconds = facts.config.roundDeadlineSeconds,
  ): Promise<void> {
    await sql`
      with ${lockSession(facts.sessionId)},
      moved as (update rounds set state = 'selecting', reason_code = 'waiting_for_devices', reason = ${reason},
          deadline_at = coalesce(deadline_at, now() + make_interval(secs => ${withinSeconds}))
        from locked where rounds.id = ${facts.id} and rounds.state in ('scheduled', 'selecting')
          and rounds.reason is distinct from ${reason} returning rounds.id),
      told as (${appendEvents('moved', facts.sessionId, [event])})
      select 1 from moved`.execute(this.#database.kysely);
  }

  /** Why a collecting round is not complete, for who looks at it and who follows it; nothing depends on it. */
  async explain(facts: RoundFacts, code: string, reason: string): Promise<void> {
    const data = { ...roundLabel(facts), state: 'collecting', reason_code: code, reason };
    await sql`
      with ${lockSession(facts.sessionId)},
      moved as (update rounds set reason_code = ${code}, reason = ${reason}
        from locked where rounds.id = ${facts.id} and rounds.state = 'collecting'
          and rounds.reason is distinct from ${reason} returning rounds.id),
      told as (${appendEvents('moved', facts.sessionId, [{ type: 'round', data }])})
      select 1 from moved`.execute(this.#database.kysely);
  }

  /**
   * `collecting → aggregating`, owned by `owner`. From here on no update is accepted: exactly those accepted before are
   * aggregated. Other assignments are cancelled.
   *
   * @param force also below the quorum (describe and evaluate decide by other rules)
   * @returns the cancelled assignments, or `undefined` when another had closed it
   */
  async close(
    facts: RoundFacts,
    owner: string,
    ownerLeaseMs: number,
    force: boolean,
  ): Promise<CancelledAssignment[] | undefined> {
    const event: NewEvent = { type: 'round', data: { ...roundLabel(facts), state: 'aggregating' } };
    const { rows } = await sql<{ moved: number; cancelled: CancelledAssignment[] }>`
      with ${lockSession(facts.sessionId)},
      moved as (update rounds set state = 'aggregating', owner = ${owner}, reason_code = null, reason = null,
          owner_until = now() + make_interval(secs => ${ownerLeaseMs / 1000})
        from locked where rounds.id = ${facts.id}
          and (rounds.state = 'collecting' or (${force}::boolean and rounds.state in ('scheduled', 'selecting')))
          and (${force}::boolean or rounds.accepted_updates >= rounds.min_updates) returning rounds.id),
      ${cancelOpen('moved', 'round_closed', 'the round has enough updates')},
      told as (${appendEvents('moved', facts.sessionId, [event])})
      select (select count(*)::integer from moved) as moved, ${CANCELLED_LIST} as cancelled`.execute(
      this.#database.kysely,
    );
    const row = rows[0];
    return row?.moved === 1 ? row.cancelled : undefined;
  }

  /** Takes over an aggregation whose owner has not renewed its claim. */
  async takeOver(roundId: string, owner: string, ownerLeaseMs: number): Promise<boolean> {
    const { rows } = await sql<{ id: string }>`
      update rounds set owner = ${owner}, owner_until = now() + make_interval(secs => ${ownerLeaseMs / 1000})
      where id = ${roundId} and state = 'aggregating' and owner_until <= now() returning id`.execute(
      this.#database.kysely,
    );
    return rows.length === 1;
  }

  /** @returns false when the round is no longer this owner's */
  async renew(roundId: string, owner: string, ownerLeaseMs: number): Promise<boolean> {
    const { rows } = await sql<{ id: string }>`
      update rounds set owner_until = now() + make_interval(secs => ${ownerLeaseMs / 1000})
      where id = ${roundId} and state = 'aggregating' and owner = ${owner} returning id`.execute(this.#database.kysely);
    return rows.length === 1;
  }

  /** Gives up every claim of an earlier process. Only where no other can have one: on the embedded database. */
  async releaseAll(): Promise<void> {
    await sql`update rounds set owner_until = now() where state = 'aggregating' and owner_until > now()`.execute(
      this.#database.kysely,
    );
  }

  /** Lets another coordinator take over at once. */
  async release(roundId: string, owner: string): Promise<void> {
    await sql`update rounds set owner_until = now() where id = ${roundId} and state = 'aggregating' and owner = ${owner}`.execute(
      this.#database.kysely,
    );
  }

  /**
   * Rows of answers that count, in no particular order. Read in pages, as an answer may be large; those of a page are found
   * first, so that others are not measured with each.
   *
   * @throws `too_large` when they are more together than is merged in memory
   */
  async acceptedAnswers(roundId: string): Promise<AcceptedAnswer[]> {
    const answers: AcceptedAnswer[] = [];
    let bytes = 0;
    let afterId = '';
    for (;;) {
      const { rows } = await sql<AcceptedAnswer & { id: string; bytes: number }>`
        select u.id, u.device_id as "deviceId", d.device_identifier as "deviceName", u.object_key as "objectKey", u.sha256,
          u.format, u.weight, u.sample_count as "sampleCount", u.metrics, octet_length(u.metrics::text) as bytes
        from (select id from updates where round_id = ${roundId} and state = 'accepted' and id > ${afterId}
            order by id limit ${ANSWERS_AT_ONCE}::integer) page
          join updates u on u.id = page.id join devices d on d.id = u.device_id
        order by u.id`.execute(this.#database.kysely);
      for (const { id, bytes: ownBytes, ...answer } of rows) {
        bytes += ownBytes;
        answers.push(answer);
        afterId = id;
      }
      if (bytes > this.#maxAnswersBytes) throw tooLarge(this.#maxAnswersBytes);
      if (rows.length < ANSWERS_AT_ONCE) return answers;
    }
  }

  /** What became of the devices that were asked and gave nothing, for the reason of a failed round. */
  async unanswered(roundId: string): Promise<UnansweredAssignment[]> {
    const { rows } = await sql<UnansweredAssignment>`
      select d.device_identifier as "deviceName", a.device_id as "deviceId", a.state, a.reason_code as "reasonCode",
        a.reason
      from assignments a join devices d on d.id = a.device_id
      where a.round_id = ${roundId} and a.state <> 'done' order by d.device_identifier limit 100`.execute(
      this.#database.kysely,
    );
    return rows;
  }

  /**
   * `aggregating → completed`: checkpoint, metrics and the next round in one statement.
   *
   * @returns false when the round is no longer `owner`'s, or the session no longer runs: then nothing happened
   */
  async complete(
    facts: RoundFacts,
    owner: string,
    result: {
      metrics: JsonObject;
      checkpoint?: NewCheckpoint;
      specified?: { hash: string; config: JsonObject };
      next?: NextRound;
    },
    events: readonly NewEvent[],
    handle: Handle = this.#database.kysely,
  ): Promise<boolean> {
    const { checkpoint, next, specified } = result;
    const { rows } = await sql<{ moved: number }>`
      with ${lockSession(facts.sessionId)},
      moved as (update rounds set state = 'completed', finished_at = now(), owner = null, owner_until = null,
          metrics = ${JSON.stringify(result.metrics)}::jsonb, checkpoint_id = ${checkpoint?.id ?? null}
        from locked where rounds.id = ${facts.id} and rounds.state = 'aggregating' and rounds.owner = ${owner}
        returning rounds.id),
      ${checkpoint === undefined ? sql`` : sql`kept as (${insertCheckpoint(facts, checkpoint)}),`}
      ${
        specified === undefined
          ? sql``
          : sql`specified as (update training_sessions
        set feature_spec_hash = ${specified.hash}, config = config || ${JSON.stringify(specified.config)}::jsonb from moved where training_sessions.id = ${facts.sessionId}),`
      }
      ${next === undefined ? sql`` : sql`followed as (${insertRound(facts.sessionId, next, 'moved')}),`}
      told as (${appendEvents('moved', facts.sessionId, events)})
      select count(*)::integer as moved from moved`.execute(handle);
    return rows[0]?.moved === 1;
  }

  /**
   * Ends a round without a result. Either another attempt follows, or the session pauses and says why.
   *
   * @returns the cancelled assignments, or `undefined` when the round had moved on
   */
  async end(
    facts: RoundFacts,
    outcome: {
      state: 'insufficient_updates' | 'failed';
      code: string;
      reason: string;
      /** Only while this coordinator owns the aggregation. */
      owner?: string;
      next?: NextRound;
      session?: 'paused' | 'failed';
    },
    events: readonly NewEvent[],
  ): Promise<CancelledAssignment[] | undefined> {
    const { state, code, reason, owner, next, session } = outcome;
    const { rows } = await sql<{ moved: number; cancelled: CancelledAssignment[] }>`
      with ${lockSession(facts.sessionId)},
      moved as (update rounds set state = ${state}, reason_code = ${code}, reason = ${reason}, finished_at = now(),
          owner = null, owner_until = null
        from locked where rounds.id = ${facts.id} and ${
          owner === undefined
            ? sql`rounds.state in ('scheduled', 'selecting', 'collecting')`
            : sql`rounds.state = 'aggregating' and rounds.owner = ${owner}`
        } returning rounds.id),
      ${cancelOpen('moved', code, reason)},
      ${next === undefined ? sql`` : sql`followed as (${insertRound(facts.sessionId, next, 'moved')}),`}
      ${
        session === undefined
          ? sql``
          : sql`stopped as (update training_sessions set state = ${session}, reason_code = ${code}, reason = ${reason},
              updated_at = now(), finished_at = ${session === 'failed' ? sql`now()` : sql`null`}
            from moved where training_sessions.id = ${facts.sessionId}),`
      }
      told as (${appendEvents('moved', facts.sessionId, events)})
      select (select count(*)::integer from moved) as moved, ${CANCELLED_LIST} as cancelled`.execute(
      this.#database.kysely,
    );
    const row = rows[0];
    return row?.moved === 1 ? row.cancelled : undefined;
  }
}

/** Of an error that ends the session: another attempt would read as much. */
function tooLarge(limitBytes: number): OctomilError {
  return new OctomilError(
    'too_large',
    `the answers of the round are more than ${limitBytes} bytes of JSON together, the most that is merged at a time; ask fewer devices (min_updates, selector) or leave columns out (exclude)`,
    { details: { limit_bytes: limitBytes } },
  );
}

function insertCheckpoint(facts: RoundFacts, checkpoint: NewCheckpoint): RawBuilder<unknown> {
  return sql`insert into checkpoints (id, organization_id, session_id, round_id, base_checkpoint_id, object_key, sha256,
      size_bytes, strategy, strategy_state_key, strategy_state_sha256, lineage)
    select ${checkpoint.id}, ${checkpoint.organizationId}, ${facts.sessionId}, moved.id, ${checkpoint.baseCheckpointId},
      ${checkpoint.objectKey}, ${checkpoint.sha256}, ${checkpoint.sizeBytes}::bigint, ${checkpoint.strategy},
      ${checkpoint.stateKey}, ${checkpoint.stateSha256}, ${JSON.stringify(checkpoint.lineage)}::jsonb
    from moved`;
}

/** The fields that every event about a round carries. */
export function roundLabel(round: {
  sessionId: string;
  id: string;
  kind: RoundKind;
  number: number;
  attempt: number;
}): JsonObject {
  return {
    session_id: round.sessionId,
    round_id: round.id,
    round_number: round.number,
    kind: round.kind,
    attempt: round.attempt,
  };
}
