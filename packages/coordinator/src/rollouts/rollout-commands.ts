import { OctomilError } from '@octomil/shared/errors';
import type { Kysely } from 'kysely';
import type { Database } from '../database/database.js';
import type { RolloutState, Tables, VersionStatus } from '../database/tables.js';
import { type DeviceSelector, parseSelector } from '../devices/device-selector.js';
import type { Model } from '../models/model-store.js';
import { gatesJson, parseGates } from './gates.js';
import { type RolloutAction, requireAction, wrongState } from './rollout-machine.js';
import { isSecondRollout, type Move, type Rollout, type RolloutStore } from './rollout-store.js';
import { nextShare, percentageOf } from './share.js';

/** What is asked of a new rollout. Ratios are 0 to 1. */
export interface RolloutRequest {
  /** Semantic version, sequence number or `latest`. */
  readonly version: string;
  readonly initialRatio: number;
  readonly targetRatio: number;
  readonly incrementRatio: number;
  /** null: it is advanced by hand. */
  readonly advanceEverySeconds: number | null;
  /** Whose devices; every one of the organization when absent. */
  readonly selector: unknown;
  /** Gates as REST has them; defaults when absent. */
  readonly health: unknown;
  readonly startImmediately: boolean;
  readonly reason: string | null;
}

/** The sliver of the registry that rollouts need. */
export interface RolloutRegistry {
  readonly versions: {
    get(
      modelId: string,
      name: string,
    ): Promise<{ readonly id: string; readonly version: string; readonly status: VersionStatus }>;
  };
}

export interface RolloutCommandsOptions {
  readonly database: Database;
  readonly store: RolloutStore;
  readonly registry: RolloutRegistry;
  /** Uniform in [0, 1): where in the placements a rollout begins. */
  readonly random: () => number;
  /** Called after a commit that changed what devices should run. */
  readonly changed: (rollout: Rollout) => void;
}

/** Tries again when somebody else moved the rollout in between; then it is their state that is told. */
const ATTEMPTS = 3;

/** What people do with rollouts. */
export class RolloutCommands {
  readonly #options: RolloutCommandsOptions;

  constructor(options: RolloutCommandsOptions) {
    this.#options = options;
  }

