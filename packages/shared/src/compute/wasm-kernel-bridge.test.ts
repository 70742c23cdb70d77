import { beforeAll, expect, test } from '@jest/globals';
import type * as Tfjs from '@tensorflow/tfjs-core';
import { type ComputeBackend, selectBackend } from './backend-choice.js';

let backend: ComputeBackend;
let tf: typeof Tfjs;

beforeAll(async () => {
  backend = await selectBackend({ order: ['wasm'] });
  tf = backend.tf;
});

/** The same computation on a backend, from the same numbers. */
async function on(name: 'wasm' | 'cpu', compute: () => Tfjs.Tensor): Promise<Float32Array> {
  await tf.setBackend(name);
  const result = compute();
  const values = Float32Array.from(await result.data());
  result.dispose();
  await tf.setBackend('wasm');
  return values;
}

async function expectSame(compute: () => Tfjs.Tensor): Promise<void> {
  const [wasm, cpu] = [await on('wasm', compute), await on('cpu', compute)];
  expect(wasm.length).toBe(cpu.length);
  const scale = Math.max(...cpu.map(Math.abs));
  expect(scale).toBeGreaterThan(0);
  const worst = Math.max(...wasm.map((value, index) => Math.abs(value - (cpu[index] ?? Number.NaN))));
  expect(worst / scale).toBeLessThan(1e-5);
}

/** Numbers without pattern, the same on every call. */
function numbers(shape: number[], salt: number): Tfjs.Tensor {
  const size = shape.reduce((product, dimension) => product * dimension, 1);
  return tf.tensor(
    Float32Array.from({ length: size }, (_, index) => Math.sin((index + 1) * 12.9898 + salt)),
    shape,
  );
}

test.each([
  { input: [2, 7, 6, 3], filter: [3, 3, 3, 4], strides: 1, pad: 'same' },
  { input: [2, 7, 6, 3], filter: [3, 3, 3, 4], strides: 1, pad: 'valid' },
  { input: [1, 9, 9, 2], filter: [3, 2, 2, 5], strides: 2, pad: 'same' },
  { input: [3, 8, 5, 1], filter: [2, 3, 1, 2], strides: 2, pad: 'valid' },
  { input: [2, 5, 5, 4], filter: [1, 1, 4, 3], strides: 1, pad: 'same' },
  { input: [1, 8, 8, 2], filter: [3, 3, 2, 2], strides: 3, pad: 1 },
] as const)('the gradient of a convolution %j equals that of the JavaScript backend', async (shape) => {
  const { input, filter, strides, pad } = shape;
  await expectSame(() =>
    tf.tidy(() => {
      const x = numbers([...input], 1) as Tfjs.Tensor4D;
      const gradient = tf.grad((weights: Tfjs.Tensor) =>
        tf.sum(tf.square(tf.conv2d(x, weights as Tfjs.Tensor4D, strides, pad))),
      );
      return gradient(numbers([...filter], 2));
    }),
  );
});

test.each([
  [false, false],
  [true, false],
  [false, true],
  [true, true],
])('the product of batches agrees, transposed %s and %s', async (transposeA, transposeB) => {
  await expectSame(() =>
    tf.tidy(() =>
      tf.matMul(
        numbers(transposeA ? [2, 5, 3] : [2, 3, 5], 1),
        numbers(transposeB ? [2, 4, 5] : [2, 5, 4], 2),
        transposeA,
        transposeB,
      ),
    ),
  );
});

test('gradients that run on copies agree too: depthwise convolution and embedding', async () => {
  await expectSame(() =>
    tf.tidy(() => {
      const x = numbers([1, 6, 6, 2], 1) as Tfjs.Tensor4D;
      const gradient = tf.grad((weights: Tfjs.Tensor) =>
        tf.sum(tf.square(tf.depthwiseConv2d(x, weights as Tfjs.Tensor4D, 1, 'same'))),
      );
      return gradient(numbers([3, 3, 2, 1], 2));
    }),
  );
  await expectSame(() =>
    tf.tidy(() => {
      const rows = tf.tensor1d([0, 2, 2, 1], 'int32');
      return tf.grad((table: Tfjs.Tensor) => tf.sum(tf.square(tf.gather(table, rows))))(numbers([4, 3], 3));
    }),
  );
});

test('a small convolutional model learns on wasm, and leaks no tensors', async () => {
  const { layers } = backend;
  const seeded = (seed: number): ReturnType<typeof layers.initializers.glorotUniform> =>
    layers.initializers.glorotUniform({ seed });
  const model = layers.sequential({
    layers: [
      layers.layers.conv2d({
        inputShape: [8, 8, 1],
        filters: 4,
        kernelSize: 3,
        activation: 'relu',
        kernelInitializer: seeded(1),
      }),
      layers.layers.maxPooling2d({ poolSize: 2 }),
      layers.layers.flatten(),
      layers.layers.dense({ units: 1, activation: 'sigmoid', kernelInitializer: seeded(2) }),
    ],
  });
  model.compile({ optimizer: tf.train.adam(0.05), loss: 'binaryCrossentropy' });
  // Bright on the left or on the right.
  const count = 64;
  const pixels = Float32Array.from({ length: count * 64 }, (_, index) => {
    const left = index % 8 < 4;
    return (Math.floor(index / 64) % 2 === 0) === left ? 1 : 0.1;
  });
  const x = tf.tensor4d(pixels, [count, 8, 8, 1]);
  const y = tf.tensor2d(
    Float32Array.from({ length: count }, (_, index) => index % 2),
    [count, 1],
  );
  const fit = (): Promise<TfjsHistory> => model.fit(x, y, { epochs: 8, batchSize: 16, shuffle: false, verbose: 0 });
  const first = await fit();
  const before = tf.memory().numTensors;
  const second = await fit();
  expect(tf.memory().numTensors).toBe(before);
  expect(Number(first.history['loss']?.[0])).toBeGreaterThan(0.2);
  expect(Number(second.history['loss']?.at(-1))).toBeLessThan(0.05);
});

interface TfjsHistory {
  readonly history: Record<string, (number | Tfjs.Tensor)[]>;
}
