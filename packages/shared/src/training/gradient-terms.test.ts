import { expect, test } from '@jest/globals';
import { selectBackend } from '@octomil/shared/compute';
import { MemoryDataset } from '@octomil/shared/features';
import { buildModel, getFlat, parseArchitecture, setFlat } from '@octomil/shared/models';
import { type GradientTermFactory, proximalTerm } from './gradient-terms.js';
import { DEFAULT_LOCAL_OPTIONS } from './local-options.js';
import { trainLocally } from './train-locally.js';

const logistic = parseArchitecture('logistic');
const rows = new MemoryDataset(
  2,
  Float32Array.from({ length: 20 }, (_, index) => Math.sin(3 * index)),
  Float32Array.from({ length: 10 }, (_, row) => row % 2),
);

async function oneStep(terms: readonly GradientTermFactory[], proximalMu = 0): Promise<number[]> {
  const built = await buildModel(await selectBackend(), logistic, 2);
  setFlat(built, Float32Array.of(0.5, -1, 2));
  const { tf } = built.backend;
  const tensors = tf.memory().numTensors;
  const options = { ...DEFAULT_LOCAL_OPTIONS, optimizer: 'sgd', learningRate: 0.1, batchSize: 10, proximalMu } as const;
  await trainLocally(built, logistic.output, rows, options, { terms });
  expect(tf.memory().numTensors).toBe(tensors);
  const flat = [...(await getFlat(built))];
  built.dispose();
  return flat;
}

test('a proximal term pulls towards the weights that it is given', async () => {
  const start = [0.5, -1, 2];
  const anchor = [1, 4, -3];
  const plain = await oneStep([]);
  const pulled = await oneStep([proximalTerm(0.7, Float32Array.from(anchor))]);
  pulled.forEach((value, index) => {
    const expected = (plain[index] ?? 0) - 0.1 * 0.7 * ((start[index] ?? 0) - (anchor[index] ?? 0));
    expect(Math.abs(value - expected)).toBeLessThan(1e-6);
  });
});

test('terms add up, each told the name of the weight, and one without a gradient changes nothing', async () => {
  const seen = new Set<string>();
  const ones: GradientTermFactory = ({ tf }) => ({
    gradient: ({ name, variable }) => {
      seen.add(name);
      return name.endsWith('bias') ? undefined : tf.onesLike(variable);
    },
    dispose: () => undefined,
  });
  const plain = await oneStep([]);
  const [bias = 0, ...kernel] = await oneStep([ones, ones]);
  expect([...seen].sort()).toEqual(['output/bias', 'output/kernel']);
  expect(bias).toBe(plain[0]);
  kernel.forEach((value, index) => {
    expect(Math.abs(value - ((plain[index + 1] ?? 0) - 0.2))).toBeLessThan(1e-6);
  });
});
