import { expect, test } from '@jest/globals';
import { selectBackend } from '@octomil/shared/compute';
import { MemoryDataset } from '@octomil/shared/features';
import {
  type Architecture,
  buildModel,
  getFlat,
  initialWeights,
  parseArchitecture,
  seededRandom,
  setFlat,
} from '@octomil/shared/models';
import { flatten, unflatten } from '@octomil/shared/tensors';
import { DEFAULT_LOCAL_OPTIONS, type LocalOptions } from './local-options.js';
import { EpochSteps, requireRowsPerStep } from './steps.js';
import { trainLocally } from './train-locally.js';

const WIDTH = 3;

function patients(rows: number): MemoryDataset {
  const random = seededRandom(4, 'patients');
  const x = Float32Array.from({ length: rows * WIDTH }, () => random.normal());
  return new MemoryDataset(
    WIDTH,
    x,
    Float32Array.from({ length: rows }, (_, row) => row % 2),
  );
}

/** What an update says: the change of each tensor, and of how many rows each step was. */
async function updateOf(architecture: Architecture, dataset: MemoryDataset, options: Partial<LocalOptions>) {
  const built = await buildModel(await selectBackend(), architecture, WIDTH);
  const base = flatten(initialWeights(architecture, WIDTH, 5));
  setFlat(built, base);
  const stepRows: number[] = [];
  const more = { onProgress: ({ rows = 0 }) => stepRows.push(rows) };
  await trainLocally(built, architecture.output, dataset, { ...DEFAULT_LOCAL_OPTIONS, ...options }, more);
  const change = (await getFlat(built)).map((value, index) => value - (base[index] ?? 0));
  const told = new Map(unflatten(built.layout, change).map(({ name, data }) => [name, [...data]]));
  built.dispose();
  return { told, stepRows };
}

/** The distance from what was read to the row that is nearest to it. */
function distanceToRows(read: readonly number[], { x, rows }: MemoryDataset): number {
  const distances = Array.from({ length: rows }, (_, row) =>
    Math.hypot(...read.map((value, column) => value - (x[row * WIDTH + column] ?? 0))),
  );
  return Math.min(...distances);
}

/** Its moving mean is the mean of the last step's rows. */
const forgetful: Architecture = {
  name: 'layers',
  output: { kind: 'binary' },
  topology: {
    class_name: 'Sequential',
    config: {
      name: 'forgetful',
      layers: [
        { class_name: 'BatchNormalization', config: { name: 'norm', momentum: 0, batch_input_shape: [null, WIDTH] } },
        { class_name: 'Dense', config: { name: 'end', units: 1, activation: 'sigmoid' } },
      ],
    },
  },
};

const SIZES: readonly [rows: number, batchSize: number, steps: readonly number[]][] = [
  [21, 20, [21]],
  [41, 20, [20, 21]],
  [29, 10, [10, 19]],
  [30, 20, [20, 10]],
  [10, 32, [10]],
];

test.each(SIZES)('of %i rows with batches of %i no update tells a row: steps of %j', async (rows, batchSize, steps) => {
  const dataset = patients(rows);
  const normalized = await updateOf(forgetful, dataset, { batchSize });
  expect(normalized.stepRows).toEqual(steps);
  expect(distanceToRows(normalized.told.get('norm/moving_mean') ?? [], dataset)).toBeGreaterThan(0.05);
  // By η·μ = 1 each step starts from the base, and Δkernel ÷ Δbias of one row is the row.
  const options = { batchSize, optimizer: 'sgd', learningRate: 1, proximalMu: 1 } as const;
  const proximal = await updateOf(parseArchitecture('logistic'), dataset, options);
  expect(proximal.stepRows).toEqual(steps);
  const bias = proximal.told.get('output/bias')?.[0] ?? Number.NaN;
  const read = proximal.told.get('output/kernel')?.map((value) => value / bias) ?? [];
  expect(distanceToRows(read, dataset)).toBeGreaterThan(0.05);
});

test('every step of an epoch takes ten rows at least, at most nine more than the batch, and each row once', () => {
  for (let rows = 10; rows <= 70; rows++) {
    for (let batchSize = 10; batchSize <= 75; batchSize++) {
      const steps = new EpochSteps(rows, { batchSize });
      const parts = Array.from({ length: steps.count }, (_, step) => steps.at(step));
      expect(parts.map(({ start }) => start)).toEqual([0, ...parts.slice(0, -1).map(({ end }) => end)]);
      expect(parts.at(-1)?.end).toBe(rows);
      for (const { start, end } of parts) {
        expect(end - start).toBeGreaterThanOrEqual(10);
        expect(end - start).toBeLessThanOrEqual(batchSize + 9);
      }
    }
  }
});

test('smaller batches, and fewer rows, are refused with the limit', () => {
  expect(() => requireRowsPerStep({ batchSize: 9 })).toThrow(/batchSize = 9: a step takes 10 rows at least.*; use 10/);
  expect(() => new EpochSteps(100, { batchSize: 1 })).toThrow(/\[invalid_input\] local option batchSize = 1/);
  expect(() => new EpochSteps(9, { batchSize: 32 })).toThrow(
    /\[too_few_rows\] there are fewer than 10 rows to train on/,
  );
});
