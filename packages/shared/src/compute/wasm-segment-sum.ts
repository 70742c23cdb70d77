import type * as Tfjs from '@tensorflow/tfjs-core';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { registerWasmKernel, zerosOnHeap } from './wasm-composition.js';

/**
 * Gives the wasm backend sums of rows by segment, which the gradient of an embedding is, on the wasm heap itself. The
 * JavaScript backend looks at all rows once for every segment, this once in all. Rows of no segment are left out.
 */
export function registerSegmentSum(tf: typeof Tfjs): void {
  registerWasmKernel<{ readonly numSegments: number }>(tf, 'UnsortedSegmentSum', (call) => {
    const { x, segmentIds } = call.inputs as { x: TensorInfo; segmentIds: TensorInfo };
    const { numSegments } = call.attrs;
    if (segmentIds.shape.length !== 1 || x.dtype === 'bool') return call.before();
    const rowShape = x.shape.slice(1);
    const width = rowShape.reduce((product, size) => product * size, 1);
    const sums = zerosOnHeap(call.heap, [numSegments, ...rowShape], x.dtype);
    const from = call.heap.typedArrayFromHeap(x);
    const to = call.heap.typedArrayFromHeap(sums);
    const segments = call.heap.typedArrayFromHeap(segmentIds);
    for (const [row, segment] of segments.entries()) {
      if (segment < 0 || segment >= numSegments) continue;
      const start = segment * width;
      for (let column = 0; column < width; column++) {
        to[start + column] = (to[start + column] ?? 0) + (from[row * width + column] ?? 0);
      }
    }
    return sums;
  });
}
