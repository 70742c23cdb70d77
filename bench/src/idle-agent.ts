import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { endProcess, startAgentProcesses } from './agent-processes.js';
import { freePort, startCoordinatorProcess } from './coordinator-process.js';
import { processMemoryMiB } from './process-memory.js';
import type { BenchmarkResult } from './result.js';

const SETTLE_MS = 5_000;

/** Resident memory of a connected agent daemon that has no trainer process. */
export async function idleAgentBench(): Promise<BenchmarkResult> {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-bench-'));
  const coordinator = await startCoordinatorProcess({
    dataDir: join(folder, 'coordinator'),
    restPort: await freePort(),
    grpcPort: await freePort(),
    logFile: join(folder, 'coordinator.log'),
  });
  const agents = await startAgentProcesses({
    coordinator,
    apiKey: coordinator.apiKey(),
    folder,
    count: 1,
    processes: 1,
  });
  try {
    await sleep(SETTLE_MS);
    const pid = agents[0]?.child.pid ?? 0;
    return {
      rssMiB: Math.round(processMemoryMiB(pid, 'VmRSS') * 10) / 10,
      peakRssMiB: Math.round(processMemoryMiB(pid, 'VmHWM') * 10) / 10,
    };
  } finally {
    await Promise.all(agents.map((agent) => endProcess(agent, 'SIGTERM')));
    await coordinator.stop();
    await rm(folder, { recursive: true, force: true });
  }
}
