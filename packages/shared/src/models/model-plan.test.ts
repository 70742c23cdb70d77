import { expect, test } from '@jest/globals';
import { selectBackend } from '@octomil/shared/compute';
import { OctomilError } from '@octomil/shared/errors';
import { flatten } from '@octomil/shared/tensors';
import type { layers as Layers, LayersModel, SymbolicTensor } from '@tensorflow/tfjs-layers';
import { type Architecture, type Output, parseArchitecture } from './architecture.js';
import { buildModel, getFlat, setFlat } from './build-model.js';
import { DEFAULT_CAPS } from './caps.js';
import { checkCaps, initialWeights, parameterLayout, planModel } from './model-plan.js';

const binary: Output = { kind: 'binary' };
type L = typeof Layers;
type Stack = (l: L) => LayersModel['layers'];

const sequences: Record<string, Stack> = {
  'dense, activations, dropout': (l) => [
    l.dense({ units: 7, inputShape: [12], activation: 'elu' }),
    l.activation({ activation: 'hardSigmoid' }),
    l.dropout({ rate: 0.5 }),
    l.leakyReLU(),
    l.prelu(),
    l.dense({ units: 3, useBias: false, kernelInitializer: 'heUniform' }),
    l.softmax(),
  ],
  'conv2d, batch normalisation, pooling': (l) => [
    l.conv2d({ filters: 4, kernelSize: [3, 2], strides: [2, 1], inputShape: [9, 8, 3], activation: 'relu' }),
    l.batchNormalization(),
    l.maxPooling2d({ poolSize: 2 }),
    l.conv2d({ filters: 5, kernelSize: 2, padding: 'same', dilationRate: 2 }),
    l.averagePooling2d({ poolSize: [2, 3], strides: 1, padding: 'same' }),
    l.flatten(),
  ],
  'separable, depthwise, transposed': (l) => [
    l.separableConv2d({ filters: 4, kernelSize: 3, inputShape: [8, 8, 3] }),
    l.depthwiseConv2d({ kernelSize: 2, depthMultiplier: 3, useBias: false }),
    l.conv2dTranspose({ filters: 2, kernelSize: 3, strides: 2 }),
    l.conv2dTranspose({ filters: 2, kernelSize: 2, strides: 3, padding: 'same' }),
    l.globalMaxPooling2d({}),
  ],
  'padding, cropping, upsampling, permute': (l) => [
    l.zeroPadding2d({
      padding: [
        [1, 2],
        [0, 3],
      ] as never,
      inputShape: [5, 6, 2],
    }),
    l.upSampling2d({ size: [2, 3] }),
    l.cropping2D({
      cropping: [
        [1, 0],
        [2, 1],
      ],
    }),
    l.permute({ dims: [3, 1, 2] }),
    l.layerNormalization(),
    l.globalAveragePooling2d({}),
  ],
  'channels first': (l) => [
    l.conv2d({ filters: 4, kernelSize: 3, dataFormat: 'channelsFirst', inputShape: [3, 8, 9] }),
    l.batchNormalization({ axis: 1 }),
    l.globalAveragePooling2d({ dataFormat: 'channelsFirst' }),
  ],
  'conv1d and its pooling': (l) => [
    l.conv1d({ filters: 4, kernelSize: 3, padding: 'causal', inputShape: [10, 5] }),
    l.maxPooling1d({ poolSize: 3 }),
    l.conv1d({ filters: 3, kernelSize: 2, strides: 2 }),
    l.averagePooling1d({ poolSize: 1 }),
    l.globalAveragePooling1d(),
  ],
  'recurrent layers': (l) => [
    l.lstm({ units: 4, returnSequences: true, inputShape: [6, 5] }),
    l.gru({ units: 3, returnSequences: true }),
    l.simpleRNN({ units: 2, useBias: false }),
    l.repeatVector({ n: 3 }),
    l.masking({ maskValue: 0 }),
    l.bidirectional({ layer: l.gru({ units: 2 }), mergeMode: 'concat' }),
  ],
  'embedding, reshape, bidirectional': (l) => [
    l.embedding({ inputDim: 11, outputDim: 4, inputLength: 6 }),
    l.spatialDropout1d({ rate: 0.1 }),
    l.bidirectional({ layer: l.lstm({ units: 3, returnSequences: true }), mergeMode: 'sum' }),
    l.reshape({ targetShape: [9, 2] }),
    l.flatten(),
  ],
};

