import { randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import { formatTargetRule, parseTargetRule } from '@octomil/shared/features';
import type { Architecture } from '@octomil/shared/models';
import { initialWeights } from '@octomil/shared/models';
import type { ObjectStore } from '@octomil/shared/storage';
import { encodeWeights } from '@octomil/shared/tensors';
import { neededAbilities } from '@octomil/shared/training';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { JsonObject } from '../database/tables.js';
import { requireControllable } from './control-variates.js';
import type { NewEvent } from './event-feed.js';
import { storeBytes } from './object-keys.js';
import { openKey } from './open-round.js';
import type { ConfirmedSpec, ConfirmedSpecs, StoredFile, TrainingBase, TrainingRegistry } from './ports.js';
import type { ResolvedConfig } from './round-facts.js';
import { isInProgress } from './round-machine.js';
import { anotherAttempt, firstAttempt, planOf } from './round-plan.js';
import { roundLabel } from './round-store.js';
import { type DeviceSelector, type RefusedDevice, reasonsOf, type SelectionRequest } from './selection.js';
import { findBase, resolveConfig } from './session-base.js';
import { parseSessionConfig, type SessionConfig, type SessionReferences } from './session-config.js';
import { canMoveSession, firstStep, isOver } from './session-machine.js';
import {
  cancelRound,
  insertEvents,
  insertRound,
  type LatestRound,
  type LockedSession,
  type SessionStore,
  sessionNotFound,
  setSession,
} from './session-store.js';

export interface SessionServiceDependencies {
  readonly database: Database;
  readonly sessions: SessionStore;
  readonly selector: DeviceSelector;
  readonly registry: TrainingRegistry;
  readonly confirmedSpecs: ConfirmedSpecs | undefined;
  readonly objects: ObjectStore;
  readonly random: () => number;
  readonly wakeRound: (roundId: string) => void;
  readonly tellDevices: (deviceIds: readonly string[]) => void;
  readonly tellSession: (sessionId: string) => void;
}

export interface Caller {
  readonly organizationId: string;
  /** Kept as who asked: a key's id. */
  readonly name: string;
}

export interface CreatedSession {
  readonly id: string;
  readonly roundId: string;
}

interface Prepared {
  readonly config: ResolvedConfig;
  readonly model: ModelRow;
  readonly federation: { id: string; name: string; memberIds: string[] };
  readonly base: TrainingBase | undefined;
  readonly confirmed: ConfirmedSpec | undefined;
}

interface ModelRow {
  readonly id: string;
  readonly name: string;
  readonly architecture: Architecture | null;
  readonly target: string | null;
}

/** What people do with training sessions. Every change holds the session's row, so that it and a round never cross. */
export class SessionService {
  readonly #on: SessionServiceDependencies;

  constructor(dependencies: SessionServiceDependencies) {
    this.#on = dependencies;
  }

  /**
   * Starts a session.
   *
   * @throws `invalid_input`, `model_not_found`, `version_not_found`, `not_found` (federation), `conflict` (new version),
   * `insufficient_devices` when fewer devices than `min_updates` could ever answer
   */
  async create(
    body: unknown,
    caller: Caller,
    overrides: { dryRun?: boolean; closesOnRequest?: boolean } = {},
  ): Promise<CreatedSession> {
    const prepared = await this.#prepare(body, caller, overrides);
    const { model, federation, base, confirmed } = prepared;
    const config = overrides.closesOnRequest === true ? { ...prepared.config, closesOnRequest: true } : prepared.config;
    const open = config.admission === 'open';
    if (!config.dryRun && !open) await this.#requireDevices(prepared);
    const id = randomUUID();
    const step = firstStep(planOf(config));
    const checkpointId = await this.#baseCheckpoint(prepared, caller.organizationId);
    const round = firstAttempt(config, step, checkpointId);
    const spec = base?.document.featureSpec ?? confirmed?.spec;
    if (spec !== undefined) {
      await this.#on.database.kysely
        .insertInto('feature_specs')
        .values({ hash: spec.hash, organization_id: caller.organizationId, document: JSON.stringify(spec) })
        .onConflict((conflict) => conflict.column('hash').doNothing())
        .execute();
    }
    const created: NewEvent = {
      type: 'session',
      data: {
        session_id: id,
        state: 'running',
        model: model.name,
        federation: federation.name,
        strategy: config.strategy,
        total_rounds: config.rounds,
        min_updates: config.minUpdates,
      },
    };
    const scheduled: NewEvent = {
      type: 'round',
      data: {
        ...roundLabel({ sessionId: id, ...round }),
        state: open ? 'collecting' : 'scheduled',
        total_rounds: config.rounds,
      },
    };
    await this.#on.sessions.create(
      {
        id,
        organizationId: caller.organizationId,
        federationId: federation.id,
        modelId: model.id,
        config,
        baseVersionId: base?.versionId ?? null,
        featureSpecHash: spec?.hash ?? null,
        createdBy: caller.name,
      },
      round,
      [created, scheduled],
      open && base !== undefined
        ? {
            openFor: openKey(model.id, base.weights.sha256),
            deadlineSeconds: config.closesOnRequest === true ? null : config.roundDeadlineSeconds,
          }
        : undefined,
    );
    if (confirmed !== undefined && !config.dryRun && config.architecture !== null) {
      await this.#on.registry.setArchitecture(model.id, config.architecture, config.target);
    }
    this.#on.tellSession(id);
    this.#on.wakeRound(round.id);
    return { id, roundId: round.id };
  }

  /** Which sites would take part in such a session, and which would not and why. */
  async sites(body: unknown, caller: Caller): Promise<{ eligible: EligibleSite[]; refused: RefusedDevice[] }> {
    const prepared = await this.#prepare(body, caller, { dryRun: true });
    const request = this.#selection(prepared);
    const online = await this.#on.selector.select({ ...request, count: 1_000, start: 0 });
    const { refused } = await this.#on.selector.countPossible(request, 1_000_000);
    return {
      eligible: online.map(({ id, name, eligibility: { dataSet } }) => ({
        deviceId: id,
        name,
        dataSet: dataSet?.name ?? null,
        rowCount: dataSet === undefined || dataSet.rowCount === 0 ? null : dataSet.rowCount,
      })),
      refused,
    };
  }

  /** No new rounds until `resume`; the round under way is cancelled and run again then. @throws `wrong_state` */
  async pause(organizationId: string, sessionId: string, reason = 'paused by a person'): Promise<void> {
    await this.#change(organizationId, sessionId, async (session, transaction) => {
      requireMove(session, 'paused');
      const label = { session_id: sessionId, state: 'paused', reason };
      const told = await this.#cancelLatest(transaction, session, reason);
      // No code: whoever waits for the result waits on for whoever paused.
      await setSession(transaction, sessionId, 'paused', { code: null, reason });
      await insertEvents(transaction, sessionId, [...told.events, { type: 'session', data: label }]);
      return { devices: told.devices };
    });
  }

  /** Runs the round that was cut short, or lacked updates, as a new attempt. @throws `wrong_state` */
  async resume(organizationId: string, sessionId: string): Promise<void> {
    await this.#change(organizationId, sessionId, async (session, transaction) => {
      requireMove(session, 'running');
      const { round } = session;
      if (round === undefined) throw new OctomilError('internal', `session ${sessionId} has no round`);
      await setSession(transaction, sessionId, 'running', { code: null, reason: null });
      return this.#again(transaction, session, round, [
        { type: 'session', data: { session_id: sessionId, state: 'running', total_rounds: session.config.rounds } },
      ]);
    });
  }

  /** Ends it for good. Repeating it is no error. @throws `wrong_state` when it has completed or failed */
  async cancel(organizationId: string, sessionId: string): Promise<void> {
    await this.#change(organizationId, sessionId, async (session, transaction) => {
      if (session.state === 'cancelled') return { devices: [] };
      requireMove(session, 'cancelled');
      const reason = 'cancelled by a person';
      const label = { session_id: sessionId, state: 'cancelled', reason_code: 'cancelled', reason };
      const told = await this.#cancelLatest(transaction, session, reason);
      await setSession(transaction, sessionId, 'cancelled', { code: 'cancelled', reason });
      await insertEvents(transaction, sessionId, [
        ...told.events,
        { type: 'session', data: label },
        { type: 'end', data: label },
      ]);
      return { devices: told.devices };
    });
  }

  /** Starts the latest round over: now if it is under way, with `resume` if the session is paused. @throws `wrong_state` */
  async retryRound(organizationId: string, roundId: string): Promise<void> {
    const sessionId = await this.#sessionOf(roundId);
    await this.#change(organizationId, sessionId, async (session, transaction) => {
      const round = requireLatest(session, roundId);
      if (isOver(session.state)) requireMove(session, 'running');
      if (session.state === 'running' && !isInProgress(round.state)) {
        throw new OctomilError('wrong_state', `round ${round.number} is ${round.state}; there is nothing to retry`);
      }
      const told = await this.#cancelLatest(transaction, session, 'started over by a person');
      await setSession(transaction, sessionId, 'running', { code: null, reason: null });
      const next = await this.#again(transaction, session, round, told.events);
      return { ...next, devices: told.devices };
    });
  }

  /** Stops the round under way and pauses its session. @throws `wrong_state` */
  async abortRound(organizationId: string, roundId: string): Promise<void> {
    const sessionId = await this.#sessionOf(roundId);
    await this.#change(organizationId, sessionId, async (session, transaction) => {
      const round = requireLatest(session, roundId);
      if (session.state !== 'running' || !isInProgress(round.state)) {
        throw new OctomilError('wrong_state', `round ${round.number} is ${round.state}; there is nothing to abort`);
      }
      const reason = `round ${round.number} was aborted by a person`;
      const told = await this.#cancelLatest(transaction, session, reason);
      await setSession(transaction, sessionId, 'paused', { code: null, reason });
      await insertEvents(transaction, sessionId, [
        ...told.events,
        { type: 'session', data: { session_id: sessionId, state: 'paused', reason } },
      ]);
      return { devices: told.devices };
    });
  }

  /** Cancels what trains this model. @returns the number of its last completed round */
  async stopModel(organizationId: string, modelReference: string): Promise<{ lastRound: number; sessions: string[] }> {
    const model = await this.model(organizationId, modelReference);
    const { rows } = await sql<{ id: string }>`
      select id from training_sessions where organization_id = ${organizationId} and model_id = ${model.id}
        and state in ('running', 'paused')`.execute(this.#on.database.kysely);
    const last = await sql<{ number: number | null }>`
      select max(r.number) as number from rounds r join training_sessions s on s.id = r.session_id
      where s.id = (select id from training_sessions where organization_id = ${organizationId}
          and model_id = ${model.id} order by created_at desc limit 1)
        and r.kind = 'train' and r.state = 'completed'`.execute(this.#on.database.kysely);
    for (const { id } of rows) await this.cancel(organizationId, id);
    return { lastRound: last.rows[0]?.number ?? 0, sessions: rows.map(({ id }) => id) };
  }

  /** By identifier or name. @throws `model_not_found` */
  async model(organizationId: string, reference: string): Promise<ModelRow> {
    const { rows } = await sql<ModelRow>`
      select id, name, architecture, target from models
      where organization_id = ${organizationId} and (id = ${reference} or lower(name) = lower(${reference}))
      order by (id = ${reference}) desc limit 1`.execute(this.#on.database.kysely);
    const model = rows[0];
    if (model !== undefined) return model;
    throw new OctomilError('model_not_found', `there is no model "${reference.slice(0, 200)}"; create it first`, {
      details: { field: 'model_id', value: reference.slice(0, 200) },
    });
  }

  /** By identifier or name; owned, or joined. @throws `not_found` */
  async federation(
    organizationId: string,
    reference: string,
  ): Promise<{ id: string; name: string; memberIds: string[] }> {
    const { rows } = await sql<{ id: string; name: string; memberIds: string[] }>`
      select f.id, f.name, array(select f.organization_id union select m.organization_id from federation_members m
          where m.federation_id = f.id and m.status = 'active') as "memberIds"
      from federations f
      where (f.id = ${reference} or f.name = ${reference}) and (f.organization_id = ${organizationId}
        or exists (select 1 from federation_members m where m.federation_id = f.id
          and m.organization_id = ${organizationId} and m.status = 'active'))
      order by (f.id = ${reference}) desc, (f.organization_id = ${organizationId}) desc limit 1`.execute(
      this.#on.database.kysely,
    );
    const federation = rows[0];
    if (federation !== undefined) return federation;
    throw new OctomilError('not_found', `there is no federation "${reference.slice(0, 200)}"; create it first`, {
      details: { field: 'federation', value: reference.slice(0, 200) },
    });
  }

  async #prepare(body: unknown, caller: Caller, { dryRun }: { dryRun?: boolean }): Promise<Prepared> {
    const randomSeed = Math.floor(this.#on.random() * 2 ** 31);
    const { config: asked, references } = parseSessionConfig(body, randomSeed);
    requireControllable(asked);
    const wanted =
      dryRun === true
        ? { ...asked, dryRun, trainer: asked.trainer === 'echo' ? 'tfjs' : asked.trainer, roundDeadlineSeconds: 30 }
        : asked;
    const { federation, model } = await this.#find(references, caller.organizationId);
    if (wanted.newVersion !== null) await this.#requireFreeVersion(model, wanted.newVersion);
    const base = await findBase(this.#on.registry, model, wanted.baseVersion);
    const confirmed = await this.#confirmed(wanted, { organizationId: caller.organizationId, federation, model });
    const config = resolveConfig(wanted, model, base?.document, confirmed);
    return { config, model, federation, base, confirmed };
  }

  async #confirmed(
    { featureSpec, target }: SessionConfig,
    of: { organizationId: string; federation: { id: string; name: string }; model: ModelRow },
  ): Promise<ConfirmedSpec | undefined> {
    if (featureSpec === undefined) return undefined;
    const specs = this.#on.confirmedSpecs;
    if (specs === undefined) throw new OctomilError('internal', 'this coordinator keeps no proposals of features');
    const wanted = target ?? of.model.target;
    const rule = wanted === null ? null : formatTargetRule(parseTargetRule(wanted));
    return specs.confirmed(featureSpec, { ...of, target: rule });
  }

  async #find(
    references: SessionReferences,
    organizationId: string,
  ): Promise<{ federation: Prepared['federation']; model: ModelRow }> {
    const model = await this.model(organizationId, references.model);
    if (references.federation === undefined) {
      // The published clients name none.
      await this.#on.database.kysely
        .insertInto('federations')
        .values({ id: randomUUID(), organization_id: organizationId, name: 'default', description: '' })
        .onConflict((conflict) => conflict.doNothing())
        .execute();
    }
    return { model, federation: await this.federation(organizationId, references.federation ?? 'default') };
  }

  async #requireFreeVersion(model: ModelRow, version: string): Promise<void> {
    const taken = await this.#on.database.kysely
      .selectFrom('versions')
      .select('id')
      .where('model_id', '=', model.id)
      .where('version', '=', version)
      .executeTakeFirst();
    if (taken !== undefined) {
      throw new OctomilError(
        'conflict',
        `model "${model.name}" has a version ${version} already; versions never change`,
      );
    }
  }

  #selection({ config, model, federation, base, confirmed }: Prepared): Omit<SelectionRequest, 'count' | 'start'> {
    const { dataSet, trainer, selector, strategy, personalization, hints, local } = config;
    const featureSpec = base?.document.featureSpec ?? confirmed?.spec;
    const abilities = neededAbilities({ personalization, hints, featureSpec, options: local });
    return {
      organizationIds: federation.memberIds,
      demand: { federation, model, dataSet, trainer, selector, strategy, abilities },
    };
  }

  async #requireDevices(prepared: Prepared): Promise<void> {
    const { minUpdates } = prepared.config;
    const { possible, refused } = await this.#on.selector.countPossible(this.#selection(prepared), minUpdates);
    if (possible >= minUpdates) return;
    const reasons = reasonsOf(refused);
    throw new OctomilError(
      'insufficient_devices',
      [
        `min_updates is ${minUpdates}, but only ${possible} of the enrolled devices of federation "${prepared.federation.name}" can take part; enroll more or lower min_updates`,
        ...reasons,
      ].join('; '),
      { details: { min_updates: minUpdates, available: possible, refused: refused.slice(0, 20) } },
    );
  }

  /** The row that the first round trains from; none while the columns are not known. */
  async #baseCheckpoint({ base, config, confirmed }: Prepared, organizationId: string): Promise<string | null> {
    if (base?.checkpointId != null) return base.checkpointId;
    if (base === undefined && (config.describes || config.dryRun || config.architecture === null)) return null;
    const stored: StoredFile =
      base?.weights ??
      (await storeBytes(
        this.#on.objects,
        'checkpoints',
        encodeWeights(initialWeights(requireArchitecture(config), config.inputWidth, config.seed)),
      ));
    const lineage: JsonObject =
      base === undefined
        ? {
            initial: true,
            seed: config.seed,
            ...(confirmed === undefined ? {} : { feature_spec_hash: confirmed.spec.hash }),
          }
        : { version_id: base.versionId };
    const id = randomUUID();
    await this.#on.database.kysely
      .insertInto('checkpoints')
      .values({
        id,
        organization_id: organizationId,
        session_id: null,
        round_id: null,
        base_checkpoint_id: null,
        object_key: stored.objectKey,
        sha256: stored.sha256,
        size_bytes: stored.sizeBytes,
        strategy: null,
        strategy_state_key: null,
        strategy_state_sha256: null,
        lineage: JSON.stringify(lineage),
      })
      .execute();
    return id;
  }

  async #change(
    organizationId: string,
    sessionId: string,
    change: (
      session: LockedSession,
      transaction: Database['kysely'],
    ) => Promise<{ devices: readonly string[]; roundId?: string }>,
  ): Promise<void> {
    const owner = await this.#on.database.kysely
      .selectFrom('training_sessions')
      .select('organization_id')
      .where('id', '=', sessionId)
      .executeTakeFirst();
    if (owner?.organization_id !== organizationId) throw sessionNotFound(sessionId);
    const { devices, roundId } = await this.#on.sessions.locked(sessionId, change);
    this.#on.tellDevices(devices);
    this.#on.tellSession(sessionId);
    if (roundId !== undefined) this.#on.wakeRound(roundId);
  }

  async #cancelLatest(
    transaction: Database['kysely'],
    session: LockedSession,
    reason: string,
  ): Promise<{ devices: readonly string[]; events: NewEvent[] }> {
    const { round } = session;
    const devices = round === undefined ? undefined : await cancelRound(transaction, round.id, 'cancelled', reason);
    if (round === undefined || devices === undefined) return { devices: [], events: [] };
    const label = roundLabel({ sessionId: session.id, ...round });
    return { devices, events: [{ type: 'round', data: { ...label, state: 'cancelled', reason } }] };
  }

  async #again(
    transaction: Database['kysely'],
    session: LockedSession,
    round: LatestRound,
    events: readonly NewEvent[],
  ): Promise<{ devices: readonly string[]; roundId: string }> {
    const next = anotherAttempt(round, round.baseCheckpointId, 0);
    await insertRound(transaction, session.id, next);
    const label = roundLabel({ sessionId: session.id, ...next });
    await insertEvents(transaction, session.id, [...events, { type: 'round', data: { ...label, state: 'scheduled' } }]);
    return { devices: [], roundId: next.id };
  }

  async #sessionOf(roundId: string): Promise<string> {
    const sessionId = await this.#on.sessions.sessionOfRound(roundId);
    if (sessionId === undefined) throw roundNotFound(roundId);
    return sessionId;
  }
}

export interface EligibleSite {
  readonly deviceId: string;
  readonly name: string;
  readonly dataSet: string | null;
  /** In tens; null where the site does not say. */
  readonly rowCount: number | null;
}

export function roundNotFound(id: string): OctomilError {
  return new OctomilError('not_found', `there is no training round "${id.slice(0, 100)}"`);
}

function requireMove(session: LockedSession, to: 'running' | 'paused' | 'cancelled'): void {
  if (canMoveSession(session.state, to)) return;
  const why = session.reason === null ? '' : ` (${session.reason})`;
  throw new OctomilError('wrong_state', `session ${session.id} is ${session.state}${why}; it cannot become ${to}`);
}

function requireLatest(session: LockedSession, roundId: string): LatestRound {
  if (session.round?.id === roundId) return session.round;
  throw new OctomilError(
    'wrong_state',
    `round ${roundId} is not the latest of its session; only that one can be changed`,
  );
}

function requireArchitecture({ architecture }: ResolvedConfig): Architecture {
  if (architecture !== null) return architecture;
  throw new OctomilError('internal', 'the session has no architecture');
}
