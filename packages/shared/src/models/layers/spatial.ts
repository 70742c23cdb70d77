import { GLOROT_NORMAL, GLOROT_UNIFORM, type Initializer, ZEROS } from '../initializers.js';
import type { LayerConfig, LayerRule, Shape, WeightPlan } from '../layer-config.js';

/** Convolutions, pooling, padding and upsampling. Output lengths as tfjs-layers 4.22 computes them. */

interface Placed {
  readonly spatial: Shape;
  readonly channels: number;
  readonly place: (spatial: Shape, channels: number) => Shape;
}

/** Tells the channels of a row of rank `dimensions + 1` from its positions. */
function placed(layer: LayerConfig, inputs: readonly Shape[], dimensions: 1 | 2): Placed {
  const input = layer.only(inputs, dimensions + 1);
  // tfjs has no channels-first layers of one dimension.
  const format =
    dimensions === 1
      ? 'channels_last'
      : layer.choice('data_format', ['channels_last', 'channels_first'], 'channels_last');
  return format === 'channels_last'
    ? {
        spatial: input.slice(0, -1),
        channels: input.at(-1) ?? 1,
        place: (spatial, channels) => [...spatial, channels],
      }
    : { spatial: input.slice(1), channels: input[0] ?? 1, place: (spatial, channels) => [channels, ...spatial] };
}

type Padding = 'valid' | 'same' | 'causal';

function windowed(
  layer: LayerConfig,
  spatial: Shape,
  window: readonly number[],
  strides: readonly number[],
  padding: Padding,
  dilation: readonly number[] = [],
): Shape {
  return spatial.map((length, index) => {
    const reach = ((window[index] ?? 1) - 1) * (dilation[index] ?? 1) + 1;
    const output = Math.floor(
      ((padding === 'valid' ? length - reach + 1 : length) + (strides[index] ?? 1) - 1) / (strides[index] ?? 1),
    );
    if (output < 1) throw layer.refuse(`its window of ${reach} does not fit into ${length} positions`);
    return output;
  });
}

function bias(layer: LayerConfig, size: number): WeightPlan[] {
  return layer.flag('use_bias', true)
    ? [layer.weight('bias', [size], layer.initializer('bias_initializer', ZEROS))]
    : [];
}

const kernelOf = (layer: LayerConfig, key: string, fallback: Initializer): Initializer =>
  layer.initializer(key, fallback);

function convolution(dimensions: 1 | 2): LayerRule {
  return (layer, inputs) => {
    const { spatial, channels, place } = placed(layer, inputs, dimensions);
    const filters = layer.integer('filters');
    const kernel = layer.integers('kernel_size', dimensions);
    const padding = layer.choice(
      'padding',
      dimensions === 1 ? ['valid', 'same', 'causal'] : ['valid', 'same'],
      'valid',
    );
    const dilation = layer.integers('dilation_rate', dimensions, 1);
    const output = windowed(layer, spatial, kernel, layer.integers('strides', dimensions, 1), padding, dilation);
    return {
      output: place(output, filters),
      weights: [
        layer.weight('kernel', [...kernel, channels, filters], kernelOf(layer, 'kernel_initializer', GLOROT_NORMAL)),
        ...bias(layer, filters),
      ],
    };
  };
}

const separable: LayerRule = (layer, inputs) => {
  const { spatial, channels, place } = placed(layer, inputs, 2);
  const filters = layer.integer('filters');
  const kernel = layer.integers('kernel_size', 2);
  const multiplier = layer.integer('depth_multiplier', 1);
  const output = windowed(
    layer,
    spatial,
    kernel,
    layer.integers('strides', 2, 1),
    layer.choice('padding', ['valid', 'same'], 'valid'),
    layer.integers('dilation_rate', 2, 1),
  );
  return {
    output: place(output, filters),
    weights: [
      layer.weight(
        'depthwise_kernel',
        [...kernel, channels, multiplier],
        kernelOf(layer, 'depthwise_initializer', GLOROT_UNIFORM),
      ),
      layer.weight(
        'pointwise_kernel',
        [1, 1, channels * multiplier, filters],
        kernelOf(layer, 'pointwise_initializer', GLOROT_UNIFORM),
      ),
      ...bias(layer, filters),
    ],
  };
};

