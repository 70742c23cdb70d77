import { activate } from './activations.js';
import { kernelForOnnx } from './kernels.js';
import type { GraphValue, Inputs, LayerContext } from './layer-context.js';

/** Convolutions and pooling, on values with their channels first. */

function refuseChannelsFirst(layer: LayerContext): void {
  if (layer.config.settings['data_format'] === 'channels_first') {
    throw layer.refuse('data_format channels_first is not supported; train with channels_last');
  }
}

interface Window {
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
}

/**
 * ONNX's `pads`: all starts, then all ends. `same` as tfjs counts it: ⌈length / stride⌉ positions, the odd one at the end.
 * Written out, because runtimes differ on `auto_pad` with dilation.
 */
function pads(layer: LayerContext, spatial: readonly number[], { kernel, strides, dilations }: Window): number[] {
  const padding = layer.config.settings['padding'] ?? 'valid';
  if (padding === 'valid') return [...spatial, ...spatial].map(() => 0);
  const totals = spatial.map((length, axis) => {
    const reach = ((kernel[axis] ?? 1) - 1) * (dilations[axis] ?? 1) + 1;
    if (padding === 'causal') return reach - 1;
    const stride = strides[axis] ?? 1;
    return Math.max((Math.ceil(length / stride) - 1) * stride + reach - length, 0);
  });
  const starts = totals.map((total) => (padding === 'causal' ? total : Math.floor(total / 2)));
  return [...starts, ...totals.map((total, axis) => total - (starts[axis] ?? 0))];
}

function convolve(layer: LayerContext, value: GraphValue, weightName: string, depthwise: boolean): GraphValue {
  refuseChannelsFirst(layer);
  const spatial = value.shape.slice(0, -1);
  const channels = value.shape.at(-1) ?? 1;
  const weight = layer.weight(weightName);
  const kernel = weight.shape.slice(0, -2);
  const strides = layer.config.integers('strides', kernel.length, 1);
  const dilations = layer.config.integers('dilation_rate', kernel.length, 1);
  const groups = depthwise ? channels : 1;
  const { shape, bytes } = kernelForOnnx(weight.data, weight.shape, groups);
  // A depthwise kernel of one channel is an ordinary one.
  const inputs = [layer.channelsFirst(value), layer.graph.floats(`${layer.name}/${weightName}`, shape, bytes)];
  const biased = layer.config.flag('use_bias', true) && layer.config.className !== 'SeparableConv2D';
  if (biased) inputs.push(layer.constant('bias'));
  const output = layer.node('Conv', inputs, {
    kernel_shape: kernel,
    strides,
    dilations,
    group: groups,
    pads: pads(layer, spatial, { kernel, strides, dilations }),
  });
  return { name: output, order: 'channels_first', shape: layer.outputShape };
}

export function convolution(layer: LayerContext, [value]: Inputs): GraphValue {
  return activate(layer, convolve(layer, value, 'kernel', false), layer.config.settings['activation']);
}

export function depthwiseConvolution(layer: LayerContext, [value]: Inputs): GraphValue {
  return activate(layer, convolve(layer, value, 'depthwise_kernel', true), layer.config.settings['activation']);
}

export function separableConvolution(layer: LayerContext, [value]: Inputs): GraphValue {
  const deep = convolve(layer, value, 'depthwise_kernel', true);
  const point = layer.weight('pointwise_kernel');
  const { shape, bytes } = kernelForOnnx(point.data, point.shape, 1);
  const inputs = [deep.name, layer.graph.floats(`${layer.name}/pointwise_kernel`, shape, bytes)];
  if (layer.config.flag('use_bias', true)) inputs.push(layer.constant('bias'));
  const output = layer.node('Conv', inputs, { kernel_shape: [1, 1] });
  return activate(layer, { ...deep, name: output }, layer.config.settings['activation']);
}

export function pooling(opType: 'MaxPool' | 'AveragePool') {
  return (layer: LayerContext, [value]: Inputs): GraphValue => {
    refuseChannelsFirst(layer);
    const spatial = value.shape.slice(0, -1);
    const kernel = layer.config.integers('pool_size', spatial.length, 2);
    const strides = layer.config.integers('strides', spatial.length, kernel);
    const attributes = {
      kernel_shape: kernel,
      strides,
      pads: pads(layer, spatial, { kernel, strides, dilations: kernel.map(() => 1) }),
    };
    const output = layer.node(opType, [layer.channelsFirst(value)], attributes);
    return { name: output, order: 'channels_first', shape: layer.outputShape };
  };
}

export function globalPooling(opType: 'ReduceMax' | 'ReduceMean') {
  return (layer: LayerContext, [value]: Inputs): GraphValue => {
    refuseChannelsFirst(layer);
    const axes = value.shape.slice(0, -1).map((_, axis) => axis + (value.order === 'channels_first' ? 2 : 1));
    const output = layer.node(opType, [value.name], { axes, keepdims: 0 });
    return { name: output, order: 'channels_last', shape: layer.outputShape };
  };
}

/** Zeros around an image. */
export function zeroPadding(layer: LayerContext, [value]: Inputs): GraphValue {
  refuseChannelsFirst(layer);
  const given = layer.config.settings['padding'] ?? 1;
  const [rows, columns] = (Array.isArray(given) ? given : [given, given]).map((pair: unknown) =>
    Array.isArray(pair) ? pair : [pair, pair],
  ) as [[number, number], [number, number]];
  const sides = [0, 0, rows[0], columns[0], 0, 0, rows[1], columns[1]];
  const output = layer.node('Pad', [layer.channelsFirst(value), layer.graph.ints(`${layer.name}/pads`, sides)]);
  return { name: output, order: 'channels_first', shape: layer.outputShape };
}
