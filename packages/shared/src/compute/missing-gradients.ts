import type * as Tfjs from '@tensorflow/tfjs-core';

const OF_TWO = ['Equal', 'NotEqual', 'Greater', 'Less', 'LessEqual', 'LogicalAnd', 'LogicalOr'];
const OF_ONE = ['Any', 'All', 'LogicalNot'];

/**
 * Adds the gradients without which tfjs refuses to train through some of its own layers, on every backend: those of
 * comparisons, which are zero (thresholdedReLU, masking), and that of a transposed convolution of volumes. Safe to repeat.
 */
export function addMissingGradients(tf: typeof Tfjs): void {
  const add = (gradient: Tfjs.GradConfig): void => {
    if (tf.getGradient(gradient.kernelName) === undefined) tf.registerGradient(gradient);
  };
  for (const kernelName of OF_TWO) {
    add({
      kernelName,
      inputsToSave: ['a', 'b'],
      gradFunc: (_dy, saved) => {
        const [a, b] = saved as [Tfjs.Tensor, Tfjs.Tensor];
        return { a: () => tf.zeros(a.shape), b: () => tf.zeros(b.shape) };
      },
    });
  }
  for (const kernelName of OF_ONE) {
    add({
      kernelName,
      inputsToSave: ['x'],
      gradFunc: (_dy, saved) => ({ x: () => tf.zeros((saved as [Tfjs.Tensor])[0].shape) }),
    });
  }
  add({
    kernelName: 'Conv3DBackpropInputV2',
    inputsToSave: ['dy', 'filter'],
    gradFunc: (ddx, saved, attrs) => {
      const [dy, filter] = saved as [Tfjs.Tensor5D, Tfjs.Tensor5D];
      const { strides, pad } = attrs as unknown as { strides: [number, number, number]; pad: 'valid' | 'same' };
      const x = ddx as Tfjs.Tensor5D;
      const filterShape = filter.shape;
      return {
        dy: () => tf.conv3d(x, filter, strides, pad),
        filter: () =>
          tf
            .engine()
            .runKernel('Conv3DBackpropFilterV2', { x, dy }, { strides, pad, filterShape }) as unknown as Tfjs.Tensor,
      };
    },
  });
}