const depthwise: LayerRule = (layer, inputs) => {
  const { spatial, channels, place } = placed(layer, inputs, 2);
  const kernel = layer.integers('kernel_size', 2);
  const multiplier = layer.integer('depth_multiplier', 1);
  if (layer.integers('dilation_rate', 2, 1).some((rate) => rate !== 1)) throw layer.refuse('dilation_rate must be 1');
  const padding = layer.choice('padding', ['valid', 'same'], 'valid');
  return {
    output: place(windowed(layer, spatial, kernel, layer.integers('strides', 2, 1), padding), channels * multiplier),
    weights: [
      layer.weight(
        'depthwise_kernel',
        [...kernel, channels, multiplier],
        kernelOf(layer, 'depthwise_initializer', GLOROT_NORMAL),
      ),
      ...bias(layer, channels * multiplier),
    ],
  };
};

const transposed: LayerRule = (layer, inputs) => {
  const { spatial, channels, place } = placed(layer, inputs, 2);
  const filters = layer.integer('filters');
  const kernel = layer.integers('kernel_size', 2);
  const strides = layer.integers('strides', 2, 1);
  const same = layer.choice('padding', ['valid', 'same'], 'valid') === 'same';
  const output = spatial.map((length, index) => {
    const stride = strides[index] ?? 1;
    return length * stride + (same ? 0 : Math.max((kernel[index] ?? 1) - stride, 0));
  });
  return {
    output: place(output, filters),
    weights: [
      layer.weight('kernel', [...kernel, filters, channels], kernelOf(layer, 'kernel_initializer', GLOROT_NORMAL)),
      ...bias(layer, filters),
    ],
  };
};

function pooling(dimensions: 1 | 2): LayerRule {
  return (layer, inputs) => {
    const { spatial, channels, place } = placed(layer, inputs, dimensions);
    const window = layer.integers('pool_size', dimensions, 2);
    const strides = layer.integers('strides', dimensions, window);
    const padding = layer.choice('padding', ['valid', 'same'], 'valid');
    return { output: place(windowed(layer, spatial, window, strides, padding), channels), weights: [] };
  };
}

function globalPooling(dimensions: 1 | 2): LayerRule {
  return (layer, inputs) => ({ output: [placed(layer, inputs, dimensions).channels], weights: [] });
}

const upSampling: LayerRule = (layer, inputs) => {
  const { spatial, channels, place } = placed(layer, inputs, 2);
  const size = layer.integers('size', 2, 2);
  return {
    output: place(
      spatial.map((length, index) => length * (size[index] ?? 1)),
      channels,
    ),
    weights: [],
  };
};

/** Four sides: `[[top, bottom], [left, right]]`, with shorter forms for equal ones. */
function sides(layer: LayerConfig, key: string, fallback: number): [number, number][] {
  const value = layer.settings[key] ?? fallback;
  const pairs: unknown[] = Array.isArray(value) ? value : [value, value];
  return pairs.map((pair) => {
    const [before, after, ...more] = Array.isArray(pair) ? pair : [pair, pair];
    if (
      pairs.length !== 2 ||
      more.length > 0 ||
      ![before, after].every((side) => Number.isInteger(side) && side >= 0)
    ) {
      throw layer.refuse(`${key} ${JSON.stringify(value)} must be a whole number or [[top, bottom], [left, right]]`);
    }
    return [before, after];
  });
}

const zeroPadding: LayerRule = (layer, inputs) => {
  const { spatial, channels, place } = placed(layer, inputs, 2);
  const padding = sides(layer, 'padding', 1);
  const output = spatial.map((length, index) => length + (padding[index]?.[0] ?? 0) + (padding[index]?.[1] ?? 0));
  return { output: place(output, channels), weights: [] };
};

const cropping: LayerRule = (layer, inputs) => {
  const { spatial, channels, place } = placed(layer, inputs, 2);
  const cut = sides(layer, 'cropping', 0);
  const output = spatial.map((length, index) => length - (cut[index]?.[0] ?? 0) - (cut[index]?.[1] ?? 0));
  if (output.some((length) => length < 1)) throw layer.refuse(`cropping leaves nothing of [${spatial.join(', ')}]`);
  return { output: place(output, channels), weights: [] };
};

export const SPATIAL_RULES: Readonly<Record<string, LayerRule>> = {
  Conv1D: convolution(1),
  Conv2D: convolution(2),
  SeparableConv2D: separable,
  DepthwiseConv2D: depthwise,
  Conv2DTranspose: transposed,
  MaxPooling1D: pooling(1),
  AveragePooling1D: pooling(1),
  MaxPooling2D: pooling(2),
  AveragePooling2D: pooling(2),
  GlobalMaxPooling1D: globalPooling(1),
  GlobalAveragePooling1D: globalPooling(1),
  GlobalMaxPooling2D: globalPooling(2),
  GlobalAveragePooling2D: globalPooling(2),
  UpSampling2D: upSampling,
  ZeroPadding2D: zeroPadding,
  Cropping2D: cropping,
};
