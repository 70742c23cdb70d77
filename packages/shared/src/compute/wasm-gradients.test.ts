import { beforeAll, expect, test } from '@jest/globals';
import type * as Tfjs from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { selectBackend } from './backend-choice.js';
import { numbers } from './training-coverage/train-once.js';

let tf: typeof Tfjs;

beforeAll(async () => {
  tf = (await selectBackend({ order: ['wasm'] })).tf;
});

/** Values and shape of a tensor that a function is asked the gradient by. */
interface Argument {
  readonly shape: number[];
  readonly salt: number;
  readonly offset?: number;
}

type Compute = (...inputs: Tfjs.Tensor[]) => Tfjs.Tensor;

function argument({ shape, salt, offset = 0 }: Argument): Tfjs.Tensor {
  return tf.tensor(
    numbers(shape, salt).map((value) => value + offset),
    shape,
  );
}

/** Its output, and its gradients by each argument, the output weighed by numbers without pattern. */
async function gradientsOn(name: string, compute: Compute, args: readonly Argument[]): Promise<Float32Array[]> {
  await tf.setBackend(name);
  const before = tf.memory().numTensors;
  const inputs = args.map(argument);
  const weighed: Compute = (...values) => {
    const output = compute(...values);
    return tf.sum(tf.mul(output, tf.tensor(numbers(output.shape, 9), output.shape)));
  };
  const output = tf.tidy(() => compute(...inputs));
  const gradients = tf.tidy(() => tf.grads(weighed)(inputs));
  const values: Float32Array[] = [];
  for (const tensor of [output, ...gradients]) {
    values.push(Float32Array.from(await tensor.data()));
    tensor.dispose();
  }
  for (const input of inputs) input.dispose();
  expect(tf.memory().numTensors).toBe(before);
  await tf.setBackend('wasm');
  return values;
}

async function expectSameGradients(compute: Compute, args: readonly Argument[]): Promise<void> {
  const wasm = await gradientsOn('wasm', compute, args);
  const cpu = await gradientsOn('cpu', compute, args);
  for (const [index, wanted] of cpu.entries()) {
    const found = wasm[index] ?? new Float32Array();
    expect(found).toHaveLength(wanted.length);
    const scale = Math.max(1e-3, ...wanted.map(Math.abs));
    const worst = Math.max(...found.map((value, at) => Math.abs(value - (wanted[at] ?? Number.NaN))));
    expect(worst / scale).toBeLessThan(1e-4);
  }
}

const size = (min: number, max: number): fc.Arbitrary<number> => fc.integer({ min, max });
const padding = fc.constantFrom('same' as const, 'valid' as const);

const picture = fc.record({
  batch: size(1, 3),
  height: size(4, 8),
  width: size(4, 8),
  channels: size(1, 3),
  filterHeight: size(1, 4),
  filterWidth: size(1, 4),
  out: size(1, 3),
  strideHeight: size(1, 3),
  strideWidth: size(1, 3),
  pad: padding,
});

test('gradients of convolutions, plain, transposed and depthwise, equal those of the JavaScript backend', async () => {
  await fc.assert(
    fc.asyncProperty(picture, async (shape) => {
      const { batch, height, width, channels, filterHeight, filterWidth, out, strideHeight, strideWidth, pad } = shape;
      const strides: [number, number] = [strideHeight, strideWidth];
      const x = { shape: [batch, height, width, channels], salt: 1 };
      const filter = { shape: [filterHeight, filterWidth, channels, out], salt: 2 };
      await expectSameGradients(
        (input, weights) => tf.conv2d(input as Tfjs.Tensor4D, weights as Tfjs.Tensor4D, strides, pad),
        [x, filter],
      );
      await expectSameGradients(
        (input, weights) => tf.depthwiseConv2d(input as Tfjs.Tensor4D, weights as Tfjs.Tensor4D, strides, pad),
        [x, filter],
      );
      const made = [height * strideHeight, width * strideWidth];
      await expectSameGradients(
        (input, weights) =>
          tf.conv2dTranspose(
            input as Tfjs.Tensor4D,
            weights as Tfjs.Tensor4D,
            [batch, made[0] ?? 0, made[1] ?? 0, out],
            strides,
            'same',
          ),
        [x, { shape: [filterHeight, filterWidth, out, channels], salt: 2 }],
      );
    }),
    { numRuns: 25 },
  );
});

const volume = fc.record({
  batch: size(1, 2),
  sizes: fc.tuple(size(3, 5), size(3, 5), size(3, 5)),
  channels: size(1, 3),
  filter: fc.tuple(size(1, 3), size(1, 3), size(1, 3)),
  out: size(1, 3),
  strides: fc.tuple(size(1, 2), size(1, 2), size(1, 2)),
  pad: padding,
});

test('gradients of convolutions of volumes equal those of the JavaScript backend', async () => {
  await fc.assert(
    fc.asyncProperty(volume, async ({ batch, sizes, channels, filter, out, strides, pad }) => {
      await expectSameGradients(
        (input, weights) => tf.conv3d(input as Tfjs.Tensor5D, weights as Tfjs.Tensor5D, strides, pad),
        [
          { shape: [batch, ...sizes, channels], salt: 1 },
          { shape: [...filter, channels, out], salt: 2 },
        ],
      );
    }),
    { numRuns: 25 },
  );
});