  /**
   * @throws OctomilError `invalid_input`, `version_not_found`, `wrong_state` for a version that is not published,
   * `conflict` when the model has an unsettled rollout already and this one is to start
   */
  async create(model: Model, request: RolloutRequest, actor: string): Promise<Rollout> {
    const { database, store, registry, random } = this.#options;
    if (request.initialRatio > request.targetRatio) {
      throw new OctomilError(
        'invalid_input',
        `rollout_percentage ${percentageOf(request.initialRatio)} is above target_percentage ${percentageOf(request.targetRatio)}; begin lower or aim higher`,
        { details: { field: 'rollout_percentage' } },
      );
    }
    const gates = parseGates(request.health);
    const selector = withoutEmpty(parseSelector(request.selector));
    const version = await registry.versions.get(model.id, request.version);
    requirePublished(version);
    const id = await this.#guarded(model.id, undefined, () =>
      database.transact(async (transaction) => {
        // Before the insert, whose reference to the model is a lock of its own: two of them could not both go on.
        await lockModel(transaction, model.id);
        await requireStillPublished(transaction, version);
        const previous = await store.newestInForce(model.id, transaction);
        const created = await store.insert(
          {
            organizationId: model.organization_id,
            modelId: model.id,
            versionId: version.id,
            previousVersionId: previous?.version_id ?? null,
            initialRatio: request.initialRatio,
            targetRatio: request.targetRatio,
            incrementRatio: request.incrementRatio,
            advanceEverySeconds: request.advanceEverySeconds,
            placementOffset: random(),
            selector,
            gates: gatesJson(gates),
            actor,
            reason: request.reason,
          },
          transaction,
        );
        if (request.startImmediately) await this.#start(transaction, model.id, created, actor);
        return created;
      }),
    );
    const rollout = await store.get(model.id, id);
    this.#options.changed(rollout);
    return rollout;
  }

  /** @throws OctomilError `not_found`, `wrong_state`, `conflict` when the model has another unsettled rollout */
  async start(modelId: string, id: number, actor: string): Promise<Rollout> {
    const { database, store } = this.#options;
    const before = await store.get(modelId, id);
    requireAction('start', before);
    const started = await this.#guarded(modelId, id, () =>
      database.transact((transaction) => this.#start(transaction, modelId, id, actor)),
    );
    this.#options.changed(started);
    return started;
  }

  /**
   * One step further, by its own increment or another.
   *
   * @param incrementRatio above 0
   * @throws OctomilError `not_found`, `wrong_state`
   */
  advance(modelId: string, id: number, incrementRatio: number | undefined, actor: string): Promise<Rollout> {
    return this.#move(modelId, id, 'advance', (rollout) => {
      const share = nextShare(rollout.share_ratio, incrementRatio ?? rollout.increment_ratio, rollout.target_ratio);
      return grown(rollout, share, actor, null);
    });
  }

  /** @throws OctomilError `invalid_input` below the present share or above the target, `not_found`, `wrong_state` */
  updateShare(modelId: string, id: number, shareRatio: number, reason: string | null, actor: string): Promise<Rollout> {
    return this.#move(modelId, id, 'update-percentage', (rollout) => {
      const asked = percentageOf(shareRatio);
      const present = percentageOf(rollout.share_ratio);
      const target = percentageOf(rollout.target_ratio);
      const details = {
        field: 'percentage',
        percentage: asked,
        rollout_percentage: present,
        target_percentage: target,
      };
      if (shareRatio < rollout.share_ratio) {
        throw new OctomilError(
          'wrong_state',
          `rollout ${id} is at ${present} % and cannot go down to ${asked} %: a share only grows; roll it back instead`,
          { details },
        );
      }
      if (shareRatio > rollout.target_ratio) {
        throw new OctomilError('wrong_state', `${asked} % is above the target of rollout ${id}, ${target} %`, {
          details,
        });
      }
      return grown(rollout, shareRatio, actor, reason);
    });
  }

  /** Devices keep what they have; nothing more is reached. @throws OctomilError `not_found`, `wrong_state` */
  pause(modelId: string, id: number, reason: string | null, actor: string): Promise<Rollout> {
    return this.#move(modelId, id, 'pause', () => ({ to: 'paused', actor, reason }));
  }

  /** @throws OctomilError `not_found`, `wrong_state` */
  resume(modelId: string, id: number, reason: string | null, actor: string): Promise<Rollout> {
    return this.#move(modelId, id, 'resume', () => ({ to: 'active', actor, reason }));
  }

  /**
   * What devices ran before becomes desired again, at once and for all of them.
   *
   * @throws OctomilError `not_found`, `wrong_state`, `conflict` while another rollout of the model is unsettled
   */
  rollback(modelId: string, id: number, reason: string | null, actor: string): Promise<Rollout> {
    return this.#move(modelId, id, 'rollback', (rollout) => {
      if (rollout.covered) {
        throw new OctomilError(
          'wrong_state',
          `rollout ${id} decides for no device any more: a later one is completed; roll that one back`,
          { details: { rollout_id: id, status: rollout.state } },
        );
      }
      return { to: 'rolling_back', actor, reason };
    });
  }

  /**
   * Removes a rollout and its history. One that decides what devices run is rolled back first, which needs `force`, as
   * does the removal of one that devices would go back to.
   *
   * @throws OctomilError `not_found`, `wrong_state` without `force`
   */
  async delete(modelId: string, id: number, force: boolean): Promise<Rollout> {
    const { database, store } = this.#options;
    const deleted = await database.transact(async (transaction) => {
      await lockModel(transaction, modelId);
      const rollout = await store.find(id, transaction);
      if (rollout === undefined || rollout.model_id !== modelId) throw noRollout(id);
      const decides =
        rollout.state !== 'draft' && rollout.state !== 'rolled_back' && rollout.state !== 'failed' && !rollout.covered;
      if (decides && !force) {
        throw new OctomilError(
          'wrong_state',
          rollout.state === 'rolling_back'
            ? `rollout ${id} is rolling_back: devices are on their way back; wait until it is rolled_back, or delete it with force=true`
            : `rollout ${id} is ${rollout.state} and decides what devices run; roll it back first, or delete it with force=true, which does both`,
          { details: { rollout_id: id, status: rollout.state } },
        );
      }
      const newest = rollout.covered ? await store.newestInForce(modelId, transaction) : undefined;
      if (newest?.previous_version_id === rollout.version_id && !force) {
        throw new OctomilError(
          'wrong_state',
          `rollout ${id} is what devices go back to when rollout ${newest.id} is rolled back; delete it with force=true if they may be left without a version then`,
          { details: { rollout_id: id, status: rollout.state, newer_rollout_id: newest.id } },
        );
      }
      await store.delete(id, transaction);
      await store.cover(transaction, modelId);
      return decides ? { ...rollout, state: 'rolled_back' as const } : rollout;
    });
    this.#options.changed(deleted);
    return deleted;
  }

  async #start(transaction: Kysely<Tables>, modelId: string, id: number, actor: string): Promise<Rollout> {
    const { store } = this.#options;
    // A rollout that starts at its target never is `active`, so the index alone would not keep two apart.
    await lockModel(transaction, modelId);
    const rollout = await store.find(id, transaction);
    if (rollout === undefined) throw noRollout(id);
    requireAction('start', rollout);
    await requireStillPublished(transaction, { id: rollout.version_id, version: rollout.version });
    await this.#requireFree(transaction, rollout);
    const newer = await store.newestInForce(rollout.model_id, transaction);
    if (newer !== undefined && newer.id > id) {
      throw new OctomilError(
        'wrong_state',
        `rollout ${newer.id} is newer and ${newer.state}, so it would decide in place of draft ${id}; create the rollout again`,
        { details: { rollout_id: id, status: rollout.state, newer_rollout_id: newer.id } },
      );
    }
    // What is replaced is what is in force now, not when the draft was made.
    await transaction
      .updateTable('rollouts')
      .set({ previous_version_id: newer?.version_id ?? null })
      .where('id', '=', id)
      .execute();
    const started = await store.move(
      transaction,
      rollout,
      grown(rollout, rollout.initial_ratio, actor, rollout.reason),
    );
    if (started === undefined) throw wrongState('start', rollout);
    return started;
  }

  async #requireFree(transaction: Kysely<Tables>, rollout: Rollout): Promise<void> {
    const other = await transaction
      .selectFrom('rollouts')
      .select(['id', 'state'])
      .where('model_id', '=', rollout.model_id)
      .where('id', '!=', rollout.id)
      .where('state', 'in', ['active', 'paused', 'rolling_back'])
      .executeTakeFirst();
    if (other !== undefined) throw second(other);
  }

  async #move(modelId: string, id: number, action: RolloutAction, plan: (rollout: Rollout) => Move): Promise<Rollout> {
    const { database, store } = this.#options;
    for (let attempt = 1; ; attempt++) {
      const rollout = await store.get(modelId, id);
      requireAction(action, rollout);
      const move = plan(rollout);
      const moved = await this.#guarded(modelId, id, () =>
        database.transact((transaction) => store.move(transaction, rollout, move)),
      );
      if (moved !== undefined) {
        this.#options.changed(moved);
        return moved;
      }
      if (attempt >= ATTEMPTS) throw wrongState(action, await store.get(modelId, id));
    }
  }

  /** Names the rollout that is in the way when the database says that there is one. */
  async #guarded<T>(modelId: string, id: number | undefined, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (!isSecondRollout(error)) throw error;
      const other = await this.#options.store.unsettled(modelId, id);
      throw second(other ?? { id: 0, state: 'active' }, error);
    }
  }
}

