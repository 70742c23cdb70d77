import { createHash, randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Assignment } from '@octomil/proto';
import { initialWeights } from '@octomil/shared/models';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { FileObjectStore, type ObjectStore } from '@octomil/shared/storage';
import { encodeWeights } from '@octomil/shared/tensors';
import { ABILITIES } from '@octomil/shared/training';
import { sql } from 'kysely';
import { aggregate } from '../../aggregation/aggregate.js';
import { validateUpdate } from '../../aggregation/validate-update.js';
import type { Database } from '../../database/database.js';
import type { OpenDatabase } from '../../database/open-database.js';
import { ProposalStore } from '../../features/proposal-store.js';
import type { Jobs } from '../../jobs/jobs.js';
import { Registry } from '../../models/registry.js';
import type { AssignmentKey, UpdateHeaderFields, Verdict } from '../assignment-port.js';
import { createTrainingEngine, type TrainingEngine, type TrainingSettings } from '../engine.js';
import type { SessionEvent } from '../event-feed.js';
import type { TrainingAggregator } from '../ports.js';

/** Every wake-up is lost: what passes with these jobs does not depend on any. */
const lossyJobs: Jobs = {
  backend: 'pglite',
  queue: async () => ({ add: async () => undefined, close: async () => undefined }),
  worker: async () => ({ close: async () => undefined }),
  close: async () => undefined,
};

/** The real arithmetic, on this thread. */
export const inlineAggregator: TrainingAggregator = {
  aggregate: (job, signal) => aggregate(job, signal),
  validate: (job, signal) => validateUpdate(job, signal),
};

export interface Fixture {
  readonly database: Database;
  readonly objects: ObjectStore;
  readonly registry: Registry;
  readonly organizationId: string;
  readonly modelId: string;
  engine(options?: {
    aggregator?: TrainingAggregator;
    settings?: TrainingSettings;
    /** Default: jobs that are all lost. */
    jobs?: Jobs;
  }): Promise<TrainingEngine>;
  device(name: string, options?: DeviceOptions): Promise<string>;
  setOnline(deviceId: string, online: boolean): Promise<void>;
  /** Starts a session of echo rounds. */
  session(engine: TrainingEngine, body?: Record<string, unknown>): Promise<string>;
  state(sessionId: string): Promise<{ state: string; reason_code: string | null; reason: string | null }>;
  rounds(sessionId: string): Promise<RoundState[]>;
  events(engine: TrainingEngine, sessionId: string): Promise<SessionEvent[]>;
  close(): Promise<void>;
}

export interface RoundState {
  readonly id: string;
  readonly kind: string;
  readonly number: number;
  readonly attempt: number;
  readonly state: string;
  readonly reason: string | null;
  readonly sha256: string | null;
}

export interface DeviceOptions {
  readonly labels?: Record<string, string>;
  /** Default: those of an agent of today. */
  readonly capabilities?: Record<string, unknown>;
  readonly site?: object;
  readonly online?: boolean;
  readonly organizationId?: string;
}

const NEWEST_AGENT = { trainers: ['tfjs', 'echo'], strategies: ['scaffold'], abilities: ABILITIES };
export const ALLOW_ALL = {
  dataSets: [{ name: 'default', rowCount: 100, format: 'csv', digest: 'digest', problem: '' }],
  policyRules: [{ name: 'all', federations: ['*'], models: ['*'], dataSets: ['*'] }],
};

