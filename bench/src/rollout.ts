import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { OctomilError } from '@octomil/shared/errors';
import pg from 'pg';
import {
  callApi,
  deviceRows,
  INSERT_DEVICES,
  makeDevice,
  type SeededDevice,
  type SeededVersion,
  uploadVersion,
} from './bench-seeds.js';
import { freePort, startCoordinatorProcess } from './coordinator-process.js';
import { freshDatabase } from './fresh-database.js';
import { processTimeMs } from './process-time.js';
import type { BenchmarkResult, ResultValue } from './result.js';
import type { BenchClient } from './session-run.js';
import { SimulatedFleet } from './simulated-fleet.js';
import type { Fault, FleetTask } from './simulated-fleet-process.js';

export interface RolloutOptions {
  readonly devices: number;
  readonly connections: number;
}

const ARTIFACT_BYTES = 1_000;
const DOWNLOADS_AT_ONCE = 50;
const GIVE_UP_MS = 120_000;
/** Devices outside a canary that ask for its file all the same. */
const INTRUDERS = 100;
/** What each step adds, in percent. */
const STEPS = [9, 40, 50];

/**
 * A fleet that follows rollouts over real sessions (leases of 15 s) and real downloads: one version for all, two bad
 * canaries that are caught and taken back, and a good version through 1, 10, 50 and 100 %. A device counts as converged
 * once it runs the version and has the coordinator's receipt for saying so. After every stage, the devices that were ever
 * told of a version must be exactly those of the stage.
 */
export async function rolloutBench({ devices: count, connections }: RolloutOptions): Promise<BenchmarkResult> {
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
  const connection = new pg.Client({ connectionString: database.url });
  let fleet: SimulatedFleet | undefined;
  try {
    await connection.connect();
    const devices = Array.from({ length: count }, makeDevice);
    await connection.query(INSERT_DEVICES, [deviceRows(devices)]);
    const client = { apiKey: coordinator.apiKey(), apiBase: `${coordinator.restUrl}/api/v1` };
    const model = await callApi(client, 'POST', '/models', { name: 'fleet', framework: 'pytorch' });
    const modelId = String(model['id']);
    const upload = (version: string) => uploadVersion(client, modelId, version, ARTIFACT_BYTES);
    const [first, broken, wrong, good] = [
      await upload('1.0.0'),
      await upload('1.1.0'),
      await upload('1.2.0'),
      await upload('2.0.0'),
    ];
    const connectingAtMs = Date.now();
    fleet = await SimulatedFleet.start(
      {
        restUrl: coordinator.restUrl,
        grpcAddress: coordinator.grpcAddress,
        connections,
        downloads: DOWNLOADS_AT_ONCE,
        devices,
        faults: { [broken.versionId]: 'activation', [wrong.versionId]: 'inference' } satisfies Record<string, Fault>,
      } satisfies FleetTask,
      join(folder, 'fleet.log'),
    );
    const connectSeconds = (Date.now() - connectingAtMs) / 1000;
    const trial: Trial = { client, connection, fleet, devices, modelId };
    const busyFrom = processTimeMs(coordinator.pid);

    const everyone = await begin(trial, first, { rollout_percentage: 100 });
    const firstSeconds = await converge(trial, first, everyone.id, everyone.atMs);
    const idleCpu = await idleShare(coordinator.pid);
    const brokenResult = await badCanary(trial, broken, first);
    const wrongResult = await badCanary(trial, wrong, first);
    const stages = await goodRollout(trial, good);

    const status = await fleet.status(good.versionId);
    return {
      connectSeconds: rounded(connectSeconds),
      firstForAllSeconds: rounded(firstSeconds),
      idleCoordinatorCores: rounded(idleCpu),
      ...prefixed('broken', brokenResult),
      ...prefixed('wrong', wrongResult),
      ...stages,
      sessionsLost: status.lost,
      sessionsLostReason: status.lostReason,
      downloads: status.downloads,
      downloadFailures: status.downloadFailures,
      slowestRenewalMs: Math.round(status.slowestRenewalMs),
      coordinatorCpuSeconds: rounded((processTimeMs(coordinator.pid) - busyFrom) / 1000),
      coordinatorPeakRssMiB: Math.round(coordinator.peakRssMiB()),
    };
  } finally {
    await fleet?.stop();
    await connection.end();
    await coordinator.stop();
    await database.drop();
    await rm(folder, { recursive: true, force: true });
  }
}

interface Trial {
  readonly client: BenchClient;
  readonly connection: pg.Client;
  readonly fleet: SimulatedFleet;
  readonly devices: readonly SeededDevice[];
  readonly modelId: string;
}

/** Creates and starts a rollout; `atMs` is the moment before it was asked to start. */
async function begin(
  { client, modelId }: Trial,
  { version }: SeededVersion,
  fields: object,
): Promise<{ id: number; atMs: number }> {
  const atMs = Date.now();
  const path = `/models/${modelId}/rollouts`;
  const { id } = await callApi(client, 'POST', path, { version, start_immediately: true, ...fields });
  return { id: Number(id), atMs };
}

/** Waits until every device of the stage has converged, and answers the seconds that the last one took. */
async function converge(trial: Trial, version: SeededVersion, rolloutId: number, sinceMs: number): Promise<number> {
  const inside = await insideOf(trial, rolloutId);
  for (;;) {
    const { settled, lastSettledAtMs, lost, lostReason, downloadFailures } = await trial.fleet.status(
      version.versionId,
    );
    if (settled >= inside.size) {
      await checkTold(trial, version, inside);
      return (lastSettledAtMs - sinceMs) / 1000;
    }
    if (Date.now() - sinceMs > GIVE_UP_MS) {
      throw new OctomilError(
        'internal',
        `${settled} of ${inside.size} devices run version ${version.version} after ${GIVE_UP_MS} ms; ${lost} sessions were lost (${lostReason}), ${downloadFailures} downloads failed`,
      );
    }
    await sleep(50);
  }
}