test('maximum pooling finds a maximum of any sign, and its gradient goes there', async () => {
  const offset = fc.constantFrom(-3, -0.5, 0, 3);
  await fc.assert(
    fc.asyncProperty(volume, offset, async ({ batch, sizes, channels, filter, strides, pad }, off) => {
      const [, height, width] = sizes;
      const [side, filterHeight, filterWidth] = filter;
      const [, strideHeight, strideWidth] = strides;
      await expectSameGradients(
        (x) => tf.maxPool(x as Tfjs.Tensor4D, [filterHeight, filterWidth], [strideHeight, strideWidth], pad),
        [{ shape: [batch, height, width, channels], salt: 1, offset: off }],
      );
      // A window of unequal sides has a wrong gradient on the JavaScript backend.
      await expectSameGradients(
        (x) => tf.maxPool3d(x as Tfjs.Tensor5D, side, strides, pad),
        [{ shape: [batch, ...sizes, channels], salt: 1, offset: off }],
      );
    }),
    { numRuns: 25 },
  );
});

test('sums of rows by segment leave out rows of no segment, and take rows of any shape', async () => {
  const shapes = fc.record({ rows: size(1, 9), columns: size(1, 4), more: size(1, 3), segments: size(1, 5) });
  const ids = fc.array(fc.integer({ min: -2, max: 7 }), { minLength: 9, maxLength: 9 });
  await fc.assert(
    fc.asyncProperty(shapes, ids, async ({ rows, columns, more, segments }, chosen) => {
      const sum = async (name: string): Promise<number[]> => {
        await tf.setBackend(name);
        const values = tf.tidy(() =>
          tf
            .unsortedSegmentSum(
              tf.tensor(numbers([rows, columns, more], 4), [rows, columns, more]),
              tf.tensor1d(chosen.slice(0, rows), 'int32'),
              segments,
            )
            .dataSync(),
        );
        await tf.setBackend('wasm');
        return [...values];
      };
      const [wasm, cpu] = [await sum('wasm'), await sum('cpu')];
      expect(wasm).toHaveLength(cpu.length);
      for (const [index, value] of cpu.entries()) expect(wasm[index]).toBeCloseTo(value, 5);
    }),
    { numRuns: 25 },
  );
});

test.each([
  [
    'a strided convolution',
    [1, 6, 5, 2],
    (x: Tfjs.Tensor) => tf.conv2d(x as Tfjs.Tensor4D, filter([3, 2, 2, 2]), 2, 'same'),
  ],
  [
    'a depthwise convolution',
    [2, 5, 5, 2],
    (x: Tfjs.Tensor) => tf.depthwiseConv2d(x as Tfjs.Tensor4D, filter([3, 3, 2, 2]), 2, 'same'),
  ],
  [
    'maximum pooling of volumes with windows of unequal sides',
    [1, 4, 5, 3, 2],
    (x: Tfjs.Tensor) => tf.maxPool3d(x as Tfjs.Tensor5D, [1, 2, 1], 1, 'same'),
  ],
  [
    'a transposed convolution of volumes, by its input',
    [1, 2, 3, 2, 2],
    (x: Tfjs.Tensor) => tf.conv3dTranspose(x as Tfjs.Tensor5D, volumeFilter(), [1, 4, 6, 4, 3], 2, 'same'),
  ],
  [
    'a transposed convolution of volumes, by its filter',
    [2, 3, 2, 3, 2],
    (weights: Tfjs.Tensor) => {
      const x = tf.tensor5d(numbers([1, 2, 3, 2, 2], 6), [1, 2, 3, 2, 2]);
      return tf.conv3dTranspose(x, weights as Tfjs.Tensor5D, [1, 4, 6, 4, 3], 2, 'same');
    },
  ],
  [
    'a transposed convolution',
    [1, 3, 4, 2],
    (x: Tfjs.Tensor) => tf.conv2dTranspose(x as Tfjs.Tensor4D, filter([3, 3, 2, 2]), [1, 6, 8, 2], 2, 'same'),
  ],
])('the gradient of %s is what small differences give', async (_name, shape, compute) => {
  const x = numbers(shape, 1);
  const direction = numbers(shape, 5);
  const [, gradient = new Float32Array()] = await gradientsOn('wasm', compute, [{ shape, salt: 1 }]);
  const step = 0.002;
  const at = (by: number): number =>
    tf.tidy(() => {
      const output = compute(
        tf.tensor(
          x.map((value, index) => value + by * (direction[index] ?? 0)),
          shape,
        ),
      );
      const weights = tf.tensor(numbers(output.shape, 9), output.shape);
      return tf.sum(tf.mul(output, weights)).dataSync()[0] ?? Number.NaN;
    });
  const slope = (at(step) - at(-step)) / (2 * step);
  const predicted = gradient.reduce((sum, value, index) => sum + value * (direction[index] ?? 0), 0);
  expect(Math.abs(slope)).toBeGreaterThan(0.01);
  expect(Math.abs(slope - predicted)).toBeLessThan(0.01 * Math.max(1, Math.abs(slope)));
});

function filter(shape: [number, number, number, number]): Tfjs.Tensor4D {
  return tf.tensor4d(numbers(shape, 2), shape);
}

function volumeFilter(): Tfjs.Tensor5D {
  return tf.tensor5d(numbers([2, 3, 2, 3, 2], 2), [2, 3, 2, 3, 2]);
}