export async function openFixture(open: () => Promise<OpenDatabase>): Promise<Fixture> {
  const database = await open();
  const folder = await mkdtemp(join(tmpdir(), 'octomil-training-test-'));
  const objects = await FileObjectStore.open({ folder, durable: false, clock: systemClock });
  const registry = new Registry({ database, objects });
  const organizationId = randomUUID();
  const modelId = randomUUID();
  await database.kysely.insertInto('organizations').values({ id: organizationId, name: 'tests' }).execute();
  await database.kysely
    .insertInto('models')
    .values({ id: modelId, organization_id: organizationId, name: 'heart', description: '' } as never)
    .execute();
  const engines: TrainingEngine[] = [];
  return {
    database,
    objects,
    registry,
    organizationId,
    modelId,
    async engine({ aggregator = inlineAggregator, settings = {}, jobs = lossyJobs } = {}) {
      const engine = createTrainingEngine({
        database,
        jobs,
        objects,
        aggregator,
        registry,
        confirmedSpecs: new ProposalStore(database),
        clock: systemClock,
        logger: silentLogger,
        random: () => 0.5,
        // Tests say themselves when a sweep is due.
        settings: { sweepEveryMs: 3_600_000, ...settings },
      });
      engines.push(engine);
      await engine.start();
      return engine;
    },
    async device(name, options = {}) {
      const id = randomUUID();
      await sql`insert into devices (id, organization_id, device_identifier, placement, labels, capabilities, site,
          session_process_id, lease_until)
        values (${id}, ${options.organizationId ?? organizationId}, ${name},
          ${createHash('sha256').update(name).digest().readUInt32BE(0) / 2 ** 32}::float8,
          ${JSON.stringify(options.labels ?? {})}::jsonb, ${JSON.stringify(options.capabilities ?? NEWEST_AGENT)}::jsonb,
          ${JSON.stringify(options.site ?? ALLOW_ALL)}::jsonb,
          ${options.online === false ? sql`null, null` : sql`'process', now() + interval '1 hour'`})`.execute(
        database.kysely,
      );
      return id;
    },
    async setOnline(deviceId, online) {
      await sql`update devices set (session_process_id, lease_until) =
          (${online ? sql`'process', now() + interval '1 hour'` : sql`null, null`})
        where id = ${deviceId}`.execute(database.kysely);
    },
    async session(engine, body = {}) {
      const created = await engine.sessions.create(
        {
          model: 'heart',
          trainer: 'echo',
          architecture: 'logistic',
          input_width: 4,
          rounds: 2,
          min_updates: 2,
          seed: 7,
          ...body,
        },
        { organizationId, name: 'test' },
      );
      await engine.wake(created.roundId);
      return created.id;
    },
    async state(sessionId) {
      const { rows } = await sql<{ state: string; reason_code: string | null; reason: string | null }>`
        select state, reason_code, reason from training_sessions where id = ${sessionId}`.execute(database.kysely);
      return rows[0] ?? { state: 'none', reason_code: null, reason: null };
    },
    async rounds(sessionId) {
      const { rows } = await sql<RoundState>`
        select r.id, r.kind, r.number, r.attempt, r.state, r.reason, c.sha256 from rounds r
        left join checkpoints c on c.id = r.checkpoint_id
        where r.session_id = ${sessionId} order by r.number, r.attempt`.execute(database.kysely);
      return rows;
    },
    events: (engine, sessionId) => engine.events.read(sessionId, 0, 10_000),
    async close() {
      for (const engine of engines) await engine.stop();
      await database.close();
      await objects.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** What an echo trainer of that device would send: small, and different for each device. */
export function updateOf(deviceName: string, format: 'delta' | 'weights' = 'delta'): Uint8Array {
  const change = createHash('sha256').update(deviceName).digest().readUInt32BE(0) / 2 ** 32;
  const tensors = initialWeights({ name: 'logistic', output: { kind: 'binary' } }, 4, 7);
  return encodeWeights(
    tensors.map((tensor) => ({
      ...tensor,
      data: tensor.data.map((value) => (format === 'delta' ? change : value + change)),
    })),
  );
}

export function keyOf(assignment: Assignment): AssignmentKey {
  return { assignmentId: assignment.ref?.assignmentId ?? '', attempt: assignment.ref?.attempt ?? 0 };
}

export function headerOf(
  key: AssignmentKey,
  bytes: Uint8Array,
  fields: Partial<UpdateHeaderFields> = {},
): UpdateHeaderFields {
  return {
    key,
    format: 'delta',
    sizeBytes: bytes.length,
    sha256: createHash('sha256').update(bytes).digest('hex'),
    sampleCount: 10,
    metrics: { trainLoss: 0.5 },
    ...fields,
  };
}

/** The device's only open assignment; a round is there a moment before its assignments are. */
export async function assignmentOf(engine: TrainingEngine, deviceId: string): Promise<Assignment> {
  let found: Assignment | undefined;
  await until(async () => {
    [found] = await engine.assignments.openAssignments(deviceId);
    return found !== undefined;
  }, 2_000);
  if (found === undefined) throw new TypeError(`device ${deviceId} has no open assignment`);
  return found;
}

/** Accepts and answers the device's open assignment. */
export async function answer(engine: TrainingEngine, deviceId: string, name: string): Promise<Verdict> {
  const key = keyOf(await assignmentOf(engine, deviceId));
  await engine.assignments.accept(deviceId, key);
  const bytes = updateOf(name);
  return engine.assignments.submitUpdate(deviceId, headerOf(key, bytes), { bytes });
}

/** Waits for something that happens by itself, in turns of the event loop. */
export async function until(condition: () => Promise<boolean>, turns = 10_000): Promise<void> {
  for (let turn = 0; turn < turns; turn += 1) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  throw new TypeError('it did not happen');
}
