import { once } from 'node:events';
import { createRequire } from 'node:module';
import { Worker } from 'node:worker_threads';
import { afterAll, expect, test } from '@jest/globals';
import { selectBackend } from '@octomil/shared/compute';
import type { FeatureSpec } from '@octomil/shared/features';
import {
  type Architecture,
  buildModel,
  initialWeights,
  type ModelDocument,
  modelDocument,
  parseArchitecture,
  setFlat,
} from '@octomil/shared/models';
import { flatten } from '@octomil/shared/tensors';
import type { Tensor } from '@tensorflow/tfjs-core';
import type { layers as Layers, LayersModel } from '@tensorflow/tfjs-layers';
import fc from 'fast-check';
import { joinParts } from '../byte-parts.js';
import { writeOnnx } from './write-onnx.js';

type Outputs = Readonly<Record<string, Float32Array>>;

// Not a dependency: whoever has it checks against it. In a thread of its own, because its native part makes arrays that
// are not those of a test's realm.
const RUNNER = `
const { parentPort } = require('node:worker_threads');
const { InferenceSession, Tensor } = require('onnxruntime-node');
parentPort.on('message', async ({ model, x, dims }) => {
  try {
    const options = { intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 3 };
    const session = await InferenceSession.create(model, options);
    const results = await session.run({ input: new Tensor('float32', new Float32Array(x), dims) });
    parentPort.postMessage({ outputs: Object.entries(results).map(([name, { data }]) => [name, [...data]]) });
  } catch (error) {
    parentPort.postMessage({ failure: String(error) });
  }
});`;
const isThere = (() => {
  try {
    createRequire(import.meta.url).resolve('onnxruntime-node');
    return true;
  } catch {
    return false;
  }
})();
const withRuntime = isThere ? test : test.skip;
let runner: Worker | undefined;
afterAll(() => runner?.terminate());

async function runOnnx(model: Uint8Array, x: Float32Array, dims: readonly number[]): Promise<Outputs> {
  runner ??= new Worker(RUNNER, { eval: true, execArgv: [] });
  runner.postMessage({ model, x, dims });
  const [answer] = (await once(runner, 'message')) as [{ outputs?: [string, number[]][]; failure?: string }];
  expect(answer.failure).toBeUndefined();
  return Object.fromEntries((answer.outputs ?? []).map(([name, values]) => [name, Float32Array.from(values)]));
}

const ROWS = 3;

async function run(document: ModelDocument, seed: number) {
  const { architecture, inputWidth } = document;
  const tensors = initialWeights(architecture, inputWidth, seed).map((tensor, index) => {
    // Biases and moving means start at zero, which would hide that one is missing.
    const data = tensor.data.map((value, place) => value + Math.sin(index * 31 + place + 1) * 0.2 + 0.01);
    return {
      ...tensor,
      data: tensor.name.endsWith('moving_variance') ? data.map((value) => Math.abs(value) + 0.5) : data,
    };
  });
  const x = Float32Array.from({ length: ROWS * inputWidth }, (_, index) => Math.cos(index * 1.7 + seed));

  const backend = await selectBackend();
  const built = await buildModel(backend, architecture, inputWidth);
  setFlat(built, flatten(tensors));
  const expected = backend.tf.tidy(
    () =>
      built.layersModel.apply(backend.tf.tensor(x, [ROWS, ...built.plan.inputShape]), { training: false }) as Tensor,
  );
  const logits = await expected.data<'float32'>();
  expected.dispose();
  const planShape = built.plan.inputShape;
  built.dispose();

  const outputs = await runOnnx(joinParts(writeOnnx(document, tensors)), x, [ROWS, ...planShape]);
  return { logits, outputs };
}

/** Relative to values beyond 1. */
function difference(actual: Float32Array | undefined, expected: ArrayLike<number>): number {
  expect(actual?.length).toBe(expected.length);
  const off = Array.from(
    expected,
    (value, index) => Math.abs((actual?.[index] ?? Number.NaN) - value) / Math.max(1, Math.abs(value)),
  );
  return Math.max(...off);
}

