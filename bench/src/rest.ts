import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { OctomilError } from '@octomil/shared/errors';
import pg from 'pg';
import { callApi, deviceRows, INSERT_DEVICES, makeDevice, uploadVersion } from './bench-seeds.js';
import { type CoordinatorProcess, freePort, startCoordinatorProcess } from './coordinator-process.js';
import { freshDatabase } from './fresh-database.js';
import type { RestLoadResult, RestLoadTask } from './rest-load-process.js';
import { type BenchmarkResult, percentile, type ResultValue } from './result.js';

export interface RestOptions {
  readonly requestsPerSecond: number;
  readonly connections: number;
  readonly seconds: number;
}

const WRITE_RATIO = 0.2;
const MODELS = 100;
const DEVICES = 10_000;

/**
 * Latency of the control plane under an open loop: every request has its moment, fixed beforehand, and its latency counts
 * from there, whatever happened to those before it (no coordinated omission). Four of five requests read. Then how many
 * reads are answered when each connection asks again at once.
 */
export async function restBench({ requestsPerSecond, connections, seconds }: RestOptions): Promise<BenchmarkResult> {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-bench-'));
  const database = await freshDatabase();
  if (database === undefined) throw new OctomilError('config_invalid', 'this benchmark needs PostgreSQL');
  const coordinator = await startCoordinatorProcess({
    dataDir: join(folder, 'coordinator'),
    databaseUrl: database.url,
    restPort: await freePort(),
    grpcPort: await freePort(),
    logFile: join(folder, 'coordinator.log'),
  });
  try {
    const task = await prepare(coordinator, database.url, { requestsPerSecond, connections, seconds });
    return summary(await runLoad(task));
  } finally {
    await coordinator.stop();
    await database.drop();
    await rm(folder, { recursive: true, force: true });
  }
}

/** Models with a version each, ten thousand devices, and a rollout that a tenth of them belongs to. */
async function prepare(
  coordinator: CoordinatorProcess,
  databaseUrl: string,
  options: RestOptions,
): Promise<RestLoadTask> {
  const client = { apiKey: coordinator.apiKey(), apiBase: `${coordinator.restUrl}/api/v1` };
  const modelIds: string[] = [];
  for (let index = 0; index < MODELS; index++) {
    const { id } = await callApi(client, 'POST', '/models', { name: `model ${index}`, framework: 'pytorch' });
    await uploadVersion(client, String(id), '1.0.0', 1_000);
    modelIds.push(String(id));
  }
  const devices = Array.from({ length: DEVICES }, makeDevice);
  const connection = new pg.Client({ connectionString: databaseUrl });
  await connection.connect();
  await connection.query(INSERT_DEVICES, [deviceRows(devices)]);
  await connection.query('vacuum analyze');
  await connection.end();
  const [modelId = ''] = modelIds;
  const rollout = await callApi(client, 'POST', `/models/${modelId}/rollouts`, {
    version: '1.0.0',
    rollout_percentage: 10,
    start_immediately: true,
  });
  return {
    ...options,
    restUrl: coordinator.restUrl,
    apiKey: client.apiKey,
    writeRatio: WRITE_RATIO,
    modelIds,
    deviceIds: devices.slice(0, 1_000).map(({ id }) => id),
    rollout: { modelId, id: Number(rollout['id']) },
  };
}

async function runLoad(task: RestLoadTask): Promise<RestLoadResult> {
  const child = fork(fileURLToPath(new URL('./rest-load-process.js', import.meta.url)), { execArgv: [] });
  child.send(task);
  const ended = once(child, 'exit').then(() => undefined);
  const answer = await Promise.race([once(child, 'message'), ended]);
  if (answer === undefined) throw new OctomilError('internal', 'the load process ended before its end');
  await ended;
  return answer[0] as RestLoadResult;
}

function summary(result: RestLoadResult): BenchmarkResult {
  const { latenciesMs, failures, lateMs } = result;
  const isRead = (kind: string): boolean => /^(read|list) /.test(kind);
  const all = (wanted: (kind: string) => boolean): number[] =>
    Object.entries(latenciesMs).flatMap(([kind, latencies]) => (wanted(kind) ? latencies : []));
  const reads = all(isRead);
  const writes = all((kind) => !isRead(kind));
  const both = [...reads, ...writes];
  const kinds: Record<string, ResultValue> = {};
  for (const [kind, latencies] of Object.entries(latenciesMs)) {
    kinds[kind] = `p50 ${shown(percentile(latencies, 0.5))}, p99 ${shown(percentile(latencies, 0.99))}`;
  }
  return {
    requests: both.length,
    failed: Object.keys(failures).length === 0 ? 0 : JSON.stringify(failures),
    readP50Ms: rounded(percentile(reads, 0.5)),
    readP99Ms: rounded(percentile(reads, 0.99)),
    writeP50Ms: rounded(percentile(writes, 0.5)),
    writeP99Ms: rounded(percentile(writes, 0.99)),
    p99Ms: rounded(percentile(both, 0.99)),
    maxMs: rounded(Math.max(...both)),
    sentLateP50Ms: rounded(lateMs.p50),
    sentLateP99Ms: rounded(lateMs.p99),
    saturationReadsPerSecond: Math.round(result.saturationReadsPerSecond),
    saturationFailures: result.saturationFailures,
    ...kinds,
  };
}

function rounded(value: number): number {
  return Math.round(value * 100) / 100;
}

function shown(value: number): string {
  return `${rounded(value)} ms`;
}
