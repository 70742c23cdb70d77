import { existsSync } from 'node:fs';
import { OctomilError } from '@octomil/shared/errors';
import { runDemo } from './demo.js';
import type { BenchmarkResult } from './result.js';

const FOLDER = '../shared/data/heart-disease';

/** Does federating help on four real hospitals? Mean AUC on all held-out rows over `seeds` seeds. */
export async function heartDiseaseBench(seeds: number): Promise<BenchmarkResult> {
  if (!existsSync(FOLDER)) {
    throw new OctomilError(
      'data_unreadable',
      `the heart disease data is not at ${FOLDER}; the demo takes any with --data`,
    );
  }
  const federated: number[] = [];
  const local: number[] = [];
  const pooled: number[] = [];
  for (let seed = 1; seed <= seeds; seed += 1) {
    const run = await runDemo(['--data', FOLDER, '--target', 'num>0', '--seed', String(seed)]);
    federated.push(run.federatedAuc);
    local.push(run.localMeanAuc);
    pooled.push(run.pooledAuc);
  }
  return {
    federatedAuc: mean(federated),
    localMeanAuc: mean(local),
    pooledAuc: mean(pooled),
    gainOverLocal: mean(federated) - mean(local),
    gainOverPooled: mean(federated) - mean(pooled),
  };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
