import type * as Tfjs from '@tensorflow/tfjs-core';

/**
 * Adds the five tensor methods that tfjs-layers calls itself (its Orthogonal initializer, the default of recurrent
 * kernels). The Node bundle of tfjs-core registers no chained operations at all, and importing all of them costs a
 * second copy of the library.
 */
export function addChainedOperations(tf: typeof Tfjs): void {
  const prototype = tf.Tensor.prototype as unknown as Record<string, unknown>;
  const operations: Record<string, (this: Tfjs.Tensor, ...args: never[]) => Tfjs.Tensor> = {
    reshape(shape: number[]) {
      return tf.reshape(this, shape);
    },
    flatten() {
      return tf.reshape(this, [this.size]);
    },
    sign() {
      return tf.sign(this);
    },
    transpose(permutation?: number[]) {
      return tf.transpose(this, permutation);
    },
    stridedSlice(begin: number[], end: number[], strides?: number[]) {
      return tf.stridedSlice(this, begin, end, strides);
    },
  };
  for (const [name, operation] of Object.entries(operations)) prototype[name] ??= operation;
}
