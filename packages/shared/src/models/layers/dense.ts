import { GLOROT_NORMAL, ONES, SMALL_UNIFORM, ZEROS } from '../initializers.js';
import { type LayerConfig, type LayerRule, product, type Shape } from '../layer-config.js';

/** Layers that look at one position at a time, or only rearrange. */

const unchanged: LayerRule = (layer, inputs) => ({ output: layer.only(inputs), weights: [] });

const dense: LayerRule = (layer, inputs) => {
  const input = layer.only(inputs);
  const last = input.at(-1);
  if (last === undefined) throw layer.refuse('takes rows of rank 1 or more');
  const units = layer.integer('units');
  const weights = [layer.weight('kernel', [last, units], layer.initializer('kernel_initializer', GLOROT_NORMAL))];
  if (layer.flag('use_bias', true)) {
    weights.push(layer.weight('bias', [units], layer.initializer('bias_initializer', ZEROS)));
  }
  return { output: [...input.slice(0, -1), units], weights };
};

const dropout: LayerRule = (layer, inputs) => {
  const rate = layer.settings['rate'];
  if (typeof rate !== 'number' || !(rate >= 0 && rate < 1)) {
    throw layer.refuse(`rate must be from 0 to below 1, not ${JSON.stringify(rate)}`);
  }
  return { output: layer.only(inputs), weights: [] };
};

const flatten: LayerRule = (layer, inputs) => {
  const input = layer.only(inputs);
  if (input.length < 2) throw layer.refuse('takes rows of rank 2 or more');
  return { output: [product(input)], weights: [] };
};

const reshape: LayerRule = (layer, inputs) => {
  const input = layer.only(inputs);
  const target = layer.settings['target_shape'];
  if (!Array.isArray(target) || target.length === 0) throw layer.refuse('target_shape must be a list of sizes');
  const open = target.filter((size) => size === null || size === -1).length;
  const known = target.map((size: unknown) => (size === null || size === -1 ? 1 : size));
  if (open > 1 || known.some((size) => !Number.isInteger(size) || (size as number) < 1)) {
    throw layer.refuse(`target_shape ${JSON.stringify(target)} must hold positive sizes, at most one of them -1`);
  }
  const rest = product(input) / product(known as number[]);
  if (open === 0 ? rest !== 1 : !Number.isInteger(rest)) {
    throw layer.refuse(`target_shape ${JSON.stringify(target)} does not hold the ${product(input)} numbers of a row`);
  }
  const output = target.map((size: unknown) => (size === null || size === -1 ? rest : (size as number)));
  return { output, weights: [] };
};

const permute: LayerRule = (layer, inputs) => {
  const input = layer.only(inputs);
  const dims = layer.integers('dims', input.length);
  if (new Set(dims).size !== dims.length || dims.some((dim) => dim > input.length)) {
    throw layer.refuse(`dims ${JSON.stringify(dims)} must be an order of 1 to ${input.length}`);
  }
  return { output: dims.map((dim) => input[dim - 1] ?? 1), weights: [] };
};

const repeatVector: LayerRule = (layer, inputs) => {
  const [size = 1] = layer.only(inputs, 1);
  return { output: [layer.integer('n'), size], weights: [] };
};

const embedding: LayerRule = (layer, inputs) => {
  const input = layer.only(inputs);
  const outputDim = layer.integer('output_dim');
  const shape = [layer.integer('input_dim'), outputDim];
  const initializer = layer.initializer('embeddings_initializer', SMALL_UNIFORM);
  return { output: [...input, outputDim], weights: [layer.weight('embeddings', shape, initializer)] };
};

const prelu: LayerRule = (layer, inputs) => {
  const input = layer.only(inputs);
  const shared = layer.settings['shared_axes'];
  const axes = Array.isArray(shared) ? shared : shared === undefined || shared === null ? [] : [shared];
  const shape = input.map((size, index) => (axes.includes(index + 1) ? 1 : size));
  return { output: input, weights: [layer.weight('alpha', shape, layer.initializer('alpha_initializer', ZEROS))] };
};

const batchNormalization: LayerRule = (layer, inputs) => {
  const input = layer.only(inputs);
  const shape = [sizeAt(layer, input, layer.settings['axis'] ?? -1)];
  return {
    output: input,
    weights: [
      ...affine(layer, shape),
      layer.weight('moving_mean', shape, layer.initializer('moving_mean_initializer', ZEROS)),
      layer.weight('moving_variance', shape, layer.initializer('moving_variance_initializer', ONES)),
    ],
  };
};

const layerNormalization: LayerRule = (layer, inputs) => {
  const input = layer.only(inputs);
  const given = layer.settings['axis'] ?? -1;
  const shape = (Array.isArray(given) ? given : [given]).map((axis) => sizeAt(layer, input, axis));
  return { output: input, weights: affine(layer, shape) };
};

function affine(layer: LayerConfig, shape: Shape): ReturnType<LayerConfig['weight']>[] {
  return [
    ...(layer.flag('scale', true) ? [layer.weight('gamma', shape, layer.initializer('gamma_initializer', ONES))] : []),
    ...(layer.flag('center', true) ? [layer.weight('beta', shape, layer.initializer('beta_initializer', ZEROS))] : []),
  ];
}

/** The size of an axis that counts the batch as axis 0. */
function sizeAt(layer: LayerConfig, input: Shape, axis: unknown): number {
  const index = typeof axis === 'number' ? (axis < 0 ? input.length + axis : axis - 1) : Number.NaN;
  const size = input[index];
  if (size === undefined) throw layer.refuse(`axis ${JSON.stringify(axis)} is not one of a row's ${input.length}`);
  return size;
}

export const DENSE_RULES: Readonly<Record<string, LayerRule>> = {
  Dense: dense,
  Activation: unchanged,
  ReLU: unchanged,
  LeakyReLU: unchanged,
  ELU: unchanged,
  ThresholdedReLU: unchanged,
  Softmax: unchanged,
  PReLU: prelu,
  Dropout: dropout,
  SpatialDropout1D: (layer, inputs) => {
    layer.only(inputs, 2);
    return dropout(layer, inputs);
  },
  Masking: unchanged,
  Flatten: flatten,
  Reshape: reshape,
  Permute: permute,
  RepeatVector: repeatVector,
  Embedding: embedding,
  BatchNormalization: batchNormalization,
  LayerNormalization: layerNormalization,
};