const output = fc.constantFrom(
  { kind: 'binary' },
  { kind: 'multiclass', classes: 3 },
  { kind: 'regression' },
) as fc.Arbitrary<Architecture['output']>;
const activation = fc.constantFrom('relu', 'tanh', 'sigmoid', 'elu', 'selu', 'softplus', 'swish', 'linear');
const size = fc.integer({ min: 1, max: 9 });
const built = fc.oneof(
  fc.record({ architecture: fc.record({ name: fc.constant('logistic'), output }), inputWidth: size }),
  fc.record({
    architecture: fc.record({
      name: fc.constant('mlp'),
      hidden: fc.array(size, { minLength: 1, maxLength: 3 }),
      activation,
      output,
    }),
    inputWidth: size,
  }),
  fc
    .record({
      name: fc.constant('cnn'),
      inputShape: fc.tuple(size, size, fc.integer({ min: 1, max: 3 })),
      filters: fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 3 }),
      kernelSize: fc.integer({ min: 1, max: 4 }),
      hidden: size,
      activation,
      output,
    })
    .map((architecture) => ({
      architecture,
      inputWidth: architecture.inputShape.reduce((total, length) => total * length, 1),
    })),
);

withRuntime(
  'every built-in architecture gives what tfjs gives (needs onnxruntime-node)',
  async () => {
    await fc.assert(
      fc.asyncProperty(built, fc.nat({ max: 1_000 }), async ({ architecture, inputWidth }, seed) => {
        const parsed = parseArchitecture(architecture);
        const { logits, outputs } = await run(modelDocument(parsed, inputWidth), seed);
        const { kind } = parsed.output;
        expect(Object.keys(outputs).sort()).toEqual(kind === 'regression' ? ['value'] : ['logits', 'probabilities']);
        expect(difference(outputs['value'] ?? outputs['logits'], logits)).toBeLessThanOrEqual(1e-5);
        if (kind === 'binary') {
          const sigmoid = [...logits].map((logit) => 1 / (1 + Math.exp(-logit)));
          expect(difference(outputs['probabilities'], sigmoid)).toBeLessThanOrEqual(1e-5);
        }
        for (let row = 0; kind === 'multiclass' && row < ROWS; row++) {
          const sum = outputs['probabilities']?.subarray(row * 3, row * 3 + 3).reduce((a, b) => a + b, 0);
          expect(sum).toBeCloseTo(1, 5);
        }
      }),
      { numRuns: 40 },
    );
  },
  300_000,
);

type Stack = (l: typeof Layers) => LayersModel['layers'];
const stacks: Record<string, Stack> = {
  'convolutions, strided, dilated, batch normalisation, pooling with padding': (l) => [
    l.conv2d({
      filters: 4,
      kernelSize: [3, 2],
      strides: [2, 1],
      padding: 'same',
      inputShape: [9, 8, 3],
      activation: 'relu',
    }),
    l.batchNormalization(),
    l.conv2d({ filters: 5, kernelSize: 2, padding: 'same', dilationRate: 2, useBias: false }),
    l.averagePooling2d({ poolSize: [2, 3], strides: 1, padding: 'same' }),
    l.maxPooling2d({ poolSize: 3, strides: 2, padding: 'same' }),
    l.dropout({ rate: 0.5 }),
    l.flatten(),
  ],
  'separable and depthwise': (l) => [
    l.zeroPadding2d({
      padding: [
        [1, 2],
        [0, 3],
      ] as never,
      inputShape: [5, 6, 3],
    }),
    l.separableConv2d({ filters: 4, kernelSize: 3, activation: 'tanh' }),
    l.depthwiseConv2d({ kernelSize: 2, depthMultiplier: 3 }),
    l.globalMaxPooling2d({}),
  ],
  'one dimension': (l) => [
    l.conv1d({ filters: 4, kernelSize: 3, dilationRate: 2, padding: 'same', inputShape: [10, 5] }),
    l.maxPooling1d({ poolSize: 3 }),
    l.batchNormalization({ scale: false }),
    l.conv1d({ filters: 3, kernelSize: 2, strides: 2, padding: 'same' }),
    l.layerNormalization(),
    l.dense({ units: 3, activation: 'softmax' }),
    l.globalAveragePooling1d(),
  ],
  'dense, other activations': (l) => [
    l.dense({ units: 7, inputShape: [12], activation: 'hardSigmoid' }),
    l.batchNormalization({ center: false, epsilon: 0.01 }),
    l.leakyReLU(),
    l.dense({ units: 6, useBias: false, activation: 'softsign' }),
    l.elu(),
    l.activation({ activation: 'relu6' }),
    l.dense({ units: 6, activation: 'mish' }),
    l.dense({ units: 6, activation: 'gelu' }),
    l.reLU({ maxValue: 0.3 }),
    l.reshape({ targetShape: [3, 2] }),
    l.permute({ dims: [2, 1] }),
    l.flatten(),
  ],
  'softmax inside a picture, global mean': (l) => [
    l.conv2d({ filters: 3, kernelSize: 2, inputShape: [4, 5, 2], activation: 'softmax' }),
    l.activation({ activation: 'softplus' }),
    l.globalAveragePooling2d({}),
  ],
};

