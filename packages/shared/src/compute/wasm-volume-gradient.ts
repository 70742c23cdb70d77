import type * as Tfjs from '@tensorflow/tfjs-core';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { registerWasmKernel, type WasmHeap } from './wasm-composition.js';

interface VolumeFilterGradientAttributes {
  readonly strides: [number, number, number] | number;
  readonly pad: 'valid' | 'same';
  readonly filterShape: [number, number, number, number, number];
}

/**
 * Replaces the wasm backend's gradient of a convolution of volumes by its filter, which is wrong for strides above 1. For
 * each cell of the filter, the input that it meets is one matrix, whose product with the gradient of the output is the
 * cell's gradient. All cells at once, as for pictures, would take the memory of the input times the size of the filter.
 */
export function registerVolumeFilterGradient(tf: typeof Tfjs): void {
  registerWasmKernel<VolumeFilterGradientAttributes>(tf, 'Conv3DBackpropFilterV2', ({ inputs, attrs, heap, run }) => {
    const { x, dy } = inputs as { x: TensorInfo; dy: TensorInfo };
    const { strides, pad, filterShape } = attrs;
    const shape = x.shape as [number, number, number, number, number];
    const conv = tf.backend_util.computeConv3DInfo(shape, filterShape, strides, 1, pad);
    const { batchSize, inChannels, outChannels, outDepth, outHeight, outWidth } = conv;
    const spots = batchSize * outDepth * outHeight * outWidth;
    const seen = heap.makeOutput([1, inChannels, spots], 'float32');
    const cells: TensorInfo[] = [];
    for (let z = 0; z < conv.filterDepth; z++) {
      for (let y = 0; y < conv.filterHeight; y++) {
        for (let column = 0; column < conv.filterWidth; column++) {
          gatherSeen(heap, x, seen, [z, y, column], conv);
          const product = run(
            'BatchMatMul',
            { a: seen, b: { ...dy, shape: [1, spots, outChannels] } },
            { transposeA: false, transposeB: false },
          );
          cells.push({ ...product, shape: [inChannels, outChannels] });
        }
      }
    }
    heap.disposeData(seen.dataId);
    const [first] = cells;
    const all = cells.length > 1 || first === undefined ? run('Concat', cells, { axis: 0 }) : first;
    return { dataId: all.dataId, shape: filterShape, dtype: 'float32' };
  });
}

/** Writes the value that a filter cell meets at every output spot, 0 in the padding: channels x spots. */
function gatherSeen(
  heap: WasmHeap,
  x: TensorInfo,
  seen: TensorInfo,
  [cellZ, cellY, cellX]: readonly [number, number, number],
  conv: Tfjs.backend_util.Conv3DInfo,
): void {
  const from = heap.typedArrayFromHeap(x);
  const to = heap.typedArrayFromHeap(seen);
  const { inDepth, inHeight, inWidth, inChannels, outDepth, outHeight, outWidth, padInfo } = conv;
  const spots = conv.batchSize * outDepth * outHeight * outWidth;
  let spot = 0;
  for (let item = 0; item < conv.batchSize; item++) {
    for (let plane = 0; plane < outDepth; plane++) {
      const z = plane * conv.strideDepth + cellZ - padInfo.front;
      for (let row = 0; row < outHeight; row++) {
        const y = row * conv.strideHeight + cellY - padInfo.top;
        const inside = z >= 0 && z < inDepth && y >= 0 && y < inHeight;
        const line = ((item * inDepth + z) * inHeight + y) * inWidth;
        for (let column = 0; column < outWidth; column++, spot++) {
          const place = column * conv.strideWidth + cellX - padInfo.left;
          const met = inside && place >= 0 && place < inWidth;
          const read = (line + place) * inChannels;
          for (let channel = 0; channel < inChannels; channel++) {
            to[channel * spots + spot] = met ? (from[read + channel] ?? 0) : 0;
          }
        }
      }
    }
  }
}
