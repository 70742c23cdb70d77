import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { flowerRounds } from './flower.js';
import { type BenchmarkResult, percentile } from './result.js';
import { type RoundOptions, roundBench } from './round.js';

/**
 * The same rounds by Octomil and by Flower, one after the other in one run: the same weights to every agent, almost
 * nothing done with them, the same weights back, their mean. Both keep their state on disk, over loopback without TLS.
 */
export async function peersBench({ agents, sizeMb, rounds }: RoundOptions): Promise<BenchmarkResult> {
  const own = await roundBench({ agents, sizeMb, rounds });
  const folder = await mkdtemp(join(tmpdir(), 'octomil-bench-'));
  try {
    // As for Octomil's, the first round is dropped: it starts what stays.
    const flower = await flowerRounds({ agents, sizeMb, rounds: rounds + 1, folder });
    const durations = flower.durationsMs.slice(1);
    const ownP50 = Number(own['p50Ms']);
    const flowerP50 = percentile(durations, 0.5);
    return {
      octomilP50Ms: ownP50,
      flowerP50Ms: Math.round(flowerP50),
      timeRatio: Math.round((flowerP50 / ownP50) * 10) / 10,
      octomilServerPeakRssMiB: own['coordinatorPeakRssMiB'] ?? null,
      flowerServerPeakRssMiB: Math.round(flower.serverPeakRssMiB),
      memoryRatio: Math.round((flower.serverPeakRssMiB / Number(own['coordinatorPeakRssMiB'])) * 10) / 10,
      octomilRounds: own['measuredRounds'] ?? null,
      flowerRounds: durations.length,
      octomilStore: own['store'] ?? null,
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
