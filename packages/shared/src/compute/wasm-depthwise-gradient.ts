import type * as Tfjs from '@tensorflow/tfjs-core';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { registerWasmKernel } from './wasm-composition.js';
import { everySpot, padded } from './wasm-convolution-gradient.js';

interface DepthwiseGradientAttributes {
  readonly strides: [number, number] | number;
  readonly dilations: [number, number] | number;
  readonly pad: 'valid' | 'same' | number | Tfjs.backend_util.ExplicitPadding;
  readonly dimRoundingMode?: 'floor' | 'round' | 'ceil';
  readonly filterShape: [number, number, number, number];
}

/**
 * Gives the wasm backend the gradient of a depthwise convolution by its filter: for each cell of the filter, the input that
 * it meets times the gradient of the output, summed over all spots by a product with a row of ones.
 */
export function registerDepthwiseFilterGradient(tf: typeof Tfjs): void {
  registerWasmKernel<DepthwiseGradientAttributes>(
    tf,
    'DepthwiseConv2dNativeBackpropFilter',
    ({ inputs, attrs, heap, run }) => {
      const { x, dy } = inputs as { x: TensorInfo; dy: TensorInfo };
      const { strides, dilations, pad, dimRoundingMode, filterShape } = attrs;
      const shape = x.shape as [number, number, number, number];
      const conv = tf.backend_util.computeConv2DInfo(
        shape,
        filterShape,
        strides,
        dilations,
        pad,
        dimRoundingMode,
        true,
      );
      const { batchSize, outHeight, outWidth, inChannels, outChannels, filterHeight, filterWidth } = conv;
      const spots = batchSize * outHeight * outWidth;
      const ones = heap.makeOutput([1, 1, spots], 'float32');
      heap.typedArrayFromHeap(ones).fill(1);
      const source = padded(run, x, conv);
      const gradient = { ...dy, shape: [spots, inChannels, outChannels / inChannels] };
      const cells: TensorInfo[] = [];
      for (let row = 0; row < filterHeight; row++) {
        for (let column = 0; column < filterWidth; column++) {
          const seen = everySpot(run, source, row * conv.dilationHeight, column * conv.dilationWidth, conv);
          const products = run('Multiply', { a: { ...seen, shape: [spots, inChannels, 1] }, b: gradient }, {});
          const sums = run(
            'BatchMatMul',
            { a: ones, b: { ...products, shape: [1, spots, outChannels] } },
            { transposeA: false, transposeB: false },
          );
          cells.push({ ...sums, shape: [1, outChannels] });
        }
      }
      heap.disposeData(ones.dataId);
      const [first] = cells;
      const all = cells.length > 1 || first === undefined ? run('Concat', cells, { axis: 0 }) : first;
      return { dataId: all.dataId, shape: filterShape, dtype: 'float32' };
    },
  );
}
