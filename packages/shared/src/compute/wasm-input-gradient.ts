import type * as Tfjs from '@tensorflow/tfjs-core';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { registerWasmKernel, type WasmHeap, zerosOnHeap } from './wasm-composition.js';

interface InputGradientAttributes {
  readonly strides: [number, number] | number;
  readonly pad: 'valid' | 'same' | number | Tfjs.backend_util.ExplicitPadding;
  readonly dataFormat?: 'NHWC' | 'NCHW';
  readonly dimRoundingMode?: 'floor' | 'round' | 'ceil';
  readonly dilations?: [number, number] | number;
  readonly inputShape: [number, number, number, number];
}

interface VolumeGradientAttributes {
  readonly strides: [number, number, number] | number;
  readonly pad: 'valid' | 'same';
  readonly inputShape: [number, number, number, number, number];
}

/** One axis of a convolution, in cells. */
interface Axis {
  readonly inSize: number;
  readonly outSize: number;
  readonly stride: number;
  /** Cells from the first to the last that a filter sees, less one. */
  readonly reach: number;
  readonly padBefore: number;
}

/**
 * Gives the wasm backend gradients of convolutions by their input, as convolutions: the gradient of the output, its spots
 * set apart by the stride and padded by the filter's reach, meets the filter turned around (Dumoulin and Visin 2016,
 * chapter 4). tfjs's own kernel for pictures is a plain loop, the one for volumes computes other numbers than the
 * gradient, and there is none for depthwise convolutions.
 */
export function registerConvolutionInputGradients(tf: typeof Tfjs): void {
  registerWasmKernel<InputGradientAttributes>(tf, 'Conv2DBackpropInput', (call) => {
    const { inputs, attrs, heap, run } = call;
    const { dy, filter } = inputs as { dy: TensorInfo; filter: TensorInfo };
    const { dataFormat, inputShape, strides, pad, dimRoundingMode } = attrs;
    if (dataFormat === 'NCHW') return call.before();
    const shape = filter.shape as [number, number, number, number];
    const conv = tf.backend_util.computeConv2DInfo(inputShape, shape, strides, 1, pad, dimRoundingMode);
    const turned = run('Reverse', { x: filter }, { dims: [0, 1] });
    const swapped = run('Transpose', { x: turned }, { perm: [0, 1, 3, 2] });
    const apart = setApart(heap, dy, conv.batchSize, pictureAxes(conv), conv.outChannels);
    const x = { ...apart, shape: dropDepth(apart.shape) };
    const attributes = { strides: 1, pad: 'valid', dataFormat: 'NHWC', dilations: 1 };
    const dx = run('Conv2D', { x, filter: swapped }, attributes);
    heap.disposeData(apart.dataId);
    return dx;
  });
  registerWasmKernel<InputGradientAttributes>(tf, 'DepthwiseConv2dNativeBackpropInput', (call) => {
    const { inputs, attrs, heap, run } = call;
    const { dy, filter } = inputs as { dy: TensorInfo; filter: TensorInfo };
    const { inputShape, strides, pad, dimRoundingMode, dilations = 1 } = attrs;
    const shape = filter.shape as [number, number, number, number];
    const conv = tf.backend_util.computeConv2DInfo(inputShape, shape, strides, dilations, pad, dimRoundingMode, true);
    const { batchSize, filterHeight, filterWidth, inChannels, dilationHeight, dilationWidth } = conv;
    const turned = run('Reverse', { x: filter }, { dims: [0, 1] });
    const multiplier = shape[3];
    const attributes = { strides: 1, pad: 'valid', dilations: [dilationHeight, dilationWidth] };
    let sum: TensorInfo | undefined;
    // Each channel went out `multiplier` times, and gets back the sum.
    for (let copy = 0; copy < multiplier; copy++) {
      const size = [filterHeight, filterWidth, inChannels, 1];
      const part = run('Slice', { x: turned }, { begin: [0, 0, 0, copy], size });
      const apart = setApart(heap, dy, batchSize, pictureAxes(conv), inChannels, { copy, multiplier });
      const x = { ...apart, shape: dropDepth(apart.shape) };
      const dx = run('DepthwiseConv2dNative', { x, filter: part }, attributes);
      heap.disposeData(apart.dataId);
      sum = sum === undefined ? dx : run('Add', { a: sum, b: dx }, {});
    }
    return sum ?? zerosOnHeap(heap, inputShape);
  });
  registerWasmKernel<VolumeGradientAttributes>(tf, 'Conv3DBackpropInputV2', ({ inputs, attrs, heap, run }) => {
    const { dy, filter } = inputs as { dy: TensorInfo; filter: TensorInfo };
    const shape = filter.shape as [number, number, number, number, number];
    const conv = tf.backend_util.computeConv3DInfo(attrs.inputShape, shape, attrs.strides, 1, attrs.pad);
    const turned = run('Reverse', { x: filter }, { dims: [0, 1, 2] });
    const swapped = run('Transpose', { x: turned }, { perm: [0, 1, 2, 4, 3] });
    const { padInfo } = conv;
    const axes: Axis[] = [
      axis(conv.inDepth, conv.outDepth, conv.strideDepth, conv.effectiveFilterDepth, padInfo.front),
      axis(conv.inHeight, conv.outHeight, conv.strideHeight, conv.effectiveFilterHeight, padInfo.top),
      axis(conv.inWidth, conv.outWidth, conv.strideWidth, conv.effectiveFilterWidth, padInfo.left),
    ];
    const x = setApart(heap, dy, conv.batchSize, axes, conv.outChannels);
    const dx = run('Conv3D', { x, filter: swapped }, { strides: 1, pad: 'valid', dataFormat: 'NDHWC', dilations: 1 });
    heap.disposeData(x.dataId);
    return dx;
  });
}

