import { expect, test } from '@jest/globals';
import { selectBackend } from '@octomil/shared/compute';
import { OctomilError } from '@octomil/shared/errors';
import { type Dataset, MemoryDataset } from '@octomil/shared/features';
import {
  type Architecture,
  type BuiltModel,
  buildModel,
  getFlat,
  initialWeights,
  parseArchitecture,
  seededRandom,
  setFlat,
} from '@octomil/shared/models';
import { flatten } from '@octomil/shared/tensors';
import { evaluate } from './evaluate.js';
import { DEFAULT_LOCAL_OPTIONS, type LocalOptions, OPTIMIZERS } from './local-options.js';
import { trainLocally } from './train-locally.js';

/** Rows whose target follows from the first input and some noise. */
function makeRows(rows: number, width: number, classes: number, seed = 1): MemoryDataset {
  const random = seededRandom(seed, 'rows');
  const x = Float32Array.from({ length: rows * width }, () => random.normal());
  const y = Float32Array.from({ length: rows }, (_, row) => {
    const signal = (x[row * width] ?? 0) + 0.3 * random.normal();
    return Math.min(classes - 1, Math.max(0, Math.floor((signal + 1.5) / (3 / classes))));
  });
  return new MemoryDataset(width, x, y);
}

async function start(architecture: Architecture, width: number, seed = 5): Promise<BuiltModel> {
  const built = await buildModel(await selectBackend(), architecture, width);
  setFlat(built, flatten(initialWeights(architecture, width, seed)));
  return built;
}

async function trained(
  architecture: Architecture,
  dataset: Dataset,
  options: Partial<LocalOptions>,
): Promise<Float32Array> {
  const built = await start(architecture, dataset.width);
  await trainLocally(built, architecture.output, dataset, { ...DEFAULT_LOCAL_OPTIONS, ...options });
  const flat = await getFlat(built);
  built.dispose();
  return flat;
}

const bytes = (flat: Float32Array): Buffer => Buffer.from(flat.buffer, flat.byteOffset, flat.byteLength);

test('steps of SGD on logistic regression, proximal term included, are the closed form in float64', async () => {
  const width = 4;
  const logistic = parseArchitecture('logistic');
  const dataset = makeRows(40, width, 2);
  const options = { optimizer: 'sgd', learningRate: 0.3, batchSize: 40, epochs: 3, proximalMu: 0.7 } as const;
  // Sorted by name: output/bias, then output/kernel.
  const [first = 0, ...rest] = flatten(initialWeights(logistic, width, 5));
  let [bias, kernel] = [first, rest];
  for (let epoch = 0; epoch < options.epochs; epoch++) {
    let biasGradient = options.proximalMu * (bias - first);
    const gradient = kernel.map((weight, column) => options.proximalMu * (weight - (rest[column] ?? 0)));
    for (let row = 0; row < dataset.rows; row++) {
      const inputs = [...dataset.x.subarray(row * width, (row + 1) * width)];
      const logit = inputs.reduce((sum, input, column) => sum + input * (kernel[column] ?? 0), bias);
      const residual = (1 / (1 + Math.exp(-logit)) - (dataset.y[row] ?? 0)) / dataset.rows;
      biasGradient += residual;
      inputs.forEach((input, column) => {
        gradient[column] = (gradient[column] ?? 0) + residual * input;
      });
    }
    bias -= options.learningRate * biasGradient;
    kernel = kernel.map((weight, column) => weight - options.learningRate * (gradient[column] ?? 0));
  }
  const actual = await trained(logistic, dataset, options);
  [bias, ...kernel].forEach((expected, index) => {
    expect(Math.abs((actual[index] ?? Number.NaN) - expected)).toBeLessThan(1e-6);
  });
});

