// Sends requests for the REST benchmark: first at moments that are fixed beforehand, then as fast as answers come.
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { OctomilError } from '@octomil/shared/errors';
import { seededRandom } from '@octomil/shared/models';
import { encodeRequest, LeanPool } from './lean-connection.js';
import { monotonicMs, type PacerTask } from './pacer.js';
import { percentile } from './result.js';

export interface RestLoadTask {
  readonly restUrl: string;
  readonly apiKey: string;
  readonly connections: number;
  readonly requestsPerSecond: number;
  readonly seconds: number;
  /** Share of writes among the requests. */
  readonly writeRatio: number;
  readonly modelIds: readonly string[];
  readonly deviceIds: readonly string[];
  readonly rollout: { readonly modelId: string; readonly id: number };
}

export interface RestLoadResult {
  /** Latencies by kind of request, in milliseconds from the moment that was fixed for it. */
  readonly latenciesMs: Readonly<Record<string, readonly number[]>>;
  readonly failures: Readonly<Record<string, number>>;
  /** How late requests were sent: what this process and the machine add. */
  readonly lateMs: { readonly p50: number; readonly p99: number };
  readonly saturationReadsPerSecond: number;
  readonly saturationFailures: number;
}

type Kind = keyof typeof READS | keyof typeof WRITES;
type Build = (task: RestLoadTask, draw: () => number) => Buffer;

const get = ({ apiKey }: RestLoadTask, path: string): Buffer =>
  encodeRequest({ method: 'GET', path: `/api/v1${path}`, bearer: apiKey });

const READS = {
  'read model': (task, draw) => get(task, `/models/${oneOf(task.modelIds, draw)}`),
  'read version': (task, draw) => get(task, `/models/${oneOf(task.modelIds, draw)}/versions/1.0.0`),
  'list models': (task, draw) => get(task, `/models?limit=20&offset=${20 * Math.floor(draw() * 5)}`),
  'read rollout': (task) => get(task, `/models/${task.rollout.modelId}/rollouts/${task.rollout.id}`),
  'read device': (task, draw) => get(task, `/devices/${oneOf(task.deviceIds, draw)}`),
} as const satisfies Readonly<Record<string, Build>>;

const WRITES = {
  'create model': ({ apiKey }) =>
    encodeRequest({
      method: 'POST',
      path: '/api/v1/models',
      bearer: apiKey,
      headers: { 'idempotency-key': randomUUID() },
      body: { name: `made-${randomUUID()}`, framework: 'pytorch', description: 'made by the benchmark' },
    }),
  'patch metrics': (task, draw) =>
    encodeRequest({
      method: 'PATCH',
      path: `/api/v1/models/${oneOf(task.modelIds, draw)}/versions/1.0.0/metrics`,
      bearer: task.apiKey,
      body: { metrics: { accuracy: draw(), loss: draw() } },
    }),
  'patch labels': (task, draw) =>
    encodeRequest({
      method: 'PATCH',
      path: `/api/v1/devices/${oneOf(task.deviceIds, draw)}`,
      bearer: task.apiKey,
      body: { labels: { ring: String(Math.floor(draw() * 10)) } },
    }),
  heartbeat: (task, draw) =>
    encodeRequest({
      method: 'POST',
      path: `/api/v1/devices/${oneOf(task.deviceIds, draw)}/heartbeat`,
      bearer: task.apiKey,
      body: { battery_pct: Math.floor(draw() * 100) },
    }),
} as const satisfies Readonly<Record<string, Build>>;

const BUILDS: Readonly<Record<Kind, Build>> = { ...READS, ...WRITES };
const WARM_UP_SECONDS = 5;
const SATURATION_SECONDS = 10;

process.once('message', (message) => {
  run(message as RestLoadTask).then(
    (result) => process.send?.(result, () => process.exit(0)),
    (error: unknown) => {
      console.error(error);
      process.exit(1);
    },
  );
});

