import type { Clock, Logger } from '@octomil/shared/runtime';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { JobQueue, Jobs, JobWorker } from '../jobs/jobs.js';
import { AffectedDevices, type AffectedPage, type PageRequest } from './affected-devices.js';
import type { DesiredDeviceModel, DeviceFacts } from './desired.js';
import { readDeviceFacts } from './device-facts.js';
import { Downloads } from './downloads.js';
import { type DesiredListener, HeldDevices } from './held-devices.js';
import { Observations } from './observations.js';
import { type ObservedDeviceModel, parseObserved, type RawObservedModel } from './observed.js';
import { RolloutCommands, type RolloutRegistry } from './rollout-commands.js';
import { type Judgement, type RolloutAudit, RolloutDriver } from './rollout-driver.js';
import { type Rollout, RolloutStore } from './rollout-store.js';
import { RolloutsInForce, type StoredObject } from './rollouts-in-force.js';

export interface RolloutServiceOptions {
  readonly database: Database;
  readonly jobs: Jobs;
  readonly registry: RolloutRegistry;
  readonly audit: RolloutAudit;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Uniform in [0, 1): where in the placements each rollout begins. Default `Math.random`. */
  readonly random?: () => number;
  readonly settings?: RolloutSettings;
}

export interface RolloutSettings {
  /** How often rollouts are looked at without a notification. Default 5,000. */
  readonly sweepEveryMs?: number;
  /** How long reachable devices may take to leave a rollout that is rolled back. Default 600,000. */
  readonly rollbackWithinMs?: number;
  /** How long gates are judged after a rollout is completed. Default 600. */
  readonly watchSeconds?: number;
}

/** What device sessions need of rollouts. */
export interface DesiredPort {
  /** Called after Welcome: from now on the listener is told what its device should run. */
  opened(listener: DesiredListener): void;
  closed(listener: DesiredListener): void;
  /** Labels, groups or capabilities of a device changed. On this coordinator at once, on others by a notification. */
  devicesChanged(deviceIds: readonly string[]): void;
  /**
   * Stores what a device says it runs; answers once it is durable. Models that are not its organization's are left out.
   *
   * @throws OctomilError `invalid_input` naming the field
   */
  observeRaw(deviceId: string, models: readonly RawObservedModel[]): Promise<ReadonlySet<string>>;
}

/** What transfers need of rollouts. */
export interface DownloadPort {
  /** The file with this digest, if the device should run a version that holds it. For one with a session, from memory. */
  desiredObject(deviceId: string, sha256: string): Promise<StoredObject | undefined>;
  /** The same for what a rollout ever told the device to run, so that it can go back. */
  toldObject(deviceId: string, sha256: string): Promise<StoredObject | undefined>;
  /** A file that a device may have is gone from the object store: rollouts under way that need it fail. */
  objectMissing(objectKey: string): Promise<void>;
}

/** Staged deployments that look after themselves. */
export interface RolloutService extends DesiredPort, DownloadPort {
  readonly commands: RolloutCommands;
  readonly store: RolloutStore;
  /** Everything the device should run, by model id. Nothing for devices that are revoked or unknown. */
  desiredState(deviceId: string): Promise<readonly DesiredDeviceModel[]>;
  /** As `observeRaw`, for entries that were read already. */
  observe(deviceId: string, models: readonly ObservedDeviceModel[]): Promise<ReadonlySet<string>>;
  affectedDevices(rollout: Rollout, page: PageRequest): Promise<AffectedPage>;
  /** How many devices are in its present share: exact up to fifty thousand. */
  countAffected(rollout: Rollout): Promise<{ readonly total: number; readonly totalIsExact: boolean }>;
  /** The plan of a page's statement. */
  explainAffected(rollout: Rollout, limit: number): Promise<string>;
  judgement(rollout: Rollout): Promise<Judgement | undefined>;
  /** Takes a rollout back or pauses it, if the judgement is a breach. */
  breach(rollout: Rollout, judgement: Judgement): Promise<boolean>;
  /** Looks at a rollout and does what is due. Safe at any time. */
  wake(rolloutId: number): Promise<void>;
  /** Looks at everything. */
  sweep(): Promise<void>;
  /** Rollouts that were active, paused or rolling back at the last sweep. */
  readonly unsettled: number;
  start(): Promise<void>;
  stop(): Promise<void>;
}

/** NOTIFY channel: `organization <id>` when its rollouts changed, `device <id>` when what decides about it did. */
export const DESIRED_CHANNEL = 'octomil_desired';

const QUEUE = 'rollouts';
const JOB_CONCURRENCY = 4;
/** Every so many sweeps, what decides about held devices is read again. */
const REFRESH_EVERY = 12;
/** Facts of devices without a session are kept so long: one that downloads asks many times. */
const FACTS_MS = 5_000;
const MAX_FACTS = 10_000;

interface RolloutJob {
  rolloutId: number;
}