test('a multiclass step is the closed form too', async () => {
  const dataset = makeRows(30, 2, 3);
  const architecture = parseArchitecture({ name: 'logistic', output: { kind: 'multiclass', classes: 3 } });
  const before = [...flatten(initialWeights(architecture, 2, 5))];
  const expected = [...before];
  for (let row = 0; row < dataset.rows; row++) {
    const inputs = [1, ...dataset.x.subarray(row * 2, row * 2 + 2)];
    const powers = [0, 1, 2].map((k) =>
      Math.exp(inputs.reduce((sum, input, j) => sum + input * (before[j * 3 + k] ?? 0), 0)),
    );
    const total = powers.reduce((sum, power) => sum + power, 0);
    powers.forEach((power, k) => {
      const residual = power / total - (dataset.y[row] === k ? 1 : 0);
      inputs.forEach((input, j) => {
        expected[j * 3 + k] = (expected[j * 3 + k] ?? 0) - (0.5 * residual * input) / dataset.rows;
      });
    });
  }
  const actual = await trained(architecture, dataset, { optimizer: 'sgd', learningRate: 0.5, batchSize: 30 });
  const errors = expected.map((value, index) => Math.abs((actual[index] ?? Number.NaN) - value));
  expect(Math.max(...errors)).toBeLessThan(1e-6);
});

test('the proximal term holds the weights back', async () => {
  const architecture = parseArchitecture('logistic');
  const dataset = makeRows(64, 3, 2);
  const distance = async (proximalMu: number): Promise<number> => {
    const end = await trained(architecture, dataset, { optimizer: 'sgd', learningRate: 0.1, epochs: 20, proximalMu });
    const begin = flatten(initialWeights(architecture, 3, 5));
    return Math.hypot(...end.map((value, index) => value - (begin[index] ?? 0)));
  };
  expect(await distance(1)).toBeLessThan(0.7 * (await distance(0)));
});

const withDropout: Architecture = {
  name: 'layers',
  output: { kind: 'binary' },
  topology: {
    class_name: 'Sequential',
    config: {
      name: 'dropping',
      layers: [
        { class_name: 'Dense', config: { name: 'a', units: 8, activation: 'relu', batch_input_shape: [null, 3] } },
        { class_name: 'Dropout', config: { name: 'drop', rate: 0.5 } },
        { class_name: 'BatchNormalization', config: { name: 'norm' } },
        { class_name: 'Dense', config: { name: 'end', units: 1, activation: 'sigmoid' } },
      ],
    },
  },
};

test('the same seed gives the same bytes, another seed others: shuffling, dropout and all', async () => {
  const dataset = makeRows(50, 3, 2);
  const options = { epochs: 2, batchSize: 16, learningRate: 0.05, seed: 11 };
  const once = await trained(withDropout, dataset, options);
  expect(bytes(await trained(withDropout, dataset, options)).equals(bytes(once))).toBe(true);
  expect(bytes(await trained(withDropout, dataset, { ...options, seed: 12 })).equals(bytes(once))).toBe(false);
});

test('dropout draws another mask at every step', async () => {
  // With every batch the whole data set, only dropout can tell two seeds apart.
  const dataset = makeRows(16, 3, 2);
  const options = { epochs: 1, batchSize: 16, optimizer: 'sgd' } as const;
  const one = await trained(withDropout, dataset, { ...options, seed: 1 });
  expect(bytes(await trained(withDropout, dataset, { ...options, seed: 2 })).equals(bytes(one))).toBe(false);
});