/** Devices of the rollout's present share, computed here from placements. */
async function insideOf({ connection, devices }: Trial, rolloutId: number): Promise<Set<number>> {
  const { rows } = await connection.query<{ placement_offset: number; share_ratio: number }>(
    'select placement_offset, share_ratio from rollouts where id = $1',
    [rolloutId],
  );
  const [row] = rows;
  if (row === undefined) throw new OctomilError('internal', `there is no rollout ${rolloutId}`);
  const inside = new Set<number>();
  for (const [index, { placement }] of devices.entries()) {
    if ((placement + row.placement_offset) % 1 < row.share_ratio) inside.add(index);
  }
  return inside;
}

/** @throws OctomilError `internal` when a device outside was told of the version, or one inside was not */
async function checkTold({ fleet }: Trial, { version, versionId }: SeededVersion, inside: Set<number>): Promise<void> {
  const told = new Set(await fleet.told(versionId));
  const outside = [...told].filter((index) => !inside.has(index));
  const missing = [...inside].filter((index) => !told.has(index));
  if (outside.length === 0 && missing.length === 0) return;
  throw new OctomilError(
    'internal',
    `version ${version}: ${outside.length} devices outside the stage were told of it, ${missing.length} inside were not`,
  );
}

interface CanaryResult {
  readonly devices: number;
  readonly caughtSeconds: number;
  readonly backSeconds: number;
  readonly rolledBackSeconds: number;
}

/** A version that is bad on 1 % of the devices: how long until it is caught, and until every device is back. */
async function badCanary(trial: Trial, bad: SeededVersion, before: SeededVersion): Promise<CanaryResult> {
  const { client, fleet, devices, modelId } = trial;
  const { id, atMs } = await begin(trial, bad, {
    rollout_percentage: 1,
    health: { min_devices: Math.max(1, Math.floor(devices.length / 500)) },
  });
  const inside = await insideOf(trial, id);
  const path = `/models/${modelId}/rollouts/${id}`;
  let status: unknown;
  while (status !== 'rolled_back') {
    if (Date.now() - atMs > GIVE_UP_MS) {
      throw new OctomilError('internal', `version ${bad.version} is ${String(status)} after ${GIVE_UP_MS} ms`);
    }
    await sleep(100);
    status = (await callApi(client, 'GET', path))['status'];
  }
  let after = await fleet.status(before.versionId);
  while (after.settled < devices.length && Date.now() - atMs < GIVE_UP_MS) {
    await sleep(50);
    after = await fleet.status(before.versionId);
  }
  if (after.settled < devices.length) {
    throw new OctomilError('internal', `only ${after.settled} of ${devices.length} devices are back`);
  }
  const told = await fleet.told(bad.versionId);
  const strayed = told.filter((index) => !inside.has(index));
  if (strayed.length > 0) {
    throw new OctomilError('internal', `${strayed.length} devices outside the canary were told of the bad version`);
  }
  const outside = devices.flatMap((_, index) => (inside.has(index) ? [] : [index])).slice(0, INTRUDERS);
  const answers = await fleet.tryDownload(bad.sha256, outside);
  if (answers.some((answer) => answer !== 403 && answer !== 404)) {
    throw new OctomilError('internal', `a device outside the canary got its file: ${[...new Set(answers)].join(', ')}`);
  }
  const moves = (await callApi(client, 'GET', `${path}/status-history`)) as unknown as readonly HistoryEntry[];
  const atOf = (state: string): number =>
    Date.parse(moves.find(({ to_status }) => to_status === state)?.created_at ?? '');
  return {
    devices: told.length,
    caughtSeconds: (atOf('rolling_back') - atMs) / 1000,
    backSeconds: (after.lastSettledAtMs - atMs) / 1000,
    rolledBackSeconds: (atOf('rolled_back') - atMs) / 1000,
  };
}

interface HistoryEntry {
  readonly to_status: string;
  readonly created_at: string;
}

async function goodRollout(trial: Trial, good: SeededVersion): Promise<Record<string, ResultValue>> {
  const { client, modelId } = trial;
  const { id, atMs } = await begin(trial, good, { rollout_percentage: 1 });
  let percentage = 1;
  const seconds: Record<string, ResultValue> = {
    [`at${percentage}PercentSeconds`]: rounded(await converge(trial, good, id, atMs)),
  };
  for (const step of STEPS) {
    percentage += step;
    const steppedAtMs = Date.now();
    await callApi(client, 'POST', `/models/${modelId}/rollouts/${id}/advance`, { custom_increment: step });
    seconds[`at${percentage}PercentSeconds`] = rounded(await converge(trial, good, id, steppedAtMs));
  }
  return seconds;
}

/** Cores that the coordinator takes for renewing leases alone. */
async function idleShare(pid: number): Promise<number> {
  const seconds = 5;
  const before = processTimeMs(pid);
  await sleep(seconds * 1000);
  return (processTimeMs(pid) - before) / 1000 / seconds;
}

function prefixed(prefix: string, result: CanaryResult): Record<string, ResultValue> {
  return Object.fromEntries(
    Object.entries(result).map(([name, value]) => [
      `${prefix}${name[0]?.toUpperCase()}${name.slice(1)}`,
      rounded(value as number),
    ]),
  );
}

function rounded(value: number): number {
  return Math.round(value * 100) / 100;
}
