import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ModelRegistry } from '@octomil/sdk';
import { freePort, startCoordinatorProcess } from './coordinator-process.js';
import { freshDatabase } from './fresh-database.js';
import type { BenchmarkResult } from './result.js';
import { echoArchitecture } from './round.js';
import { startSession, waitForSession } from './session-run.js';
import { connectUploader } from './simulated-uploader.js';

const BASELINE_AGENTS = 8;

export interface UploadsOptions {
  readonly agents: number;
  readonly sizeMb: number;
}

/**
 * Peak memory of the coordinator while `agents` devices upload an update each at the same time, and how much that is
 * above the same with eight. The devices are simulated in this process and send the same bytes from one buffer.
 */
export async function uploadsBench({ agents, sizeMb }: UploadsOptions): Promise<BenchmarkResult> {
  const few = await peakWith(BASELINE_AGENTS, sizeMb);
  const many = await peakWith(agents, sizeMb);
  return {
    coordinatorPeakRssMiB: Math.round(many.peakRssMiB),
    baselineAgents: BASELINE_AGENTS,
    baselinePeakRssMiB: Math.round(few.peakRssMiB),
    growthMiB: Math.round(many.peakRssMiB - few.peakRssMiB),
    seconds: Math.round(many.seconds * 10) / 10,
    megabytesPerSecond: Math.round((agents * sizeMb) / many.seconds),
  };
}

async function peakWith(agents: number, sizeMb: number): Promise<{ peakRssMiB: number; seconds: number }> {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-bench-'));
  const database = await freshDatabase();
  const coordinator = await startCoordinatorProcess({
    dataDir: join(folder, 'coordinator'),
    ...(database === undefined ? {} : { databaseUrl: database.url }),
    restPort: await freePort(),
    grpcPort: await freePort(),
    logFile: join(folder, 'coordinator.log'),
  });
  try {
    const client = { apiKey: coordinator.apiKey(), apiBase: `${coordinator.restUrl}/api/v1` };
    const uploaders = await Promise.all(
      Array.from({ length: agents }, (_, index) => connectUploader({ coordinator, apiKey: client.apiKey, index })),
    );
    await new ModelRegistry(client).ensureModel({ name: 'echo' });
    const { architecture, inputWidth } = echoArchitecture(sizeMb);
    const sessionId = await startSession(client, {
      model: 'echo',
      trainer: 'echo',
      architecture,
      input_width: inputWidth,
      rounds: 1,
      min_updates: agents,
      update_format: 'weights',
      publish: false,
      round_deadline_seconds: 1_800,
    });
    const [first] = uploaders;
    if (first === undefined) return { peakRssMiB: Number.NaN, seconds: Number.NaN };
    // Everybody answers with the base itself, fetched once.
    const bytes = await first.downloadBase();
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    coordinator.resetPeak();
    const startedAt = performance.now();
    await Promise.all(uploaders.map((uploader) => uploader.upload(bytes, sha256)));
    const seconds = (performance.now() - startedAt) / 1000;
    await waitForSession(client, sessionId);
    const peakRssMiB = coordinator.peakRssMiB();
    for (const uploader of uploaders) uploader.close();
    return { peakRssMiB, seconds };
  } finally {
    await coordinator.stop();
    await database?.drop();
    await rm(folder, { recursive: true, force: true });
  }
}