test.each<[string, Architecture, number, number]>([
  ['mlp, binary', parseArchitecture({ name: 'mlp', hidden: [8] }), 3, 2],
  [
    'mlp, three classes',
    parseArchitecture({ name: 'mlp', hidden: [8], output: { kind: 'multiclass', classes: 3 } }),
    3,
    3,
  ],
  ['mlp, regression', parseArchitecture({ name: 'mlp', hidden: [8], output: { kind: 'regression' } }), 3, 5],
  ['cnn', parseArchitecture({ name: 'cnn', inputShape: [4, 4, 1], filters: [4], hidden: 8 }), 16, 2],
  ['topology ending in a sigmoid', withDropout, 3, 2],
])('%s learns, and leaks no tensors', async (_, architecture, width, classes) => {
  const { tf } = await selectBackend();
  const dataset = makeRows(120, width, classes);
  const built = await start(architecture, width);
  const before = await evaluate(built, architecture.output, dataset);
  const tensors = tf.memory().numTensors;
  const progress: number[] = [];
  const result = await trainLocally(
    built,
    architecture.output,
    dataset,
    { ...DEFAULT_LOCAL_OPTIONS, epochs: 15, learningRate: 0.02, batchSize: 25 },
    { onProgress: ({ step, totalSteps }) => progress.push(step / totalSteps) },
  );
  expect(tf.memory().numTensors).toBe(tensors);
  const after = await evaluate(built, architecture.output, dataset);
  expect(after?.loss).toBeLessThan(0.8 * (before?.loss ?? 0));
  expect(result.steps).toBe(15 * 5);
  expect(result.trainLoss).toBeLessThan(before?.loss ?? 0);
  expect(progress).toHaveLength(75);
  expect(progress.at(-1)).toBe(1);
  built.dispose();
});

test.each(OPTIMIZERS)('%s lowers the loss', async (optimizer) => {
  const architecture = parseArchitecture({ name: 'mlp', hidden: [8] });
  const dataset = makeRows(120, 3, 2);
  const built = await start(architecture, 3);
  const before = await evaluate(built, architecture.output, dataset);
  const learningRate = optimizer === 'adadelta' ? 5 : 0.05;
  await trainLocally(built, architecture.output, dataset, {
    ...DEFAULT_LOCAL_OPTIONS,
    optimizer,
    learningRate,
    epochs: 5,
  });
  const after = await evaluate(built, architecture.output, dataset);
  expect(after?.loss).toBeLessThan(0.95 * (before?.loss ?? 0));
  built.dispose();
});

test('batch normalisation keeps its running statistics with the weights', async () => {
  const built = await start(withDropout, 3);
  const place = built.layout.tensors.find(({ name }) => name === 'norm/moving_mean');
  await trainLocally(built, withDropout.output, makeRows(50, 3, 2), DEFAULT_LOCAL_OPTIONS);
  const flat = await getFlat(built);
  const means = flat.subarray(place?.offset, (place?.offset ?? 0) + (place?.size ?? 0));
  expect(means.some((mean) => mean !== 0)).toBe(true);
  built.dispose();
});

test('a loss that is no number is an error with the learning rate and the step', async () => {
  const architecture = parseArchitecture({ name: 'mlp', hidden: [8], output: { kind: 'regression' } });
  const run = trained(architecture, makeRows(64, 3, 5), { optimizer: 'sgd', learningRate: 1000, epochs: 50 });
  const error = await run.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(OctomilError);
  expect(error).toMatchObject({ code: 'training_failed', details: { learningRate: 1000 } });
  expect(String(error)).toMatch(/at step \d+ with sgd at learning rate 1000/);
});

test('cancelling stops at the next batch and frees everything', async () => {
  const architecture = parseArchitecture('logistic');
  const built = await start(architecture, 3);
  const { tf } = await selectBackend();
  const tensors = tf.memory().numTensors;
  const controller = new AbortController();
  let steps = 0;
  const run = trainLocally(
    built,
    architecture.output,
    makeRows(100, 3, 2),
    { ...DEFAULT_LOCAL_OPTIONS, batchSize: 10, proximalMu: 1 },
    {
      signal: controller.signal,
      onProgress: ({ step }) => {
        steps = step;
        if (step === 3) controller.abort();
      },
    },
  );
  await expect(run).rejects.toMatchObject({ code: 'cancelled' });
  expect(steps).toBe(3);
  expect(tf.memory().numTensors).toBe(tensors);
  built.dispose();
});

test('metrics of fewer than 10 rows are not given', async () => {
  const architecture = parseArchitecture('logistic');
  const built = await start(architecture, 3);
  expect(await evaluate(built, architecture.output, makeRows(9, 3, 2))).toBeNull();
  expect(await evaluate(built, architecture.output, makeRows(10, 3, 2))).toMatchObject({ count: 10 });
  built.dispose();
});
