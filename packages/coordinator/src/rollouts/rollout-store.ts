import { OctomilError } from '@octomil/shared/errors';
import { type Kysely, type RawBuilder, type Selectable, sql } from 'kysely';
import type { Database } from '../database/database.js';
import { GatheredReads } from '../database/gathered-reads.js';
import type { RolloutHistoryTable, RolloutState, RolloutsTable, Tables } from '../database/tables.js';
import { violatedUnique } from '../database/transact.js';
import { canMoveRollout, UNSETTLED_STATES } from './rollout-machine.js';

export type Rollout = Selectable<RolloutsTable> & {
  readonly version: string;
  readonly previous_version: string | null;
};
export type HistoryEntry = Selectable<RolloutHistoryTable>;

/** One move of a rollout, and who made it. */
export interface Move {
  readonly to: RolloutState;
  /** The new share; a new stage begins with it. Unchanged when absent. */
  readonly shareRatio?: number;
  /** `key:<id>` or `coordinator`. */
  readonly actor: string;
  readonly reasonCode?: string | null;
  readonly reason?: string | null;
}

export interface NewRollout {
  readonly organizationId: string;
  readonly modelId: string;
  readonly versionId: string;
  readonly previousVersionId: string | null;
  readonly initialRatio: number;
  readonly targetRatio: number;
  readonly incrementRatio: number;
  readonly advanceEverySeconds: number | null;
  readonly placementOffset: number;
  readonly selector: object;
  readonly gates: object;
  readonly actor: string;
  readonly reason: string | null;
}

/** Statements about rollouts. Whoever moves one names the state and stage it was in; times are the database's. */
export class RolloutStore {
  readonly #database: Database;
  readonly #byId: GatheredReads<number, Rollout>;

