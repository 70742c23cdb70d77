import type * as Tfjs from '@tensorflow/tfjs-core';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { registerWasmKernel, zerosOnHeap } from './wasm-composition.js';

interface PoolingAttributes {
  readonly filterSize: [number, number, number] | number;
  readonly strides: [number, number, number] | number;
  readonly pad: 'valid' | 'same' | number;
  readonly dimRoundingMode?: 'floor' | 'round' | 'ceil';
  readonly dataFormat?: 'NDHWC' | 'NCDHW';
}

/** A pooling of volumes; a picture is a volume of depth 1. Sizes are depth, height, width. */
interface Pooling {
  readonly batchSize: number;
  readonly channels: number;
  readonly inSizes: readonly [number, number, number];
  readonly outSizes: readonly [number, number, number];
  readonly windowSizes: readonly [number, number, number];
  readonly strides: readonly [number, number, number];
  readonly padBefore: readonly [number, number, number];
}

/**
 * Replaces the wasm backend's gradients of maximum pooling, and its maximum pooling of volumes. tfjs's own start the
 * search for the maximum at the least positive number, so that a window without a positive value gives 0 for its maximum,
 * and its gradient is lost. Anything but pooling straight after a ReLU trains wrongly with them.
 *
 * These walk the wasm heap itself. Of equal values the first is the maximum, as on the JavaScript backend.
 */
export function registerMaxPooling(tf: typeof Tfjs): void {
  registerWasmKernel<PoolingAttributes>(tf, 'MaxPoolGrad', ({ inputs, attrs, heap }) => {
    const { dy, input } = inputs as { dy: TensorInfo; input: TensorInfo };
    const { filterSize, strides, pad, dimRoundingMode } = attrs as unknown as {
      readonly filterSize: [number, number] | number;
      readonly strides: [number, number] | number;
      readonly pad: 'valid' | 'same' | number;
      readonly dimRoundingMode?: 'floor' | 'round' | 'ceil';
    };
    const shape = input.shape as [number, number, number, number];
    const pool = tf.backend_util.computePool2DInfo(shape, filterSize, strides, 1, pad, dimRoundingMode);
    const pooling: Pooling = {
      batchSize: pool.batchSize,
      channels: pool.inChannels,
      inSizes: [1, pool.inHeight, pool.inWidth],
      outSizes: [1, pool.outHeight, pool.outWidth],
      windowSizes: [1, pool.filterHeight, pool.filterWidth],
      strides: [1, pool.strideHeight, pool.strideWidth],
      padBefore: [0, pool.padInfo.top, pool.padInfo.left],
    };
    const dx = zerosOnHeap(heap, input.shape);
    const view = (tensor: TensorInfo): Float32Array => heap.typedArrayFromHeap(tensor) as Float32Array;
    addToMaxima(pooling, view(input), view(dy), view(dx));
    return dx;
  });
  registerWasmKernel<PoolingAttributes>(tf, 'MaxPool3DGrad', ({ inputs, attrs, heap }) => {
    const { dy, input } = inputs as { dy: TensorInfo; input: TensorInfo };
    const dx = zerosOnHeap(heap, input.shape);
    const view = (tensor: TensorInfo): Float32Array => heap.typedArrayFromHeap(tensor) as Float32Array;
    addToMaxima(volumePooling(tf, input, attrs), view(input), view(dy), view(dx));
    return dx;
  });
  registerWasmKernel<PoolingAttributes>(tf, 'MaxPool3D', (call) => {
    const { x } = call.inputs as { x: TensorInfo };
    if (call.attrs.dataFormat === 'NCDHW') return call.before();
    const pooling = volumePooling(tf, x, call.attrs);
    const y = call.heap.makeOutput([pooling.batchSize, ...pooling.outSizes, pooling.channels], 'float32');
    const from = call.heap.typedArrayFromHeap(x) as Float32Array;
    const to = call.heap.typedArrayFromHeap(y) as Float32Array;
    eachMaximum(pooling, from, (output, maximum) => {
      to[output] = maximum < 0 ? Number.NEGATIVE_INFINITY : (from[maximum] ?? 0);
    });
    return y;
  });
}

function volumePooling(tf: typeof Tfjs, x: TensorInfo, attrs: PoolingAttributes): Pooling {
  const { filterSize, strides, pad, dimRoundingMode } = attrs;
  const shape = x.shape as [number, number, number, number, number];
  const pool = tf.backend_util.computePool3DInfo(shape, filterSize, strides, 1, pad, dimRoundingMode);
  return {
    batchSize: pool.batchSize,
    channels: pool.inChannels,
    inSizes: [pool.inDepth, pool.inHeight, pool.inWidth],
    outSizes: [pool.outDepth, pool.outHeight, pool.outWidth],
    windowSizes: [pool.filterDepth, pool.filterHeight, pool.filterWidth],
    strides: [pool.strideDepth, pool.strideHeight, pool.strideWidth],
    padBefore: [pool.padInfo.front, pool.padInfo.top, pool.padInfo.left],
  };
}

function addToMaxima(pooling: Pooling, x: Float32Array, dy: Float32Array, dx: Float32Array): void {
  eachMaximum(pooling, x, (output, maximum) => {
    if (maximum >= 0) dx[maximum] = (dx[maximum] ?? 0) + (dy[output] ?? 0);
  });
}

/** Calls back with each output's offset and that of its maximum in `x`; -1 where the window holds nothing above -Infinity. */
function eachMaximum(pooling: Pooling, x: Float32Array, found: (output: number, maximum: number) => void): void {
  const { batchSize, channels, inSizes, outSizes, windowSizes, strides, padBefore } = pooling;
  const greatest = new Float32Array(channels);
  const at = new Int32Array(channels);
  const bounds = (axis: 0 | 1 | 2, spot: number): [number, number] => {
    const start = spot * strides[axis] - padBefore[axis];
    return [Math.max(0, start), Math.min(inSizes[axis], start + windowSizes[axis])];
  };
  let output = 0;
  for (let item = 0; item < batchSize; item++) {
    for (let plane = 0; plane < outSizes[0]; plane++) {
      const [zStart, zEnd] = bounds(0, plane);
      for (let row = 0; row < outSizes[1]; row++) {
        const [yStart, yEnd] = bounds(1, row);
        for (let column = 0; column < outSizes[2]; column++) {
          const [xStart, xEnd] = bounds(2, column);
          greatest.fill(Number.NEGATIVE_INFINITY);
          at.fill(-1);
          for (let z = zStart; z < zEnd; z++) {
            for (let y = yStart; y < yEnd; y++) {
              let cell = (((item * inSizes[0] + z) * inSizes[1] + y) * inSizes[2] + xStart) * channels;
              for (let column = xStart; column < xEnd; column++) {
                for (let channel = 0; channel < channels; channel++, cell++) {
                  const value = x[cell] ?? 0;
                  // What is not a number stays, so that it is seen to have spread.
                  if (value > (greatest[channel] ?? 0) || Number.isNaN(value)) {
                    greatest[channel] = value;
                    at[channel] = cell;
                  }
                }
              }
            }
          }
          for (let channel = 0; channel < channels; channel++) found(output++, at[channel] ?? -1);
        }
      }
    }
  }
}
