import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { OctomilError } from '@octomil/shared/errors';
import type { BenchmarkResult } from './result.js';

export interface DemoFigures {
  readonly seconds: number;
  readonly rounds: number;
  readonly federatedAuc: number;
  readonly localMeanAuc: number;
  readonly pooledAuc: number;
}

/** `octomil demo` with its default data. */
export async function demoBench(): Promise<BenchmarkResult> {
  return { ...(await runDemo([])) };
}

/** Runs `octomil demo` as a user would, and answers its AUCs on all held-out rows. */
export async function runDemo(options: readonly string[]): Promise<DemoFigures> {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-bench-'));
  try {
    const out = join(folder, 'demo.json');
    const program = join(dirname(fileURLToPath(import.meta.resolve('@octomil/cli'))), '..', 'bin', 'octomil.js');
    const startedAt = performance.now();
    const child = spawn(process.execPath, [program, 'demo', '--out', out, ...options], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    const [code] = await once(child, 'exit');
    if (code !== 0) throw new OctomilError('internal', `the demo ended with ${code}`);
    const seconds = (performance.now() - startedAt) / 1000;
    const result = JSON.parse(await readFile(out, 'utf8')) as {
      federated: { overall: { auc: number } };
      pooled: { overall: { auc: number } };
      local: Record<string, { overall: { auc: number } }>;
      rounds: unknown[];
    };
    const local = Object.values(result.local).map((site) => site.overall.auc);
    return {
      seconds: Math.round(seconds * 10) / 10,
      rounds: result.rounds.length,
      federatedAuc: result.federated.overall.auc,
      localMeanAuc: local.reduce((sum, auc) => sum + auc, 0) / local.length,
      pooledAuc: result.pooled.overall.auc,
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
