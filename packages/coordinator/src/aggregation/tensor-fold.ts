import type { ComputeBackend, FoldKernel } from '@octomil/shared/compute';
import type { RangeFold } from './range-fold.js';
import { nonFiniteRejection } from './update-rejection.js';

/** Most updates in one product: with the default range, 16 MiB on the device. More updates are several products. */
const ROWS_PER_PRODUCT = 32;

/**
 * Folds as matrix products, `weights[1 x n] . updates[n x t]`, on a tfjs backend: the shape that a GPU is made for.
 * Products are float32; the weights are divided by their total first, so results agree with the kernel within 1e-6 of the
 * greatest value.
 */
export function tensorFold(
  backend: ComputeBackend,
  kernel: FoldKernel,
  weights: readonly number[],
  rangeParams: number,
): RangeFold {
  const { tf } = backend;
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const rows = Math.min(ROWS_PER_PRODUCT, weights.length);
  const matrix = new Float32Array(rows * rangeParams);
  return {
    name: `tfjs:${backend.name}`,
    fold: async (inputs, mean) => {
      mean.fill(0);
      for (let first = 0; first < weights.length; first += rows) {
        const group = weights.slice(first, first + rows);
        for (const row of group.keys()) {
          const { values, release } = await inputs.take(first + row);
          kernel.resetMeasure();
          kernel.measure(values);
          if (!kernel.measured().finite) {
            throw nonFiniteRejection(inputs.layout, values, inputs.start, { updateIndex: first + row });
          }
          matrix.set(values, row * mean.length);
          release();
        }
        const product = tf.tidy(() => {
          const shares = tf.tensor2d(
            group.map((weight) => weight / total),
            [1, group.length],
          );
          const updates = tf.tensor2d(matrix.subarray(0, group.length * mean.length), [group.length, mean.length]);
          return tf.matMul(shares, updates);
        });
        // Not dataSync: WebGPU cannot read back without waiting.
        const values = await product.data();
        product.dispose();
        for (let index = 0; index < mean.length; index++) mean[index] = (mean[index] ?? 0) + (values[index] ?? 0);
      }
    },
  };
}