/** A growth of the share; one that reaches the target completes the rollout. */
export function grown(
  rollout: Pick<Rollout, 'target_ratio'>,
  share: number,
  actor: string,
  reason: string | null,
): Move {
  return { to: share >= rollout.target_ratio ? 'completed' : 'active', shareRatio: share, actor, reason };
}

/** An empty condition holds for every device, and rows say so in one way. */
function withoutEmpty(selector: DeviceSelector): DeviceSelector {
  return Object.fromEntries(
    Object.entries(selector).filter(([, condition]) => Object.keys(condition as object).length > 0),
  );
}

/** Creations, starts and deletions of one model's rollouts happen one after the other. */
async function lockModel(transaction: Kysely<Tables>, modelId: string): Promise<void> {
  await transaction.selectFrom('models').select('id').where('id', '=', modelId).forNoKeyUpdate().execute();
}

/** Kept from being deleted until the transaction ends. */
async function requireStillPublished(
  transaction: Kysely<Tables>,
  { id, version }: { readonly id: string; readonly version: string },
): Promise<void> {
  const row = await transaction
    .selectFrom('versions')
    .select(['version', 'status'])
    .where('id', '=', id)
    .forKeyShare()
    .executeTakeFirst();
  if (row === undefined) throw new OctomilError('version_not_found', `version ${version} was deleted just now`);
  requirePublished(row);
}

function requirePublished({ version, status }: { readonly version: string; readonly status: VersionStatus }): void {
  if (status === 'published') return;
  const advice = status === 'deprecated' ? 'roll out a newer one' : 'publish it first';
  throw new OctomilError(
    'wrong_state',
    `version ${version} is ${status}, and devices get published versions; ${advice}`,
    {
      details: { version, status },
    },
  );
}

function second(other: { readonly id: number; readonly state: RolloutState }, cause?: unknown): OctomilError {
  return new OctomilError(
    'conflict',
    `the model has rollout ${other.id}, which is ${other.state}; finish it or roll it back first`,
    { details: { rollout_id: other.id, status: other.state }, ...(cause === undefined ? {} : { cause }) },
  );
}

function noRollout(id: number): OctomilError {
  return new OctomilError('not_found', `the model has no rollout ${id}`);
}