function axis(inSize: number, outSize: number, stride: number, effectiveFilter: number, padBefore: number): Axis {
  return { inSize, outSize, stride, reach: effectiveFilter - 1, padBefore };
}

/** A picture is a volume of depth 1. */
function pictureAxes(conv: Tfjs.backend_util.Conv2DInfo): Axis[] {
  return [
    axis(1, 1, 1, 1, 0),
    axis(conv.inHeight, conv.outHeight, conv.strideHeight, conv.effectiveFilterHeight, conv.padInfo.top),
    axis(conv.inWidth, conv.outWidth, conv.strideWidth, conv.effectiveFilterWidth, conv.padInfo.left),
  ];
}

function dropDepth([batch = 0, , height = 0, width = 0, channels = 0]: readonly number[]): number[] {
  return [batch, height, width, channels];
}

/**
 * The gradient of the output where a filter turned around meets it, zeros between and about it:
 * batch x (inSize + reach) of every axis x channels. `multiplied` takes every multiplier-th channel, from `copy` on.
 */
function setApart(
  heap: WasmHeap,
  dy: TensorInfo,
  batchSize: number,
  axes: readonly Axis[],
  channels: number,
  { copy, multiplier } = { copy: 0, multiplier: 1 },
): TensorInfo {
  const [depth, height, width] = axes as [Axis, Axis, Axis];
  const sizes = axes.map(({ inSize, reach }) => inSize + reach) as [number, number, number];
  const apart = zerosOnHeap(heap, [batchSize, ...sizes, channels]);
  const from = heap.typedArrayFromHeap(dy);
  const to = heap.typedArrayFromHeap(apart);
  let read = copy;
  for (let item = 0; item < batchSize; item++) {
    for (let plane = 0; plane < depth.outSize; plane++) {
      const z = placeOf(plane, depth);
      for (let row = 0; row < height.outSize; row++) {
        const y = placeOf(row, height);
        const line = ((item * sizes[0] + z) * sizes[1] + y) * sizes[2];
        // What a filter saw of padding alone has no place in the input.
        const inside = z >= 0 && z < sizes[0] && y >= 0 && y < sizes[1];
        for (let column = 0; column < width.outSize; column++) {
          const x = placeOf(column, width);
          if (inside && x >= 0 && x < sizes[2]) {
            const write = (line + x) * channels;
            for (let channel = 0; channel < channels; channel++) {
              to[write + channel] = from[read + channel * multiplier] ?? 0;
            }
          }
          read += channels * multiplier;
        }
      }
    }
  }
  return apart;
}

function placeOf(spot: number, { stride, reach, padBefore }: Axis): number {
  return spot * stride + reach - padBefore;
}
