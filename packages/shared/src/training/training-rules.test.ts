import { expect, test } from '@jest/globals';
import { selectBackend } from '@octomil/shared/compute';
import { type Dataset, MemoryDataset } from '@octomil/shared/features';
import {
  type Architecture,
  buildModel,
  getFlat,
  parseArchitecture,
  seededRandom,
  setFlat,
} from '@octomil/shared/models';
import { classWeightsOf } from './class-weights.js';
import { evaluate } from './evaluate.js';
import { DEFAULT_LOCAL_OPTIONS, type LocalOptions } from './local-options.js';
import { type LocalTraining, type LocalTrainingOptions, trainLocally } from './train-locally.js';

const logistic = parseArchitecture('logistic');
const three = parseArchitecture({ name: 'logistic', output: { kind: 'multiclass', classes: 3 } });

/** Of 40 rows 5 are of the last class. */
function rareRows(classes: number, rows = 40, width = 3, seed = 8): MemoryDataset {
  const random = seededRandom(seed, 'rare');
  const y = Float32Array.from({ length: rows }, (_, row) => (row % 8 === 0 ? classes - 1 : row % (classes - 1)));
  const x = Float32Array.from(
    { length: rows * width },
    (_, index) => random.normal() + 0.7 * (y[Math.floor(index / width)] ?? 0),
  );
  return new MemoryDataset(width, x, y);
}

async function run(
  architecture: Architecture,
  dataset: Dataset,
  options: Partial<LocalOptions>,
  more: LocalTrainingOptions = {},
  start?: Float32Array,
): Promise<{ flat: number[]; result: LocalTraining }> {
  const built = await buildModel(await selectBackend(), architecture, dataset.width);
  if (start !== undefined) setFlat(built, start);
  const tensors = built.backend.tf.memory().numTensors;
  try {
    const result = await trainLocally(
      built,
      architecture.output,
      dataset,
      { ...DEFAULT_LOCAL_OPTIONS, ...options },
      more,
    );
    expect(built.backend.tf.memory().numTensors).toBe(tensors);
    return { flat: [...(await getFlat(built))], result };
  } finally {
    built.dispose();
  }
}

test('balanced weights are n / (k · nᵢ), and those that are given have their class by name', () => {
  const y = Float32Array.from({ length: 60 }, (_, row) => (row % 6 === 3 ? 1 : 0));
  expect([...classWeightsOf('balanced', { kind: 'binary' }, y)]).toEqual([Math.fround(6 / 10), 3]);
  // A class without rows leaves the others' weights as they would be without it.
  expect([...classWeightsOf('balanced', { kind: 'multiclass', classes: 3 }, y)]).toEqual([Math.fround(6 / 10), 3, 1]);
  expect([...classWeightsOf({ no: 0.5 }, { kind: 'binary' }, y, ['yes', 'no'])]).toEqual([1, 0.5]);
  expect([...classWeightsOf({ 1: 4 }, { kind: 'binary' }, y)]).toEqual([1, 4]);
  expect(() => classWeightsOf({ maybe: 2 }, { kind: 'binary' }, y, ['yes', 'no'])).toThrow(
    /the class "maybe"; the target's classes are yes, no/,
  );
  expect(() => classWeightsOf('balanced', { kind: 'regression' }, y)).toThrow(/learns a number/);
  // Weights must not single out a few rows, be it by 0 or by far larger ones.
  const rare = Float32Array.from({ length: 1_000 }, (_, row) => (row < 3 ? 1 : 0));
  const weigh = (no: number, yes: number) => classWeightsOf({ no, yes }, { kind: 'binary' }, rare, ['no', 'yes']);
  for (const [no, yes] of [
    [0, 1],
    [0, 0],
    [0.000_001, 1_000_000],
    [1, 1_000],
  ] as const) {
    expect(() => weigh(no, yes)).toThrow(/too_few_rows/);
  }
  expect([...weigh(1, 50)]).toEqual([1, 50]);
  expect([...weigh(1, 0)]).toEqual([1, 0]);
});

test.each([[[59, 1]], [[1, 9]], [[2, 2, 2, 2, 2]], [[1_000, 300, 4, 1]]])(
  'by balanced weights no row has more than a tenth of the say: classes of %j rows',
  (counts) => {
    const y = Float32Array.from(counts.flatMap((count, label) => Array<number>(count).fill(label)));
    const weights = classWeightsOf('balanced', { kind: 'multiclass', classes: counts.length }, y);
    const total = y.reduce((sum, label) => sum + (weights[label] ?? 0), 0);
    expect(Math.max(...weights) / total).toBeLessThanOrEqual(0.1 + 1e-6);
  },
);

test.each([
  ['binary', logistic, 1, 2],
  ['three classes', three, 3, 3],
] as const)('a weighted step, %s, is the closed form in float64', async (_, architecture, outputs, classes) => {
  const dataset = rareRows(classes);
  const { rows, width, x, y } = dataset;
  const weights = classWeightsOf('balanced', architecture.output, y);
  const random = seededRandom(3, 'start');
  const start = Float32Array.from({ length: (width + 1) * outputs }, () => 0.3 * random.normal());
  const expected = [...start];
  let loss = 0;
  for (let row = 0; row < rows; row++) {
    const inputs = [1, ...x.subarray(row * width, (row + 1) * width)];
    const label = y[row] ?? 0;
    const weight = weights[label] ?? 0;
    const logits = Array.from({ length: outputs }, (_, k) =>
      inputs.reduce((sum, input, j) => sum + input * (start[j * outputs + k] ?? 0), 0),
    );
    const powers = outputs === 1 ? [1, Math.exp(logits[0] ?? 0)] : logits.map(Math.exp);
    const total = powers.reduce((sum, power) => sum + power, 0);
    loss -= (weight * Math.log((powers[label] ?? 0) / total)) / rows;
    logits.forEach((_, k) => {
      const place = outputs === 1 ? 1 : k;
      const residual = (weight * ((powers[place] ?? 0) / total - (label === place ? 1 : 0))) / rows;
      inputs.forEach((input, j) => {
        expected[j * outputs + k] = (expected[j * outputs + k] ?? 0) - 0.5 * residual * input;
      });
    });
  }
  const options = { optimizer: 'sgd', learningRate: 0.5, batchSize: rows, classWeights: 'balanced' } as const;
  const { flat, result } = await run(architecture, dataset, options, {}, start);
  flat.forEach((value, index) => {
    expect(Math.abs(value - (expected[index] ?? 0))).toBeLessThan(1e-6);
  });
  expect(result.trainLoss).toBeCloseTo(loss, 5);
});

