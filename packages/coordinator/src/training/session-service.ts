import { randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import type { FeatureSpec } from '@octomil/shared/features';
import type { ObjectStore } from '@octomil/shared/storage';
import { neededAbilities } from '@octomil/shared/training';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { NewEvent } from './event-feed.js';
import { firstCheckpoint } from './first-checkpoint.js';
import { openKey } from './open-round.js';
import { type ModelRow, type PreparedSession, type PreparerDependencies, SessionPreparer } from './prepare-session.js';
import { isInProgress } from './round-machine.js';
import { anotherAttempt, firstAttempt, planOf } from './round-plan.js';
import { roundLabel } from './round-store.js';
import {
  type DeviceSelector,
  describePossible,
  type RefusedDevice,
  reasonsOf,
  type SelectionRequest,
} from './selection.js';
import { findBase, isSameEncoding } from './session-base.js';
import { madeFederation, type SessionFederation } from './session-federation.js';
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

export interface SessionServiceDependencies extends PreparerDependencies {
  readonly sessions: SessionStore;
  readonly selector: DeviceSelector;
  readonly objects: ObjectStore;
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

/** What people do with training sessions. Every change holds the session's row, so that it and a round never cross. */
export class SessionService {
  readonly #on: SessionServiceDependencies;
  readonly #preparer: SessionPreparer;

  constructor(dependencies: SessionServiceDependencies) {
    this.#on = dependencies;
    this.#preparer = new SessionPreparer(dependencies);
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
    const prepared = await this.#preparer.prepare(body, caller.organizationId, overrides);
    const { model, base, confirmed } = prepared;
    const config = overrides.closesOnRequest === true ? { ...prepared.config, closesOnRequest: true } : prepared.config;
    const open = config.admission === 'open';
    if (!config.dryRun && !open) await this.#requireDevices(prepared);
    const federation = await madeFederation(this.#on.database, caller.organizationId, prepared.federation);
    const id = randomUUID();
    const step = firstStep(planOf(config));
    const checkpointId = await firstCheckpoint(this.#on, prepared, caller.organizationId);
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
  async sites(
    body: unknown,
    caller: Caller,
  ): Promise<{ eligible: EligibleSite[]; refused: readonly RefusedDevice[]; federation: SessionFederation }> {
    const prepared = await this.#preparer.prepare(body, caller.organizationId, { dryRun: true });
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
      federation: prepared.federation,
    };
  }

  /** Whether the model's newest version learned rows encoded by another spec: `base_version` is then to be `initial`. */
  async needsFreshWeights(model: { id: string; name: string }, spec: FeatureSpec): Promise<boolean> {
    const base = await findBase(this.#on.registry, model, null);
    return base !== undefined && !isSameEncoding(base.document, spec);
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
  model(organizationId: string, reference: string): Promise<ModelRow> {
    return this.#preparer.model(organizationId, reference);
  }

  /** By identifier or name; owned, or joined. @throws `not_found` */
  federation(organizationId: string, reference: string): Promise<PreparedSession['federation']> {
    return this.#preparer.federation(organizationId, reference);
  }

  #selection({
    config,
    model,
    federation,
    base,
    confirmed,
  }: PreparedSession): Omit<SelectionRequest, 'count' | 'start'> {
    const { dataSet, trainer, selector, strategy, personalization, hints, local } = config;
    const featureSpec = base?.document.featureSpec ?? confirmed?.spec;
    const abilities = neededAbilities({ personalization, hints, featureSpec, options: local });
    return {
      organizationIds: federation.memberIds,
      demand: { federation, model, dataSet, trainer, selector, strategy, abilities },
    };
  }

  async #requireDevices(prepared: PreparedSession): Promise<void> {
    const { minUpdates } = prepared.config;
    const counted = await this.#on.selector.countPossible(this.#selection(prepared), minUpdates);
    const { possible, refused } = counted;
    if (possible >= minUpdates) return;
    const reasons = reasonsOf(refused);
    throw new OctomilError(
      'insufficient_devices',
      [
        `min_updates is ${minUpdates}, but ${describePossible(counted, `the enrolled devices of federation "${prepared.federation.name}"`)}; enroll more or lower min_updates`,
        ...reasons,
      ].join('; '),
      { details: { min_updates: minUpdates, available: possible, refused: refused.slice(0, 20) } },
    );
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
