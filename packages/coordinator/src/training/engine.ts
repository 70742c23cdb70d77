import { randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { SiteEntry } from '@octomil/shared/features';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { JsonObject } from '../database/tables.js';
import type { JobQueue, Jobs, JobWorker } from '../jobs/jobs.js';
import { ASSIGNMENTS_CHANNEL, type AssignmentPort, EVENTS_CHANNEL, PRESENCE_CHANNEL } from './assignment-port.js';
import { AssignmentStore } from './assignment-store.js';
import { Assignments } from './assignments.js';
import { BaseLayouts } from './base-layouts.js';
import { BoundedMap } from './bounded-map.js';

import { MAX_POPULATION } from './control-variates.js';
import { inDeviceOrder } from './device-order.js';
import { Announcer, EventFeed } from './event-feed.js';
import { describedSites } from './feature-agreement.js';
import { OpenAggregate } from './open-aggregate.js';
import { type BaseBody, firstBase } from './open-bases.js';
import { OpenRounds } from './open-rounds.js';
import { OpenStore } from './open-store.js';
import { OpenUpdates } from './open-updates.js';
import { PersonalizedModels } from './personalized.js';
import type { ClientFormats, ConfirmedSpecs, TrainingAggregator, TrainingRegistry } from './ports.js';
import { Retention, type RetentionSettings } from './retention.js';
import { RoundCloser } from './round-closer.js';
import { demandOf } from './round-demand.js';
import { RoundDriver } from './round-driver.js';
import { type RoundFacts, RoundFactsReader } from './round-facts.js';
import { RoundStore } from './round-store.js';
import { DeviceSelector } from './selection.js';
import { type Caller, SessionService } from './session-service.js';
import { SessionStore } from './session-store.js';

export interface TrainingEngineOptions {
  readonly database: Database;
  readonly jobs: Jobs;
  readonly objects: ObjectStore;
  readonly aggregator: TrainingAggregator;
  readonly registry: TrainingRegistry;
  readonly clock: Clock;
  readonly logger: Logger;
  /**
   * Tells devices that their assignments changed; `DeviceService.push` does so without a detour for those connected
   * here. Default: through the database.
   */
  readonly devices?: { notifyDevices(deviceIds: readonly string[]): void };
  /** Default: versions have the formats that training itself writes. */
  readonly clientFormats?: ClientFormats;
  /** Specs that people have confirmed. Default: none are kept, and sessions that ask for one fail. */
  readonly confirmedSpecs?: ConfirmedSpecs;
  /** Default `Math.random`. */
  readonly random?: () => number;
  readonly settings?: TrainingSettings;
}

export interface TrainingSettings {
  /** Names this process in `owner`. Default: random. */
  readonly coordinatorId?: string;
  /** How often rows that are due are looked for. Default 5,000. */
  readonly sweepEveryMs?: number;
  /** How long a coordinator that aggregates is believed without a sign of life. Default 10,000. */
  readonly ownerLeaseMs?: number;
  /** For checkpoints in the making; best on the object store's file system. Default: the system's folder. */
  readonly temporaryFolder?: string;
  /** false: this process takes no jobs and sweeps nothing (role `api`). Default true. */
  readonly worker?: boolean;
  readonly retention?: RetentionSettings;
  /** What all answers of a round may have together, as JSON; a round of more fails. Default 256 MiB. */
  readonly maxAnswersBytes?: number;
}

export interface TrainingEngine {
  readonly assignments: AssignmentPort;
  readonly sessions: SessionService;
  /** For views. */
  readonly store: SessionStore;
  readonly events: EventFeed;
  readonly retention: Retention;
  readonly clock: Clock;
  readonly open: OpenAdmission;
  /** What sites told in a describe round, in device order. */
  described(roundId: string): Promise<SiteEntry[]>;
  /** For uploads in the making. */
  temporaryFolder(): Promise<string>;
  /** Looks at a round and does what is due. Safe at any time. */
  wake(roundId: string): Promise<void>;
  /** Looks at every round that is due. */
  sweep(): Promise<void>;
  start(): Promise<void>;
  /** Leaves what is under way to another coordinator or to the next start. */
  stop(): Promise<void>;
}

/** Training of whoever uploads unasked. */
export interface OpenAdmission {
  readonly store: OpenStore;
  readonly updates: OpenUpdates;
  readonly aggregate: OpenAggregate;
  readonly rounds: OpenRounds;
  readonly personalized: PersonalizedModels;
  firstBase(body: BaseBody, caller: Caller): Promise<JsonObject>;
}

interface RoundJob {
  roundId: string;
}

const QUEUE = 'rounds';
const JOB_CONCURRENCY = 8;
/** Devices that connect at the same time are looked at together. */
const PRESENCE_PAUSE_MS = 25;

/** Puts the training engine together. Nothing runs before `start`. */
export function createTrainingEngine(options: TrainingEngineOptions): TrainingEngine {
  const { database, jobs, objects, aggregator, registry, clientFormats, clock, logger, settings = {} } = options;
  const sweepEveryMs = settings.sweepEveryMs ?? 5_000;
  const announcer = new Announcer(database, clock, logger);
  const events = new EventFeed(database);
  const rounds = new RoundStore(database, settings);
  const store = new AssignmentStore(database);
  const sessionStore = new SessionStore(database);
  const facts = new RoundFactsReader(database);
  const selector = new DeviceSelector(database);
  const layouts = new BaseLayouts(objects);
  const retention = new Retention({ database, objects, logger, clock, settings: settings.retention ?? {} });

  let folder: Promise<string> | undefined;
  const temporaryFolder = async (): Promise<string> => {
    folder ??= makeFolder(settings.temporaryFolder ?? tmpdir());
    const path = await folder;
    // One that lay idle for a day may have been taken for a dead coordinator's.
    await mkdir(path, { recursive: true });
    return path;
  };
  const tellDevices = (deviceIds: readonly string[]): void => {
    if (deviceIds.length === 0) return;
    if (options.devices !== undefined) options.devices.notifyDevices(deviceIds);
    else for (const deviceId of deviceIds) announcer.announce(ASSIGNMENTS_CHANNEL, deviceId);
  };
  const tellSession = (sessionId: string): void => {
    events.wake(sessionId);
    if (database.kind === 'postgres') announcer.announce(EVENTS_CHANNEL, events.notice(sessionId));
  };
  let queue: JobQueue<RoundJob> | undefined;
  const addJob = (roundId: string, delayMs?: number): void => {
    queue?.add({ roundId }, delayMs === undefined ? {} : { delayMs }).catch((error: unknown) => {
      logger.warn({ error, roundId }, 'a wake-up could not be added; the sweep makes up for it');
    });
  };
  // One delayed job per session is enough: when it runs it adds the next, for the deadline of the round there is then.
  // By session, when its job is due: after that it says nothing, since another coordinator may have run the job.
  const followed = new BoundedMap<string, number>(10_000);
  const follow = (sessionId: string, roundId: string, untilDeadlineMs: number): void => {
    const nowMs = clock.now();
    if ((followed.get(sessionId) ?? 0) > nowMs) return;
    const delayMs = untilDeadlineMs + 50;
    followed.set(sessionId, nowMs + delayMs);
    addJob(roundId, delayMs);
  };
  const onDeadline = (round: RoundFacts): void =>
    follow(round.sessionId, round.id, round.config.roundDeadlineSeconds * 1_000);

  const owner = { id: settings.coordinatorId ?? randomUUID(), leaseMs: settings.ownerLeaseMs ?? 10_000 };
  const driver: RoundDriver = new RoundDriver({
    database,
    rounds,
    assignments: store,
    facts,
    selector,
    closer: new RoundCloser({
      ...{ database, rounds, objects, aggregator, registry, clientFormats, temporaryFolder },
      population: async (round) => {
        return (await selector.countPossible({ demand: demandOf(round) }, MAX_POPULATION)).possible;
      },
    }),
    clock,
    logger,
    coordinatorId: owner.id,
    ownerLeaseMs: owner.leaseMs,
    tellDevices,
    tellSession,
    onCollecting: (round) => {
      layouts
        .of(round)
        .catch((error: unknown) => logger.warn({ error, roundId: round.id }, 'a base could not be read'));
    },
    onDeadline,
  });
  const assignments = new Assignments({
    database,
    store,
    facts,
    layouts,
    objects,
    aggregator,
    driver,
    clock,
    logger,
    tellSession,
  });
  const sessions = new SessionService({
    database,
    sessions: sessionStore,
    selector,
    registry,
    confirmedSpecs: options.confirmedSpecs,
    objects,
    random: options.random ?? Math.random,
    wakeRound: (roundId) => void driver.wake(roundId),
    tellDevices,
    tellSession,
  });

  const openStore = new OpenStore(database);
  const open: OpenAdmission = {
    store: openStore,
    updates: new OpenUpdates({
      ...{ store: openStore, sessions, facts, registry, layouts, objects, aggregator, driver, tellSession },
    }),
    aggregate: new OpenAggregate({
      ...{ store: openStore, sessions, facts, registry, driver, events, clock, tellSession, owner },
    }),
    rounds: new OpenRounds({ store: openStore, facts }),
    personalized: new PersonalizedModels({ database, objects }),
    firstBase: (body, caller) => firstBase({ database, objects, registry, sessions, clientFormats }, body, caller),
  };

  const sweep = async (): Promise<void> => {
    let afterId: string | undefined = '';
    while (afterId !== undefined && !stopping.signal.aborted) {
      const due = await rounds.due(afterId);
      await Promise.all(due.map((roundId) => driver.wake(roundId)));
      afterId = due.at(-1);
    }
  };
  /** A job's round may be long over; its session's present one has a deadline too. */
  const handleJob = async ({ roundId }: RoundJob): Promise<void> => {
    const sessionId = (await facts.of(roundId))?.sessionId;
    if (sessionId === undefined) return;
    // Its job runs now, early or late; without a next one below, the session's next deadline adds one.
    followed.delete(sessionId);
    await driver.wake(roundId);
    const { rows } = await sql<{ id: string; delay: number }>`
      select r.id, greatest(0, extract(epoch from r.deadline_at - now()) * 1000)::float8 as delay
      from rounds r join rounds asked on asked.session_id = r.session_id
      where asked.id = ${roundId} and r.state in ('selecting', 'collecting') and r.deadline_at is not null
      order by r.number desc, r.attempt desc limit 1`.execute(database.kysely);
    const current = rows[0];
    if (current === undefined) return;
    if (current.id !== roundId) await driver.wake(current.id);
    if (current.delay > 0) follow(sessionId, current.id, current.delay);
  };

  let running = false;
  let cancelSweep = (): void => undefined;
  let cancelPresence: (() => void) | undefined;
  const stopListening: (() => Promise<void>)[] = [];
  let worker: JobWorker | undefined;
  const background = new Set<Promise<void>>();
  const inBackground = (what: string, work: () => Promise<void>): void => {
    const task = work()
      .catch((error: unknown) => logger.warn({ error }, `${what} failed; it is tried again`))
      .finally(() => background.delete(task));
    background.add(task);
  };
  /** Beside the sweeps: with many objects it takes long, and rounds must not wait for it. */
  let cleaning = false;
  let stopping = new AbortController();
  const cleanUp = (): void => {
    if (cleaning) return;
    cleaning = true;
    inBackground('deleting what is no longer needed', () =>
      retention.runIfDue(stopping.signal).finally(() => {
        cleaning = false;
      }),
    );
  };
  const scheduleSweep = (): void => {
    cancelSweep = clock.after(sweepEveryMs, () => {
      inBackground('the sweep of due rounds', async () => {
        try {
          await sweep();
        } finally {
          if (running) scheduleSweep();
        }
      });
      cleanUp();
    });
  };
  const onPresence = (): void => {
    if (cancelPresence !== undefined) return;
    cancelPresence = clock.after(PRESENCE_PAUSE_MS, () => {
      cancelPresence = undefined;
      if (running) inBackground('looking for rounds that wait for devices', sweep);
    });
  };

  return {
    assignments,
    sessions,
    store: sessionStore,
    events,
    retention,
    clock,
    open,
    described: async (roundId) => describedSites(inDeviceOrder(await rounds.acceptedAnswers(roundId))),
    temporaryFolder,
    wake: (roundId) => driver.wake(roundId),
    sweep,
    async start() {
      if (running) return;
      running = true;
      stopping = new AbortController();
      stopListening.push(await events.start());
      queue = await jobs.queue<RoundJob>(QUEUE);
      if (settings.worker === false) return;
      if (database.kind === 'pglite') await rounds.releaseAll();
      stopListening.push(await database.listen(PRESENCE_CHANNEL, onPresence));
      worker = await jobs.worker<RoundJob>(QUEUE, handleJob, JOB_CONCURRENCY);
      inBackground('the first sweep', sweep);
      scheduleSweep();
    },
    async stop() {
      running = false;
      stopping.abort();
      cancelSweep();
      cancelPresence?.();
      cancelPresence = undefined;
      await worker?.close();
      worker = undefined;
      for (const stop of stopListening.splice(0)) await stop();
      await driver.stop();
      await Promise.all(background);
      await announcer.settle();
      await queue?.close();
      queue = undefined;
      const made = await folder?.catch(() => undefined);
      folder = undefined;
      if (made !== undefined) await rm(made, { recursive: true, force: true });
    },
  };
}

async function makeFolder(parent: string): Promise<string> {
  await mkdir(parent, { recursive: true });
  return mkdtemp(join(parent, 'octomil-aggregation-'));
}
