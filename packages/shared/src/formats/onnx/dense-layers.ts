import { activate } from './activations.js';
import type { GraphValue, Inputs, LayerContext } from './layer-context.js';

/** Layers that look at one position at a time, or only rearrange. */

export function dense(layer: LayerContext, [value]: Inputs): GraphValue {
  const input = layer.channelsLast(value);
  const kernel = layer.constant('kernel');
  const biased = layer.config.flag('use_bias', true);
  let output: string;
  if (value.shape.length === 1) {
    output = layer.node('Gemm', biased ? [input, kernel, layer.constant('bias')] : [input, kernel]);
  } else {
    output = layer.node('MatMul', [input, kernel]);
    if (biased) output = layer.node('Add', [output, layer.constant('bias')]);
  }
  const result: GraphValue = { name: output, order: 'channels_last', shape: layer.outputShape };
  return activate(layer, result, layer.config.settings['activation']);
}

export function activation(layer: LayerContext, [value]: Inputs): GraphValue {
  return activate(layer, value, layer.config.settings['activation']);
}

export function softmax(layer: LayerContext, [value]: Inputs): GraphValue {
  const axis = layer.config.settings['axis'] ?? -1;
  if (axis !== -1 && axis !== value.shape.length) throw layer.refuse(`axis ${JSON.stringify(axis)} is not the last`);
  return activate(layer, value, 'softmax');
}

/** Dropout and noise do nothing but in training. */
export function nothing(_layer: LayerContext, [value]: Inputs): GraphValue {
  return value;
}

export function relu(layer: LayerContext, [value]: Inputs): GraphValue {
  const { max_value: max, negative_slope: slope = 0, threshold = 0 } = layer.config.settings;
  if ((slope !== 0 && slope !== null) || (threshold !== 0 && threshold !== null)) {
    throw layer.refuse('negative_slope and threshold are not supported');
  }
  const output = layer.node('Relu', [value.name]);
  if (typeof max !== 'number') return { ...value, name: output };
  const limit = layer.graph.floats(`${layer.name}/max_value`, [], Float32Array.of(max));
  return { ...value, name: layer.node('Min', [output, limit]) };
}

export function leakyRelu(layer: LayerContext, [value]: Inputs): GraphValue {
  return { ...value, name: layer.node('LeakyRelu', [value.name], { alpha: { float: alpha(layer, 0.3) } }) };
}

export function elu(layer: LayerContext, [value]: Inputs): GraphValue {
  return { ...value, name: layer.node('Elu', [value.name], { alpha: { float: alpha(layer, 1) } }) };
}

function alpha(layer: LayerContext, fallback: number): number {
  const given = layer.config.settings['alpha'] ?? fallback;
  if (typeof given !== 'number') throw layer.refuse(`alpha is ${JSON.stringify(given)}`);
  return given;
}

/** Flatten and Reshape. Rows lie in tfjs's order, or the next Dense would be given permuted ones. */
export function reshape(layer: LayerContext, [value]: Inputs): GraphValue {
  const shape = layer.graph.ints(`${layer.name}/shape`, [0, ...layer.outputShape]);
  const output = layer.node('Reshape', [layer.channelsLast(value), shape]);
  return { name: output, order: 'channels_last', shape: layer.outputShape };
}

export function permute(layer: LayerContext, [value]: Inputs): GraphValue {
  const perm = [0, ...layer.config.integers('dims', value.shape.length)];
  const output = layer.node('Transpose', [layer.channelsLast(value)], { perm });
  return { name: output, order: 'channels_last', shape: layer.outputShape };
}

export function batchNormalization(layer: LayerContext, [value]: Inputs): GraphValue {
  refuseOtherAxis(layer, value);
  const channels = value.shape.at(-1) ?? 1;
  const inputs = [
    value.shape.length === 1 ? layer.channelsLast(value) : layer.channelsFirst(value),
    layer.config.flag('scale', true) ? layer.constant('gamma') : layer.filled('gamma', channels, 1),
    layer.config.flag('center', true) ? layer.constant('beta') : layer.filled('beta', channels, 0),
    layer.constant('moving_mean'),
    layer.constant('moving_variance'),
  ];
  const output = layer.node('BatchNormalization', inputs, { epsilon: { float: epsilon(layer) } });
  return { ...value, name: output, order: value.shape.length === 1 ? 'channels_last' : 'channels_first' };
}

export function layerNormalization(layer: LayerContext, [value]: Inputs): GraphValue {
  refuseOtherAxis(layer, value);
  const channels = value.shape.at(-1) ?? 1;
  const inputs = [
    layer.channelsLast(value),
    layer.config.flag('scale', true) ? layer.constant('gamma') : layer.filled('gamma', channels, 1),
    layer.config.flag('center', true) ? layer.constant('beta') : layer.filled('beta', channels, 0),
  ];
  const output = layer.node('LayerNormalization', inputs, { axis: -1, epsilon: { float: epsilon(layer) } });
  return { ...value, name: output, order: 'channels_last' };
}

function epsilon(layer: LayerContext): number {
  const given = layer.config.settings['epsilon'] ?? 1e-3;
  if (typeof given !== 'number') throw layer.refuse(`epsilon is ${JSON.stringify(given)}`);
  return given;
}

function refuseOtherAxis(layer: LayerContext, value: GraphValue): void {
  const given = layer.config.settings['axis'] ?? -1;
  const [axis, ...more] = Array.isArray(given) ? (given as unknown[]) : [given];
  if (more.length > 0 || (axis !== -1 && axis !== value.shape.length)) {
    throw layer.refuse(`axis ${JSON.stringify(given)} is not the last one`);
  }
}

/** Add, Multiply and the like, of two values or more. */
export function merge(opType: 'Sum' | 'Mean' | 'Max' | 'Min' | 'Mul') {
  return (layer: LayerContext, values: readonly GraphValue[]): GraphValue => {
    const [first = '', second = '', ...more] = values.map((value) => layer.channelsLast(value));
    const output =
      opType === 'Mul'
        ? more.reduce((so, next) => layer.node('Mul', [so, next]), layer.node('Mul', [first, second]))
        : layer.node(opType, [first, second, ...more]);
    return { name: output, order: 'channels_last', shape: layer.outputShape };
  };
}

export function concatenate(layer: LayerContext, values: readonly GraphValue[]): GraphValue {
  // Axes count the batch in both.
  const axis = layer.config.settings['axis'] ?? -1;
  if (typeof axis !== 'number') throw layer.refuse(`axis is ${JSON.stringify(axis)}`);
  const inputs = values.map((value) => layer.channelsLast(value));
  return { name: layer.node('Concat', inputs, { axis }), order: 'channels_last', shape: layer.outputShape };
}
