import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, openSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { OctomilError } from '@octomil/shared/errors';
import { processMemoryMiB, resetPeakMemory } from './process-memory.js';
import { processTimeMs } from './process-time.js';

export interface CoordinatorProcessOptions {
  readonly dataDir: string;
  /** PostgreSQL; without it the coordinator runs on its embedded database. */
  readonly databaseUrl?: string;
  readonly restPort: number;
  readonly grpcPort: number;
  readonly logFile: string;
}

/** A real coordinator in a process of its own. */
export interface CoordinatorProcess {
  readonly pid: number;
  readonly restUrl: string;
  readonly grpcAddress: string;
  /** Milliseconds from the start of the process to the first `/readyz` that said yes. */
  readonly readyAfterMs: number;
  /** Processor time it had had by then. */
  readonly readyCpuMs: number;
  apiKey(): string;
  /** Highest resident memory so far, from the kernel's own accounting. */
  peakRssMiB(): number;
  /** Forgets the peak, so that the next one is of what follows. */
  resetPeak(): void;
  kill(): Promise<void>;
  stop(): Promise<void>;
}

export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new OctomilError('internal', 'no free port was given');
  return address.port;
}

/** With `OCTOMIL_BENCH_PROFILES` in the environment, a folder, it leaves a processor profile there when it stops. */
export async function startCoordinatorProcess(options: CoordinatorProcessOptions): Promise<CoordinatorProcess> {
  mkdirSync(options.dataDir, { recursive: true });
  const main = join(dirname(fileURLToPath(import.meta.resolve('@octomil/coordinator'))), 'main.js');
  const { DATABASE_URL: _, REDIS_URL: __, ...environment } = process.env;
  const log = openSync(options.logFile, 'a');
  const startedAt = performance.now();
  const profiles = environment['OCTOMIL_BENCH_PROFILES'];
  const profiling = profiles === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profiles}`];
  const child = spawn(process.execPath, [...profiling, main], {
    stdio: ['ignore', log, log],
    env: {
      ...environment,
      ...(options.databaseUrl === undefined ? {} : { DATABASE_URL: options.databaseUrl }),
      OCTOMIL_DATA_DIR: options.dataDir,
      OCTOMIL_REST_PORT: String(options.restPort),
      OCTOMIL_GRPC_PORT: String(options.grpcPort),
      OCTOMIL_LOG_LEVEL: environment['OCTOMIL_LOG_LEVEL'] ?? 'warn',
    },
  });
  const restUrl = `http://127.0.0.1:${options.restPort}`;
  await untilReady(child, restUrl, options.logFile);
  const pid = child.pid ?? 0;
  return {
    pid,
    restUrl,
    grpcAddress: `127.0.0.1:${options.grpcPort}`,
    readyAfterMs: performance.now() - startedAt,
    readyCpuMs: processTimeMs(pid),
    apiKey: () => readFileSync(join(options.dataDir, 'bootstrap-key'), 'utf8').trim(),
    peakRssMiB: () => processMemoryMiB(pid, 'VmHWM'),
    resetPeak: () => resetPeakMemory(pid),
    kill: () => end(child, 'SIGKILL'),
    stop: () => end(child, 'SIGTERM'),
  };
}

async function untilReady(child: ChildProcess, restUrl: string, logFile: string): Promise<void> {
  for (;;) {
    if (child.exitCode !== null || child.signalCode !== null) {
      const tail = readFileSync(logFile, 'utf8').slice(-2000);
      throw new OctomilError('runtime_unavailable', `the coordinator ended with ${child.exitCode}:\n${tail}`);
    }
    try {
      const response = await fetch(`${restUrl}/readyz`);
      await response.arrayBuffer();
      if (response.ok) return;
    } catch {
      // Not listening yet.
    }
    await sleep(10);
  }
}

async function end(child: ChildProcess, signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill(signal);
  await exited;
}
