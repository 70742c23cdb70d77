import { mkdtemp, rm } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { ModelRegistry } from '@octomil/sdk';
import { endProcess, startAgentProcesses } from './agent-processes.js';
import { freePort, startCoordinatorProcess } from './coordinator-process.js';
import { freshDatabase } from './fresh-database.js';
import { type BenchmarkResult, percentile } from './result.js';
import { startSession, waitForSession } from './session-run.js';

export interface RoundOptions {
  readonly agents: number;
  readonly sizeMb: number;
  readonly rounds: number;
}

/**
 * The wall time of a round from one checkpoint to the next: selection, base to every agent, echo, update from every
 * agent, validation, aggregation, checkpoint. Real processes over loopback on PostgreSQL; the first round is dropped.
 */
export async function roundBench({ agents, sizeMb, rounds }: RoundOptions): Promise<BenchmarkResult> {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-bench-'));
  const database = await freshDatabase();
  const coordinator = await startCoordinatorProcess({
    dataDir: join(folder, 'coordinator'),
    ...(database === undefined ? {} : { databaseUrl: database.url }),
    restPort: await freePort(),
    grpcPort: await freePort(),
    logFile: join(folder, 'coordinator.log'),
  });
  const apiKey = coordinator.apiKey();
  const running = await startAgentProcesses({
    coordinator,
    apiKey,
    folder,
    count: agents,
    processes: agents <= 8 ? agents : Math.max(2, cpus().length),
  });
  try {
    const client = { apiKey, apiBase: `${coordinator.restUrl}/api/v1` };
    await new ModelRegistry(client).ensureModel({ name: 'echo' });
    coordinator.resetPeak();
    const sessionId = await startSession(client, {
      model: 'echo',
      trainer: 'echo',
      architecture: echoArchitecture(sizeMb).architecture,
      input_width: echoArchitecture(sizeMb).inputWidth,
      rounds: rounds + 1,
      min_updates: agents,
      update_format: 'weights',
      publish: false,
      round_deadline_seconds: 600,
    });
    const finishedAtMs = await waitForSession(client, sessionId);
    const durations = finishedAtMs.slice(1).map((at, index) => at - (finishedAtMs[index] ?? at));
    return {
      p50Ms: Math.round(percentile(durations, 0.5) * 10) / 10,
      p90Ms: Math.round(percentile(durations, 0.9) * 10) / 10,
      maxMs: Math.round(Math.max(...durations) * 10) / 10,
      measuredRounds: durations.length,
      coordinatorPeakRssMiB: Math.round(coordinator.peakRssMiB()),
      store: database === undefined ? 'pglite' : 'postgres',
    };
  } finally {
    await Promise.all(running.map((agent) => endProcess(agent, 'SIGTERM')));
    await coordinator.stop();
    await database?.drop();
    await rm(folder, { recursive: true, force: true });
  }
}

/** One hidden layer whose kernel holds `sizeMb` megabytes, and small tensors for echo to change. */
export function echoArchitecture(sizeMb: number): { architecture: object; inputWidth: number } {
  const units = 250;
  return {
    architecture: { name: 'mlp', hidden: [units], activation: 'relu', output: { kind: 'binary' } },
    inputWidth: Math.round((sizeMb * 1_000_000) / 4 / units),
  };
}