async function compare(model: LayersModel, output: Output): Promise<void> {
  const topology = model.toJSON(null, false) as unknown as Record<string, unknown>;
  const width = model.inputs[0]?.shape.slice(1).reduce<number>((total, size) => total * (size ?? 1), 1) ?? 0;
  const architecture: Architecture = { name: 'layers', topology, output };
  const expected = model.weights.map(({ originalName, shape }) => `${originalName} ${shape.join()}`).sort();
  const plan = planModel(architecture, width);
  expect(
    [...plan.weights.values()]
      .flat()
      .map(({ name, shape }) => `${name} ${shape.join()}`)
      .sort(),
  ).toEqual(expected);

  const backend = await selectBackend();
  const built = await buildModel(backend, architecture, width);
  const flat = flatten(initialWeights(architecture, width, 7));
  setFlat(built, flat);
  expect(await getFlat(built)).toEqual(flat);
  built.dispose();
  model.dispose();
}

test.each(Object.keys(sequences))('the inferred layout is what tfjs builds: %s', async (name) => {
  const { layers } = await selectBackend();
  const stack = sequences[name]?.(layers.layers) ?? [];
  const model = layers.sequential({ layers: [...stack, layers.layers.dense({ units: 1, activation: 'sigmoid' })] });
  await compare(model, binary);
});

test('the inferred layout is what tfjs builds: a functional graph with branches', async () => {
  const { layers } = await selectBackend();
  const l = layers.layers;
  const input = layers.input({ shape: [8] });
  const left = l.dense({ units: 4 }).apply(input) as SymbolicTensor;
  const right = l.dense({ units: 4, activation: 'tanh' }).apply(input) as SymbolicTensor;
  const merged = [l.add(), l.multiply(), l.average(), l.maximum(), l.minimum()].map(
    (layer) => layer.apply([left, right]) as SymbolicTensor,
  );
  const all = l.concatenate().apply([...merged, input]) as SymbolicTensor;
  const output = l.dense({ units: 3, activation: 'softmax' }).apply(all) as SymbolicTensor;
  await compare(layers.model({ inputs: input, outputs: output }), { kind: 'multiclass', classes: 3 });
});

test.each([
  ['logistic', 13],
  [{ name: 'mlp', hidden: [8, 4], output: { kind: 'multiclass', classes: 5 } }, 13],
  [{ name: 'cnn', inputShape: [7, 5, 2], filters: [3, 4, 5, 6], output: { kind: 'regression' } }, 70],
])('the built-in %j can be built, and its weights come back', async (given, width) => {
  const architecture = parseArchitecture(given);
  const built = await buildModel(await selectBackend(), architecture, width);
  const flat = flatten(initialWeights(architecture, width, 1));
  setFlat(built, flat);
  expect(await getFlat(built)).toEqual(flat);
  expect(checkCaps(architecture, width).parameters).toBe(flat.length);
  built.dispose();
});

test('a model in the JSON of another writer is read: camelCase keys, wrappers', () => {
  const topology = {
    modelTopology: {
      model_config: {
        className: 'Sequential',
        config: [
          { className: 'Dense', config: { name: 'theEnd', units: 1, batchInputShape: [null, 4], useBias: false } },
        ],
      },
    },
  };
  const { tensors } = parameterLayout({ name: 'layers', topology, output: binary }, 4);
  expect(tensors).toMatchObject([{ name: 'theEnd/kernel', shape: [4, 1] }]);
});

function dense(units: number, config: object = {}): Record<string, unknown> {
  const layer = { class_name: 'Dense', config: { name: 'd', units, batch_input_shape: [null, 4], ...config } };
  return { class_name: 'Sequential', config: { name: 's', layers: [layer] } };
}

function refusal(run: () => unknown): OctomilError {
  try {
    run();
  } catch (error) {
    if (error instanceof OctomilError) return error;
  }
  throw new OctomilError('internal', 'nothing was refused');
}

