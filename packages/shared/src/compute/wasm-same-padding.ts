import type * as Tfjs from '@tensorflow/tfjs-core';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { registerWasmKernel } from './wasm-composition.js';

interface ConvolutionAttributes {
  readonly strides: [number, number] | number;
  readonly pad: 'valid' | 'same' | number | Tfjs.backend_util.ExplicitPadding;
  readonly dataFormat?: 'NHWC' | 'NCHW';
  readonly dilations?: [number, number] | number;
  readonly dimRoundingMode?: 'floor' | 'round' | 'ceil';
}

/**
 * Tells the wasm backend's convolutions how much padding "same" is. Its library works that out by itself, and wrongly where
 * a stride is wider than the filter: it then reads beyond the picture (https://github.com/tensorflow/tfjs/issues/6629).
 */
export function registerSamePadding(tf: typeof Tfjs): void {
  for (const name of ['Conv2D', 'FusedConv2D', 'DepthwiseConv2dNative', 'FusedDepthwiseConv2D']) {
    registerWasmKernel<ConvolutionAttributes>(tf, name, ({ inputs, attrs, before }) => {
      const { strides, pad, dilations, dimRoundingMode, dataFormat } = attrs;
      if (pad !== 'same' || dataFormat === 'NCHW') return before();
      const { x, filter } = inputs as { x: TensorInfo; filter: TensorInfo };
      const { padInfo, ...conv } = tf.backend_util.computeConv2DInfo(
        x.shape as [number, number, number, number],
        filter.shape as [number, number, number, number],
        strides,
        dilations ?? 1,
        pad,
        dimRoundingMode,
        name.includes('Depthwise'),
      );
      if (conv.strideHeight <= conv.effectiveFilterHeight && conv.strideWidth <= conv.effectiveFilterWidth) {
        return before();
      }
      const explicit: Tfjs.backend_util.ExplicitPadding = [
        [0, 0],
        [padInfo.top, padInfo.bottom],
        [padInfo.left, padInfo.right],
        [0, 0],
      ];
      return before({ ...attrs, pad: explicit });
    });
  }
}
