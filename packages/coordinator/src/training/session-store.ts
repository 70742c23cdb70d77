import { OctomilError } from '@octomil/shared/errors';
import { type Kysely, sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { JsonObject, RoundKind, RoundState, SessionState, Tables } from '../database/tables.js';
import { violatedUnique } from '../database/transact.js';
import type { NewEvent } from './event-feed.js';
import { alreadyOpen, OPEN_FOR_INDEX, type Opening, openRound } from './open-round.js';
import type { ResolvedConfig } from './round-facts.js';
import { ROUND_IN_PROGRESS } from './round-machine.js';
import type { NextRound } from './round-store.js';

type Handle = Kysely<Tables>;

export interface NewSession {
  readonly id: string;
  readonly organizationId: string;
  readonly federationId: string;
  readonly modelId: string;
  readonly config: ResolvedConfig;
  readonly baseVersionId: string | null;
  readonly featureSpecHash: string | null;
  readonly createdBy: string;
}

/** The session's row under its lock, and its latest round. */
export interface LockedSession {
  readonly id: string;
  readonly state: SessionState;
  readonly config: ResolvedConfig;
  readonly reason: string | null;
  readonly round: LatestRound | undefined;
}

export interface LatestRound {
  readonly id: string;
  readonly kind: RoundKind;
  readonly number: number;
  readonly attempt: number;
  readonly state: RoundState;
  readonly seed: number;
  readonly baseCheckpointId: string | null;
  readonly minUpdates: number;
  readonly targetDevices: number;
}

export class SessionStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** @throws `conflict` when another running session makes the same new version */
  async create(session: NewSession, round: NextRound, events: readonly NewEvent[], opening?: Opening): Promise<void> {
    try {
      await this.#database.transact(async (transaction) => {
        await transaction
          .insertInto('training_sessions')
          .values({
            id: session.id,
            organization_id: session.organizationId,
            federation_id: session.federationId,
            model_id: session.modelId,
            state: 'running',
            admission: session.config.admission ?? 'assigned',
            config: JSON.stringify(session.config),
            base_version_id: session.baseVersionId,
            new_version: session.config.newVersion,
            result_version_id: null,
            feature_spec_hash: session.featureSpecHash,
            reason_code: null,
            reason: null,
            created_by: session.createdBy,
          })
          .execute();
        await insertRound(transaction, session.id, round);
        if (opening !== undefined) await openRound(transaction, round.id, opening);
        await insertEvents(transaction, session.id, events);
      });
    } catch (error) {
      const violated = violatedUnique(error);
      if (violated === undefined) throw error;
      if (violated === OPEN_FOR_INDEX) throw alreadyOpen(error);
      throw new OctomilError(
        'conflict',
        `another training session that is not over makes version ${session.config.newVersion} of this model; choose another new_version or cancel it`,
        { cause: error },
      );
    }
  }

  /** Runs `change` with the session's row locked, so that nothing else happens to it meanwhile. @throws `not_found` */
  async locked<T>(sessionId: string, change: (session: LockedSession, transaction: Handle) => Promise<T>): Promise<T> {
    return this.#database.transact(async (transaction) => {
      const { rows } = await sql<{ id: string; state: SessionState; config: ResolvedConfig; reason: string | null }>`
        select id, state, config, reason from training_sessions where id = ${sessionId} for no key update`.execute(
        transaction,
      );
      const session = rows[0];
      if (session === undefined) throw sessionNotFound(sessionId);
      const rounds = await sql<LatestRound>`
        select id, kind, number, attempt, state, seed, base_checkpoint_id as "baseCheckpointId",
          min_updates as "minUpdates", target_devices as "targetDevices"
        from rounds where session_id = ${sessionId} order by number desc, attempt desc limit 1`.execute(transaction);
      return change({ ...session, round: rounds.rows[0] }, transaction);
    });
  }

  async findSessions(filter: {
    organizationId: string;
    /** Also those of others, in federations that the organization owns or has joined. */
    orMember?: boolean;
    id?: string;
    modelId?: string;
    federationId?: string;
    limit?: number;
    offset?: number;
  }): Promise<SessionRow[]> {
    const { rows } = await sql<SessionRow>`
      select s.id, s.organization_id as "organizationId", s.state, s.model_id as "modelId", m.name as "modelName", s.federation_id as "federationId",
        f.name as "federationName", s.config, s.base_version_id as "baseVersionId", base.version as "baseVersion",
        s.new_version as "newVersion", s.result_version_id as "resultVersionId", result.version as "resultVersion",
        result.metrics as "resultMetrics", s.feature_spec_hash as "featureSpecHash", s.reason_code as "reasonCode",
        s.reason, s.created_by as "createdBy", s.created_at as "createdAt", s.updated_at as "updatedAt",
        s.finished_at as "finishedAt", to_jsonb(r.*) as round
      from training_sessions s
      join models m on m.id = s.model_id
      join federations f on f.id = s.federation_id
      left join versions base on base.id = s.base_version_id
      left join versions result on result.id = s.result_version_id
      left join lateral (select rounds.* from rounds where rounds.session_id = s.id
        order by number desc, attempt desc limit 1) r on true
      where (s.organization_id = ${filter.organizationId}${
        filter.orMember === true
          ? sql` or s.federation_id in (select f.id from federations f where f.organization_id = ${filter.organizationId}
                union all select fm.federation_id from federation_members fm
                where fm.organization_id = ${filter.organizationId} and fm.status = 'active')`
          : sql``
      })
        ${filter.id === undefined ? sql`` : sql`and s.id = ${filter.id}`}
        ${filter.modelId === undefined ? sql`` : sql`and s.model_id = ${filter.modelId}`}
        ${filter.federationId === undefined ? sql`` : sql`and s.federation_id = ${filter.federationId}`}
      order by s.created_at desc, s.id limit ${filter.limit ?? 100}::integer offset ${filter.offset ?? 0}::integer`.execute(
      this.#database.kysely,
    );
    return rows;
  }

  /** Which session a round belongs to. */
  async sessionOfRound(roundId: string): Promise<string | undefined> {
    const row = await this.#database.kysely
      .selectFrom('rounds')
      .select('session_id')
      .where('id', '=', roundId)
      .executeTakeFirst();
    return row?.session_id;
  }

  async rounds(sessionId: string): Promise<RoundRow[]> {
    const { rows } = await sql<RoundRow>`
      select r.*, c.sha256, c.size_bytes
      from rounds r left join checkpoints c on c.id = r.checkpoint_id
      where r.session_id = ${sessionId} order by r.number, r.attempt`.execute(this.#database.kysely);
    return rows;
  }

  /** The round, and those that may have evaluated the checkpoint it made: the attempts of the one after it. */
  async roundAndNext(roundId: string): Promise<RoundRow[]> {
    const { rows } = await sql<RoundRow>`
      select r.*, c.sha256, c.size_bytes
      from rounds asked join rounds r on r.session_id = asked.session_id and r.number between asked.number and asked.number + 1
      left join checkpoints c on c.id = r.checkpoint_id
      where asked.id = ${roundId} and (r.id = asked.id or (r.state = 'completed' and r.number > asked.number))
      order by r.number, r.attempt`.execute(this.#database.kysely);
    return rows;
  }

  async assignments(roundId: string): Promise<AssignmentListRow[]> {
    const { rows } = await sql<AssignmentListRow>`
      select a.id, a.device_id as "deviceId", d.organization_id as "organizationId", d.device_identifier as "deviceName", a.attempt, a.state, a.phase,
        a.completed, a.total, a.lease_until as "leaseUntil", a.reason_code as "reasonCode", a.reason,
        coalesce(d.lease_until > now(), false) as online, u.sample_count as "sampleCount", u.weight, u.sha256,
        u.size_bytes as "sizeBytes"
      from assignments a join devices d on d.id = a.device_id
      left join updates u on u.round_id = a.round_id and u.assignment_id = a.id and u.state = 'accepted'
      where a.round_id = ${roundId} order by d.device_identifier, a.id limit 1000`.execute(this.#database.kysely);
    return rows;
  }
}

export interface SessionRow {
  readonly id: string;
  /** Of the session, which may be another member of the federation than the one that asks. */
  readonly organizationId: string;
  readonly state: SessionState;
  readonly modelId: string;
  readonly modelName: string;
  readonly federationId: string;
  readonly federationName: string;
  readonly config: ResolvedConfig;
  readonly baseVersionId: string | null;
  readonly baseVersion: string | null;
  readonly newVersion: string | null;
  readonly resultVersionId: string | null;
  readonly resultVersion: string | null;
  readonly resultMetrics: JsonObject | null;
  readonly featureSpecHash: string | null;
  readonly reasonCode: string | null;
  readonly reason: string | null;
  readonly createdBy: string;
  readonly createdAt: Date;
  readonly updatedAt: Date;
  readonly finishedAt: Date | null;
  /** As JSON, so its times are texts. */
  readonly round: Omit<RoundRow, 'sha256' | 'size_bytes'> | null;
}

export interface RoundRow {
  readonly id: string;
  readonly session_id: string;
  readonly kind: RoundKind;
  readonly number: number;
  readonly attempt: number;
  readonly state: RoundState;
  readonly min_updates: number;
  readonly target_devices: number;
  readonly accepted_updates: number;
  readonly retries: number;
  readonly base_checkpoint_id: string | null;
  readonly checkpoint_id: string | null;
  readonly deadline_at: Date | string | null;
  readonly owner: string | null;
  readonly owner_until: Date | string | null;
  readonly reason_code: string | null;
  readonly reason: string | null;
  readonly metrics: JsonObject;
  readonly created_at: Date | string;
  readonly started_at: Date | string | null;
  readonly finished_at: Date | string | null;
  readonly sha256: string | null;
  readonly size_bytes: number | null;
}

export interface AssignmentListRow {
  readonly id: string;
  readonly deviceId: string;
  readonly organizationId: string;
  readonly deviceName: string;
  readonly attempt: number;
  readonly state: string;
  readonly phase: string | null;
  readonly completed: number;
  readonly total: number;
  readonly leaseUntil: Date;
  readonly reasonCode: string | null;
  readonly reason: string | null;
  readonly online: boolean;
  readonly sampleCount: number | null;
  readonly weight: number | null;
  readonly sha256: string | null;
  readonly sizeBytes: number | null;
}

export function sessionNotFound(id: string): OctomilError {
  return new OctomilError('not_found', `there is no training session "${id.slice(0, 100)}"`);
}

export async function setSession(
  transaction: Handle,
  sessionId: string,
  state: SessionState,
  why: { code: string | null; reason: string | null },
): Promise<void> {
  await sql`update training_sessions set state = ${state}, reason_code = ${why.code}, reason = ${why.reason},
    updated_at = now(), finished_at = ${state === 'cancelled' ? sql`now()` : sql`null`}
    where id = ${sessionId}`.execute(transaction);
}

/** Cancels the round if it is in progress, and what is open of it. @returns devices to tell, or `undefined` if it was not */
export async function cancelRound(
  transaction: Handle,
  roundId: string,
  code: string,
  reason: string,
): Promise<string[] | undefined> {
  const moved = await transaction
    .updateTable('rounds')
    .set({
      state: 'cancelled',
      reason_code: code,
      reason,
      owner: null,
      owner_until: null,
      finished_at: sql<Date>`now()`,
    })
    .where('id', '=', roundId)
    .where('state', 'in', [...ROUND_IN_PROGRESS])
    .returning('id')
    .execute();
  if (moved.length === 0) return undefined;
  const { rows: cancelled } = await sql<{ device_id: string }>`
    update assignments set state = 'cancelled', reason_code = ${code}, reason = ${reason}, updated_at = now()
    where round_id = ${roundId} and state in ('open', 'accepted') returning device_id`.execute(transaction);
  return cancelled.map((row) => row.device_id);
}

export async function insertRound(transaction: Handle, sessionId: string, round: NextRound): Promise<void> {
  await transaction
    .insertInto('rounds')
    .values({
      id: round.id,
      session_id: sessionId,
      kind: round.kind,
      number: round.number,
      attempt: round.attempt,
      retries: round.retries,
      state: 'scheduled',
      seed: round.seed,
      base_checkpoint_id: round.baseCheckpointId,
      checkpoint_id: null,
      min_updates: round.minUpdates,
      target_devices: round.targetDevices,
      reason_code: null,
      reason: null,
      metrics: '{}',
      owner: null,
    })
    .execute();
}

/** The session's row must be locked by this transaction: see `appendEvents`. */
export async function insertEvents(transaction: Handle, sessionId: string, events: readonly NewEvent[]): Promise<void> {
  if (events.length === 0) return;
  await transaction
    .insertInto('session_events')
    .values(events.map(({ type, data }) => ({ session_id: sessionId, type, data: JSON.stringify(data) })))
    .execute();
}