withRuntime.each(Object.keys(stacks))('layers of %s give what tfjs gives (needs onnxruntime-node)', async (name) => {
  const { layers } = await selectBackend();
  const stack = stacks[name]?.(layers.layers) ?? [];
  const model = layers.sequential({ layers: [...stack, layers.layers.dense({ units: 3 }), layers.layers.softmax()] });
  await compare(model);
});

withRuntime('branches that meet give what tfjs gives (needs onnxruntime-node)', async () => {
  const { layers } = await selectBackend();
  const l = layers.layers;
  const input = layers.input({ shape: [6, 6, 2] });
  const left = l.conv2d({ filters: 3, kernelSize: 3, padding: 'same', activation: 'relu' }).apply(input) as never;
  const right = l.conv2d({ filters: 3, kernelSize: 1 }).apply(input) as never;
  const merged = [
    l.add().apply([left, right]),
    l.average().apply([left, right]),
    l.multiply().apply([left, right]),
    l.maximum().apply([left, right]),
    l.minimum().apply([left, right]),
  ] as never[];
  const joined = l.concatenate({ axis: -1 }).apply(merged) as never;
  const end = l.dense({ units: 3, activation: 'softmax' }).apply(l.flatten().apply(joined)) as never;
  await compare(layers.model({ inputs: input, outputs: end }));
});

async function compare(model: LayersModel): Promise<void> {
  const topology = model.toJSON(null, false) as unknown as Record<string, unknown>;
  const inputWidth = model.inputs[0]?.shape.slice(1).reduce<number>((total, length) => total * (length ?? 1), 1) ?? 0;
  model.dispose();
  const architecture: Architecture = { name: 'layers', topology, output: { kind: 'multiclass', classes: 3 } };
  const { logits, outputs } = await run(modelDocument(architecture, inputWidth), 5);
  expect(difference(outputs['logits'], logits)).toBeLessThanOrEqual(1e-5);
}

withRuntime('a regression answers in the units of its target (needs onnxruntime-node)', async () => {
  const document = modelDocument({ name: 'logistic', output: { kind: 'regression' } }, 4);
  const target = { mean: 100, deviation: 20, classes: [] };
  const featureSpec = { hash: 'abc', target } as unknown as FeatureSpec;
  const { logits, outputs } = await run({ ...document, featureSpec }, 3);
  expect(
    difference(
      outputs['value'],
      [...logits].map((value) => value * 20 + 100),
    ),
  ).toBeLessThanOrEqual(1e-5);
});

test('what has no counterpart is refused by name; so are weights of another model', async () => {
  const topology = {
    class_name: 'Sequential',
    config: {
      layers: [
        { class_name: 'LSTM', config: { name: 'memory', units: 2, batch_input_shape: [null, 3, 2] } },
        { class_name: 'Dense', config: { name: 'end', units: 1 } },
      ],
    },
  };
  const architecture: Architecture = { name: 'layers', topology, output: { kind: 'binary' } };
  const document = modelDocument(architecture, 6);
  const weights = initialWeights(architecture, 6, 1);
  expect(() => writeOnnx(document, weights)).toThrow(/layer "memory" \(LSTM\) cannot become ONNX/);
  expect(() => writeOnnx(document, weights.slice(1))).toThrow(expect.objectContaining({ code: 'conversion_failed' }));
});

test('the size is known before the bytes are made, and the feature spec is named by its hash alone', () => {
  const document = modelDocument(parseArchitecture('logistic'), 2);
  const featureSpec = { hash: 'f00d', target: { classes: ['no', 'yes'] }, columns: [{ name: 'secret' }] };
  const file = writeOnnx(
    { ...document, featureSpec: featureSpec as never },
    initialWeights(document.architecture, 2, 1),
  );
  const bytes = Buffer.from(joinParts(file));
  expect(bytes.length).toBe([...file.parts()].reduce((sum, part) => sum + part.length, 0));
  expect(bytes.includes('f00d')).toBe(true);
  expect(bytes.includes('secret')).toBe(false);
});