test('balanced weights find a rare class that plain training overlooks', async () => {
  const random = seededRandom(2, 'rare');
  const rows = 400;
  const y = Float32Array.from({ length: rows }, (_, row) => (row % 20 === 0 ? 1 : 0));
  const dataset = new MemoryDataset(
    1,
    Float32Array.from(y, (label) => random.normal() + label),
    y,
  );
  const found = async (options: Partial<LocalOptions>): Promise<number> => {
    const { flat } = await run(logistic, dataset, { epochs: 30, learningRate: 0.05, ...options });
    const [bias = 0, slope = 0] = flat;
    return [...dataset.x].filter((value, row) => y[row] === 1 && bias + slope * value > 0).length;
  };
  expect(await found({})).toBeLessThan(4);
  expect(await found({ classWeights: 'balanced' })).toBeGreaterThan(10);
});

test('max steps end training within an epoch, and the loss is of the rows that it saw', async () => {
  const dataset = rareRows(2);
  const seen: number[] = [];
  const { result } = await run(
    logistic,
    dataset,
    { epochs: 3, batchSize: 14, maxSteps: 4 },
    { onProgress: ({ totalSteps }) => seen.push(totalSteps) },
  );
  expect(result.steps).toBe(4);
  expect(seen).toEqual([4, 4, 4, 4]);
  expect(Number.isFinite(result.trainLoss)).toBe(true);
  const whole = await run(logistic, dataset, { epochs: 1, batchSize: 14 });
  const same = await run(logistic, dataset, { epochs: 5, batchSize: 14, maxSteps: 3 });
  expect(same.flat).toEqual(whole.flat);
  expect(same.result.trainLoss).toBe(whole.result.trainLoss);
  expect((await run(logistic, dataset, { epochs: 1, batchSize: 14, maxSteps: 99 })).result.steps).toBe(3);
});

/** Labels by chance: what is learned of the train rows is of no use for the held-out ones. */
function noise(rows: number, width: number, name: string): MemoryDataset {
  const random = seededRandom(6, name);
  const x = Float32Array.from({ length: rows * width }, () => random.normal());
  return new MemoryDataset(
    width,
    x,
    Float32Array.from({ length: rows }, () => (random.uniform() < 0.5 ? 1 : 0)),
  );
}

test('early stop ends when the held-out loss rises and brings the best weights back', async () => {
  const architecture = parseArchitecture({ name: 'mlp', hidden: [16] });
  const [rows, heldOut] = [noise(60, 10, 'train'), noise(60, 10, 'held out')];
  const random = seededRandom(1, 'start');
  const start = Float32Array.from({ length: 16 * 11 + 17 }, () => 0.3 * random.normal());
  const options = { epochs: 40, batchSize: 20, learningRate: 0.02 } as const;
  const losses: number[] = [];
  for (let epochs = 1; epochs <= 12; epochs++) {
    const { flat } = await run(architecture, rows, { ...options, epochs }, {}, start);
    const built = await buildModel(await selectBackend(), architecture, 10);
    setFlat(built, Float32Array.from(flat));
    losses.push((await evaluate(built, architecture.output, heldOut))?.loss ?? Number.NaN);
    built.dispose();
  }
  // The reference: the first epoch that is not beaten within its patience.
  const patience = 3;
  let best = 0;
  let epoch = 1;
  for (; epoch - best < patience; epoch++) if ((losses[epoch] ?? 0) < (losses[best] ?? 0)) best = epoch;
  const stopped = await run(
    architecture,
    rows,
    { ...options, earlyStop: { patience, minDelta: 0 } },
    { heldOut },
    start,
  );
  expect(stopped.result.bestEpoch).toBe(best + 1);
  expect(stopped.result.steps).toBe(3 * (best + 1 + patience));
  const reference = await run(architecture, rows, { ...options, epochs: best + 1 }, {}, start);
  expect(stopped.flat).toEqual(reference.flat);
  // What does not fall by as much as is asked for does not count.
  const strict = await run(
    architecture,
    rows,
    { ...options, earlyStop: { patience, minDelta: 10 } },
    { heldOut },
    start,
  );
  expect(strict.result).toMatchObject({ bestEpoch: 1, steps: 3 * (1 + patience) });
});

test('early stop on fewer than 10 held-out rows is refused before the first step', async () => {
  const steps: number[] = [];
  const refused = run(
    logistic,
    rareRows(2),
    { earlyStop: { patience: 1, minDelta: 0 } },
    { heldOut: rareRows(2, 9), onProgress: ({ step }) => steps.push(step) },
  );
  await expect(refused).rejects.toMatchObject({
    code: 'too_few_rows',
    reason: expect.stringMatching(/early stop needs at least 10 held-out rows/),
  });
  expect(steps).toEqual([]);
});