const layersOf = (topology: Record<string, unknown>, output: Output = binary): Architecture => ({
  name: 'layers',
  topology,
  output,
});

test('a layer of a billion units is refused by its numbers alone', () => {
  const error = refusal(() => parameterLayout(layersOf(dense(1_000_000_000)), 4));
  expect(error).toMatchObject({
    code: 'too_large',
    details: { value: 1_000_000_000, limit: DEFAULT_CAPS.maxActivations },
  });
  const mlp: Architecture = { name: 'mlp', hidden: [40_000, 40_000], activation: 'relu', output: binary };
  expect(refusal(() => initialWeights(mlp, 10, 1))).toMatchObject({
    code: 'too_large',
    details: { value: 440_000 + 1_600_040_000, limit: 250_000_000, setting: 'maxParameters' },
  });
});

test('caps hold exactly: as many parameters as allowed pass, one more does not', () => {
  const logistic = parseArchitecture('logistic');
  expect(checkCaps(logistic, 99, { ...DEFAULT_CAPS, maxParameters: 100 })).toEqual({
    parameters: 100,
    bytes: 400,
    layers: 2,
  });
  expect(refusal(() => checkCaps(logistic, 100, { ...DEFAULT_CAPS, maxParameters: 100 })).code).toBe('too_large');
  expect(refusal(() => checkCaps(logistic, 100, { ...DEFAULT_CAPS, maxBytes: 403 })).details?.['setting']).toBe(
    'maxBytes',
  );
});

test('JSON that is too deep, too long or has too many layers is refused', () => {
  let deep: Record<string, unknown> = {};
  for (let depth = 0; depth < 100_000; depth++) deep = { deep };
  expect(refusal(() => planModel(layersOf(deep), 4)).details?.['setting']).toBe('maxTopologyDepth');
  expect(refusal(() => planModel(layersOf({ text: 'x'.repeat(5_000_000) }), 4)).details?.['setting']).toBe(
    'maxTopologySize',
  );
  const many = { class_name: 'Sequential', config: { layers: new Array(2_000).fill({}) } };
  expect(refusal(() => planModel(layersOf(many), 4)).details).toMatchObject({ value: 2_000, limit: 1_000 });
});

test.each<[string, Record<string, unknown>, RegExp]>([
  [
    'an unknown layer',
    {
      class_name: 'Sequential',
      config: [{ class_name: 'Lambda', config: { name: 'x', batch_input_shape: [null, 4] } }],
    },
    /type Lambda is not supported/,
  ],
  [
    'an unknown initialiser',
    dense(1, { kernel_initializer: { class_name: 'Magic', config: {} } }),
    /kernel_initializer: initialiser "Magic"/,
  ],
  ['an unknown activation', dense(1, { activation: 'wow' }), /activation wow is not known/],
  ['a constraint', dense(1, { kernel_constraint: { class_name: 'MaxNorm' } }), /kernel_constraint is not supported/],
  ['another input width', dense(1, { batch_input_shape: [null, 5] }), /rows of shape \[5\], but an encoded row has 4/],
  ['another output width', dense(2), /needs \[1\]/],
  ['an end that is no probability', dense(1, { activation: 'tanh' }), /it must be linear or sigmoid/],
  ['a half unit', dense(1.5), /units must be a whole number from 1 to 2147483647, not 1.5/],
  ['something else', { class_name: 'Cat' }, /class_name is "Cat"/],
])('refused with its reason: %s', (_, topology, message) => {
  const error = refusal(() => planModel(layersOf(topology), 4));
  expect(error.code).toBe('invalid_input');
  expect(error.reason).toMatch(message);
});

test('a functional graph that feeds itself is refused', () => {
  const layer = (name: string, from: string) => ({
    name,
    class_name: 'Add',
    config: { name },
    inbound_nodes: [[[from, 0, 0, {}]]],
  });
  const topology = {
    class_name: 'Model',
    config: { layers: [layer('a', 'b'), layer('b', 'a')], input_layers: [['a', 0, 0]], output_layers: [['b', 0, 0]] },
  };
  expect(refusal(() => planModel(layersOf(topology), 4)).reason).toMatch(/feeds itself/);
});