  constructor(database: Database) {
    this.#database = database;
    this.#byId = new GatheredReads(String, async (ids) => {
      const rows = await this.#select().where(sql<boolean>`rollouts.id = any(${ids}::bigint[])`).execute();
      return new Map(rows.map((row) => [String(row.id), row]));
    });
  }

  #select(within: Kysely<Tables> = this.#database.kysely) {
    return within
      .selectFrom('rollouts')
      .innerJoin('versions', 'versions.id', 'rollouts.version_id')
      .leftJoin('versions as previous', 'previous.id', 'rollouts.previous_version_id')
      .selectAll('rollouts')
      .select(['versions.version as version', 'previous.version as previous_version']);
  }

  find(id: number, within?: Kysely<Tables>): Promise<Rollout | undefined> {
    return this.#select(within).where('rollouts.id', '=', id).executeTakeFirst();
  }

  /** @throws OctomilError `not_found` */
  async get(modelId: string, id: number): Promise<Rollout> {
    const found = await this.#byId.get(id);
    if (found?.model_id !== modelId) throw new OctomilError('not_found', `the model has no rollout ${id}`);
    return found;
  }

  /** Newest first. */
  list(
    modelId: string,
    filter: { readonly states?: readonly RolloutState[]; readonly limit?: number; readonly offset?: number } = {},
  ): Promise<Rollout[]> {
    // Qualified: both joined tables have columns of these names.
    let query = this.#select().where('rollouts.model_id', '=', modelId).orderBy('rollouts.id', 'desc');
    if (filter.states !== undefined) query = query.where('rollouts.state', 'in', filter.states);
    if (filter.limit !== undefined) query = query.limit(filter.limit);
    return query.offset(filter.offset ?? 0).execute();
  }

  /** Oldest first. */
  history(rolloutId: number): Promise<HistoryEntry[]> {
    return this.#database.kysely
      .selectFrom('rollout_history')
      .selectAll()
      .where('rollout_id', '=', rolloutId)
      .orderBy('id')
      .execute();
  }

  async insert(rollout: NewRollout, transaction: Kysely<Tables>): Promise<number> {
    const { id } = await transaction
      .insertInto('rollouts')
      .values({
        organization_id: rollout.organizationId,
        model_id: rollout.modelId,
        version_id: rollout.versionId,
        previous_version_id: rollout.previousVersionId,
        state: 'draft',
        share_ratio: 0,
        initial_ratio: rollout.initialRatio,
        target_ratio: rollout.targetRatio,
        increment_ratio: rollout.incrementRatio,
        advance_every_seconds: rollout.advanceEverySeconds,
        placement_offset: rollout.placementOffset,
        selector: JSON.stringify(rollout.selector),
        gates: JSON.stringify(rollout.gates),
        reason_code: null,
        reason: rollout.reason,
        created_by: rollout.actor,
      })
      .returning('id')
      .executeTakeFirstOrThrow();
    await this.#note(transaction, id, {
      from: null,
      fromRatio: null,
      to: 'draft',
      toRatio: 0,
      move: { to: 'draft', actor: rollout.actor, reason: rollout.reason },
    });
    return id;
  }

  /**
   * Moves a rollout if it still is where the caller saw it, and writes the move down. What this changes about older
   * rollouts (`covered`) changes with it.
   *
   * @returns undefined when somebody else moved it first
   * @throws OctomilError `wrong_state` when the model has another unsettled rollout
   */
  async move(
    transaction: Kysely<Tables>,
    from: Pick<Rollout, 'id' | 'model_id' | 'state' | 'stage' | 'share_ratio' | 'advance_every_seconds'>,
    move: Move,
  ): Promise<Rollout | undefined> {
    if (!canMoveRollout(from.state, move.to)) {
      throw new OctomilError('internal', `a rollout cannot go from ${from.state} to ${move.to}`);
    }
    const grows = move.shareRatio !== undefined;
    const moved = await transaction
      .updateTable('rollouts')
      .set({
        state: move.to,
        reason_code: move.reasonCode ?? null,
        reason: move.reason ?? null,
        updated_at: sql<Date>`now()`,
        next_stage_at: move.to === 'active' ? nextStage(from.advance_every_seconds) : null,
        ...(grows
          ? {
              share_ratio: move.shareRatio,
              stage: sql<number>`stage + 1`,
              stage_started_at: sql<Date>`now()`,
              started_at: sql<Date>`coalesce(started_at, now())`,
            }
          : {}),
        ...(isFinal(move.to) ? { finished_at: sql<Date>`now()` } : {}),
      })
      .where('id', '=', from.id)
      .where('state', '=', from.state)
      .where('stage', '=', from.stage)
      .returning('id')
      .executeTakeFirst();
    if (moved === undefined) return undefined;
    await this.#note(transaction, from.id, {
      from: from.state,
      fromRatio: from.share_ratio,
      to: move.to,
      toRatio: move.shareRatio ?? from.share_ratio,
      move,
    });
    if (move.to === 'completed' || from.state === 'completed') await this.cover(transaction, from.model_id);
    return this.find(from.id, transaction);
  }

  /** Marks the model's rollouts that a later one, completed for every device, has made idle; unmarks the others. */
  async cover(transaction: Kysely<Tables>, modelId: string): Promise<void> {
    await sql`
      update rollouts r set covered = not r.covered
      where r.model_id = ${modelId} and r.covered <> exists (
        select 1 from rollouts c
        where c.model_id = r.model_id and c.id > r.id and c.state = 'completed' and c.share_ratio >= 1
          and c.selector = '{}'::jsonb)`.execute(transaction);
  }

  /** The rollout that keeps another from starting. */
  async unsettled(modelId: string, exceptId?: number): Promise<Rollout | undefined> {
    const found = await this.list(modelId, { states: UNSETTLED_STATES });
    return found.find(({ id }) => id !== exceptId);
  }

  /** The newest rollout of the model that decides for devices now. */
  newestInForce(modelId: string, within: Kysely<Tables> = this.#database.kysely): Promise<Rollout | undefined> {
    return this.#select(within)
      .where('rollouts.model_id', '=', modelId)
      .where('rollouts.state', 'in', ['active', 'paused', 'completed'])
      .where('covered', '=', false)
      .orderBy('rollouts.id', 'desc')
      .limit(1)
      .executeTakeFirst();
  }

  async delete(id: number, transaction: Kysely<Tables>): Promise<void> {
    await transaction.deleteFrom('rollouts').where('id', '=', id).execute();
  }

  /** Rollouts under way whose version holds this object. */
  needing(objectKey: string): Promise<Rollout[]> {
    return this.#select()
      .where('rollouts.state', 'in', ['active', 'paused'])
      .where('rollouts.version_id', 'in', (e) =>
        e.selectFrom('artifacts').select('version_id').where('object_key', '=', objectKey),
      )
      .execute();
  }

  async countUnsettled(): Promise<number> {
    const { unsettled } = await this.#database.kysely
      .selectFrom('rollouts')
      .select((e) => e.fn.countAll<number>().as('unsettled'))
      .where('state', 'in', UNSETTLED_STATES)
      .executeTakeFirstOrThrow();
    return unsettled;
  }

  /** Those that the coordinator itself looks after: active, rolling back, or completed less than `watchSeconds` ago. */
  async watched(watchSeconds: number): Promise<number[]> {
    const { rows } = await sql<{ id: number }>`
      select id from rollouts where state in ('active', 'rolling_back')
      union all
      select id from rollouts where state = 'completed' and not covered
        and finished_at > now() - ${watchSeconds}::float8 * interval '1 second'
      order by id`.execute(this.#database.kysely);
    return rows.map(({ id }) => id);
  }

  /** Since its last move, by the database's clock, which set that time; undefined when the rollout is gone. */
  async secondsSinceMove(id: number): Promise<number | undefined> {
    const row = await this.#database.kysely
      .selectFrom('rollouts')
      .select(sql<number>`extract(epoch from now() - updated_at)::float8`.as('seconds'))
      .where('id', '=', id)
      .executeTakeFirst();
    return row?.seconds;
  }

  async #note(
    transaction: Kysely<Tables>,
    rolloutId: number,
    entry: {
      from: RolloutState | null;
      fromRatio: number | null;
      to: RolloutState;
      toRatio: number;
      move: Move;
    },
  ): Promise<void> {
    await transaction
      .insertInto('rollout_history')
      .values({
        rollout_id: rolloutId,
        from_state: entry.from,
        to_state: entry.to,
        from_ratio: entry.fromRatio,
        to_ratio: entry.toRatio,
        reason_code: entry.move.reasonCode ?? null,
        reason: entry.move.reason ?? null,
        actor: entry.move.actor,
      })
      .execute();
  }
}

function isFinal(state: RolloutState): boolean {
  return state === 'completed' || state === 'rolled_back' || state === 'failed';
}

function nextStage(everySeconds: number | null): RawBuilder<Date> | null {
  return everySeconds === null ? null : sql<Date>`now() + ${everySeconds}::float8 * interval '1 second'`;
}

/** Whether a failure means that the model has an unsettled rollout already. */
export function isSecondRollout(error: unknown): boolean {
  return violatedUnique(error) === 'rollouts_one_active';
}