export function createRolloutService(options: RolloutServiceOptions): RolloutService {
  const { database, jobs, registry, audit, clock, logger, settings = {} } = options;
  const store = new RolloutStore(database);
  const inForce = new RolloutsInForce(database, clock);
  const held = new HeldDevices(database, inForce, clock, logger);
  const observations = new Observations(database, clock);
  const affected = new AffectedDevices(database);
  let running = false;
  let cancelSweep = (): void => undefined;
  let sweeping: Promise<void> | undefined;
  let sweeps = 0;
  let unsettled = 0;
  let stopListening: (() => Promise<void>) | undefined;
  let queue: JobQueue<RolloutJob> | undefined;
  let worker: JobWorker | undefined;

  const notify = (payloads: readonly string[]): void => {
    // On the embedded database there is no other process to tell.
    if (database.kind === 'pglite' || payloads.length === 0) return;
    // One statement: a group may gain ten thousand devices, and nothing else would get a connection meanwhile.
    sql`select pg_notify(${DESIRED_CHANNEL}, payload)
      from json_array_elements_text(${JSON.stringify(payloads)}::text::json) as payload`
      .execute(database.kysely)
      .catch((error: unknown) => logger.warn({ error }, 'other coordinators were not told; they will look in 5 s'));
  };
  const organizationChanged = (organizationId: string): void => {
    inForce.invalidate(organizationId);
    held.organizationChanged(organizationId);
  };
  const addJob = (rolloutId: number, delayMs: number): void => {
    queue?.add({ rolloutId }, { delayMs }).catch((error: unknown) => {
      logger.warn({ error, rolloutId }, 'a wake-up could not be added; the sweep makes up for it');
    });
  };
  const changed = (rollout: Rollout): void => {
    organizationChanged(rollout.organization_id);
    notify([`organization ${rollout.organization_id}`]);
    if (rollout.state === 'active' && rollout.advance_every_seconds !== null) {
      addJob(rollout.id, rollout.advance_every_seconds * 1000 + 50);
    }
    if (rollout.state === 'rolling_back') driver.observed(rollout.id);
  };
  const driver: RolloutDriver = new RolloutDriver({
    database,
    store,
    audit,
    clock,
    logger,
    rollbackWithinMs: settings.rollbackWithinMs ?? 600_000,
    watchSeconds: settings.watchSeconds ?? 600,
    changed,
  });

  const otherFacts = new Map<string, { readonly facts: DeviceFacts; readonly untilMs: number }>();
  const factsOf = async (deviceId: string): Promise<DeviceFacts | undefined> => {
    const here = held.factsOf(deviceId);
    if (here !== undefined) return here;
    const known = otherFacts.get(deviceId);
    if (known !== undefined && known.untilMs > clock.now()) return known.facts;
    const facts = (await readDeviceFacts(database, [deviceId])).get(deviceId);
    if (otherFacts.size >= MAX_FACTS) otherFacts.clear();
    if (facts !== undefined) otherFacts.set(deviceId, { facts, untilMs: clock.now() + FACTS_MS });
    return facts;
  };
  const deviceChanged = (deviceId: string): void => {
    otherFacts.delete(deviceId);
    held.deviceChanged(deviceId);
  };
  const downloads = new Downloads({ database, inForce, factsOf, clock });

  const observe = async (deviceId: string, models: readonly ObservedDeviceModel[]): Promise<ReadonlySet<string>> => {
    const stored = await observations.store(deviceId, models);
    const device = stored.size === 0 ? undefined : await factsOf(deviceId);
    if (device === undefined) return stored;
    for (const { id, modelId } of (await inForce.of(device.organizationId)).watched) {
      if (stored.has(modelId)) driver.observed(id);
    }
    return stored;
  };

  const sweep = async (): Promise<void> => {
    sweeps += 1;
    const organizationIds = held.organizationIds();
    inForce.retain(organizationIds);
    for (const id of organizationIds) organizationChanged(id);
    if (sweeps % REFRESH_EVERY === 0) held.refresh();
    await driver.sweep();
    unsettled = await store.countUnsettled();
  };
  const scheduleSweep = (): void => {
    cancelSweep = clock.after(settings.sweepEveryMs ?? 5_000, () => {
      sweeping = sweep()
        .catch((error: unknown) => logger.warn({ error }, 'could not look at rollouts; trying again'))
        .finally(() => {
          sweeping = undefined;
          if (running) scheduleSweep();
        });
    });
  };

  return {
    commands: new RolloutCommands({ database, store, registry, random: options.random ?? Math.random, changed }),
    store,
    opened: (listener) => held.opened(listener),
    closed: (listener) => held.closed(listener),
    devicesChanged: (deviceIds) => {
      for (const deviceId of deviceIds) deviceChanged(deviceId);
      notify(deviceIds.map((deviceId) => `device ${deviceId}`));
    },
    desiredState: async (deviceId) => {
      const device = await factsOf(deviceId);
      return device === undefined ? [] : (await inForce.of(device.organizationId)).desiredBy(device).models;
    },
    observe,
    observeRaw: async (deviceId, models) => observe(deviceId, parseObserved(models)),
    desiredObject: (deviceId, sha256) => downloads.desired(deviceId, sha256),
    toldObject: (deviceId, sha256) => downloads.told(deviceId, sha256),
    objectMissing: (objectKey) => driver.objectMissing(objectKey),
    affectedDevices: (rollout, page) => affected.page(rollout, page),
    countAffected: (rollout) => affected.count(rollout),
    explainAffected: (rollout, limit) => affected.explain(rollout, limit),
    judgement: (rollout) => driver.judgement(rollout),
    breach: (rollout, judgement) => driver.breach(rollout, judgement),
    wake: (rolloutId) => driver.wake(rolloutId),
    sweep,
    get unsettled() {
      return unsettled;
    },
    start: async () => {
      if (running) return;
      running = true;
      stopListening = await database.listen(DESIRED_CHANNEL, (payload) => {
        const [kind, id = ''] = payload.split(' ');
        if (kind === 'organization') organizationChanged(id);
        else if (kind === 'device') deviceChanged(id);
      });
      queue = await jobs.queue<RolloutJob>(QUEUE);
      worker = await jobs.worker<RolloutJob>(QUEUE, ({ rolloutId }) => driver.wake(rolloutId), JOB_CONCURRENCY);
      scheduleSweep();
    },
    stop: async () => {
      running = false;
      cancelSweep();
      await sweeping;
      await driver.stop();
      await worker?.close();
      await queue?.close();
      queue = undefined;
      await stopListening?.();
      stopListening = undefined;
    },
  };
}