async function run(task: RestLoadTask): Promise<RestLoadResult> {
  const pool = await LeanPool.open(task.restUrl, task.connections);
  await openLoop(pool, task, WARM_UP_SECONDS, 1);
  const measured = await openLoop(pool, task, task.seconds, 2);
  await saturate(pool, task, 2);
  const saturation = await saturate(pool, task, SATURATION_SECONDS);
  pool.close();
  return { ...measured, ...saturation };
}

/** Moments of a Poisson process, so that requests come in bursts too; a slow answer delays none of them. */
async function openLoop(
  pool: LeanPool,
  task: RestLoadTask,
  seconds: number,
  seed: number,
): Promise<Pick<RestLoadResult, 'latenciesMs' | 'failures' | 'lateMs'>> {
  const draw = drawing(seed);
  const plan = Array.from({ length: Math.round(task.requestsPerSecond * seconds) }, () => {
    const kind = oneOf(Object.keys(draw() < task.writeRatio ? WRITES : READS) as Kind[], draw);
    return { kind, bytes: BUILDS[kind](task, draw) };
  });
  const momentsMs = new Float64Array(plan.length);
  let atMs = monotonicMs() + 500;
  for (let index = 0; index < plan.length; index++) {
    atMs += (-Math.log(1 - draw()) / task.requestsPerSecond) * 1000;
    momentsMs[index] = atMs;
  }
  const latenciesMs: Record<string, number[]> = Object.fromEntries(Object.keys(BUILDS).map((kind) => [kind, []]));
  const failures: Record<string, number> = {};
  const lateMs: number[] = [];
  const pending: Promise<void>[] = [];
  const pacer = new Worker(new URL('./pacer.js', import.meta.url), { workerData: { momentsMs } satisfies PacerTask });
  pacer.on('message', (index: number) => {
    const planned = plan[index];
    const dueMs = momentsMs[index];
    if (planned === undefined || dueMs === undefined) return;
    lateMs.push(monotonicMs() - dueMs);
    pending.push(
      pool.exchange(planned.bytes).then(({ status }) => {
        latenciesMs[planned.kind]?.push(monotonicMs() - dueMs);
        if (status >= 300) failures[`${planned.kind} ${status}`] = (failures[`${planned.kind} ${status}`] ?? 0) + 1;
      }),
    );
  });
  await once(pacer, 'exit');
  await Promise.all(pending);
  return { latenciesMs, failures, lateMs: { p50: percentile(lateMs, 0.5), p99: percentile(lateMs, 0.99) } };
}

/** Each connection asks again as soon as it was answered. Requests are encoded beforehand. */
async function saturate(
  pool: LeanPool,
  task: RestLoadTask,
  seconds: number,
): Promise<Pick<RestLoadResult, 'saturationReadsPerSecond' | 'saturationFailures'>> {
  const draw = drawing(3);
  const requests = Array.from({ length: 2_000 }, () => oneOf(Object.values(READS) as Build[], draw)(task, draw));
  const startedMs = monotonicMs();
  const untilMs = startedMs + seconds * 1000;
  let answered = 0;
  let failures = 0;
  await Promise.all(
    Array.from({ length: task.connections }, async (_, index) => {
      for (let next = index; monotonicMs() < untilMs; next += task.connections) {
        const request = requests[next % requests.length];
        if (request === undefined) throw new OctomilError('internal', 'there is nothing to ask');
        const { status } = await pool.exchange(request);
        answered += 1;
        if (status >= 300) failures += 1;
      }
    }),
  );
  const tookSeconds = (monotonicMs() - startedMs) / 1000;
  return { saturationReadsPerSecond: answered / tookSeconds, saturationFailures: failures };
}

function oneOf<T>(items: readonly T[], draw: () => number): T {
  const item = items[Math.floor(draw() * items.length)];
  if (item === undefined) throw new OctomilError('internal', 'there is nothing to choose from');
  return item;
}

/** The same requests in every run. */
function drawing(seed: number): () => number {
  const random = seededRandom(seed, 'rest');
  return () => random.uniform();
}
