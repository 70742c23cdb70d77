import type * as Tfjs from '@tensorflow/tfjs-core';
import type { KernelFunc, TensorInfo } from '@tensorflow/tfjs-core';

/**
 * Replaces the wasm matrix product by one that transposes first: the stock kernel uses its fast library (XNNPACK) only when
 * neither operand is transposed. Wide dense layers train 2.5 times faster, small ones no slower.
 */
export function registerTransposingMatMul(tf: typeof Tfjs): void {
  const product = tf.getKernel('BatchMatMul', 'wasm');
  const transpose = tf.getKernel('Transpose', 'wasm').kernelFunc;
  const kernelFunc: KernelFunc = ({ inputs, backend, attrs }) => {
    const { a, b } = inputs as { a: TensorInfo; b: TensorInfo };
    const { transposeA, transposeB } = attrs as unknown as { transposeA: boolean; transposeB: boolean };
    const transposed = (tensor: TensorInfo): TensorInfo => {
      const attributes = { perm: swapLastAxes(tensor.shape.length) };
      return transpose({ inputs: { x: tensor }, backend, attrs: attributes }) as TensorInfo;
    };
    const left = transposeA ? transposed(a) : a;
    const right = transposeB ? transposed(b) : b;
    const result = product.kernelFunc({
      inputs: { a: left, b: right },
      backend,
      attrs: { transposeA: false, transposeB: false },
    });
    const store = backend as { disposeData(dataId: object): void };
    if (left !== a) store.disposeData(left.dataId);
    if (right !== b) store.disposeData(right.dataId);
    return result;
  };
  tf.unregisterKernel('BatchMatMul', 'wasm');
  tf.registerKernel({ ...product, kernelFunc });
}

function swapLastAxes(rank: number): number[] {
  return Array.from({ length: rank }, (_, axis) =>
    axis === rank - 1 ? rank - 2 : axis === rank - 2 ? rank - 1 : axis,
  );
}
