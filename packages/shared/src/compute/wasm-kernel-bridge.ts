import type * as Tfjs from '@tensorflow/tfjs-core';
import type { DataType, KernelConfig, NamedTensorInfoMap, TensorInfo } from '@tensorflow/tfjs-core';
import { registerConvolutionFilterGradient } from './wasm-convolution-gradient.js';
import { registerDepthwiseFilterGradient } from './wasm-depthwise-gradient.js';
import { registerConvolutionInputGradients } from './wasm-input-gradient.js';
import { registerMaxPooling } from './wasm-max-pooling.js';
import { registerSamePadding } from './wasm-same-padding.js';
import { registerSegmentSum } from './wasm-segment-sum.js';
import { registerTransposingMatMul } from './wasm-transposing-matmul.js';
import { registerVolumeFilterGradient } from './wasm-volume-gradient.js';

/** What the bridge uses of both backends: tensors go over as plain typed arrays. */
interface TensorStore {
  readSync(dataId: object): Tfjs.BackendValues;
  write(values: Tfjs.BackendValues, shape: number[], dtype: DataType): object;
  disposeData(dataId: object, force?: boolean): boolean;
}

/** Complex numbers, strings and pictures do not live on the wasm heap, and no layer trains on them. */
const NOT_BRIDGED = ['Complex', 'ComplexAbs', 'Real', 'Imag', 'FFT', 'IFFT', 'Draw', 'StaticRegexReplace'];

/** Kernels that wasm lacks, or that compute something else there, with ones of our own on the wasm heap. */
export const BRIDGED_KERNELS: readonly string[] = [
  'Conv2DBackpropFilter',
  'Conv2DBackpropInput',
  'Conv3DBackpropFilterV2',
  'Conv3DBackpropInputV2',
  'DepthwiseConv2dNativeBackpropFilter',
  'DepthwiseConv2dNativeBackpropInput',
  'MaxPool3D',
  'MaxPool3DGrad',
  'MaxPoolGrad',
  'UnsortedSegmentSum',
];

const bridged = new WeakMap<object, readonly string[]>();

/**
 * Makes tfjs-backend-wasm able to train. It lacks the gradients of convolutions, depthwise convolutions and embeddings;
 * those of maximum pooling and of convolutions of volumes are there, but wrong; and its matrix product is slow when an
 * operand is transposed, which the gradient of every dense layer needs. All of these get kernels of their own.
 *
 * Whatever other kernel it lacks runs on the JavaScript backend, on copies: correct, but slow. Safe to repeat.
 *
 * @returns names of the kernels that run on the JavaScript backend
 */
export async function installWasmKernelBridge(tf: typeof Tfjs): Promise<readonly string[]> {
  const engine = tf.engine();
  const earlier = bridged.get(engine);
  if (earlier !== undefined) return earlier;
  await import('@tensorflow/tfjs-backend-cpu');
  const cpu = tf.findBackend('cpu') as unknown as TensorStore & { firstUse?: boolean };
  // It would otherwise advise on the console, on its first use, to install tfjs-node.
  cpu.firstUse = false;
  const present = new Set(tf.getKernelsForBackend('wasm').map((kernel) => kernel.kernelName));
  const missing = tf
    .getKernelsForBackend('cpu')
    .filter(({ kernelName }) => !present.has(kernelName) && !NOT_BRIDGED.includes(kernelName));
  for (const kernel of missing) tf.registerKernel(onCpu(kernel, cpu));
  registerTransposingMatMul(tf);
  registerSamePadding(tf);
  registerConvolutionFilterGradient(tf);
  registerConvolutionInputGradients(tf);
  registerDepthwiseFilterGradient(tf);
  registerVolumeFilterGradient(tf);
  registerMaxPooling(tf);
  registerSegmentSum(tf);
  const names = missing.map(({ kernelName }) => kernelName).filter((name) => !BRIDGED_KERNELS.includes(name));
  bridged.set(engine, names);
  return names;
}

function onCpu(kernel: KernelConfig, cpu: TensorStore): KernelConfig {
  return {
    kernelName: kernel.kernelName,
    backendName: 'wasm',
    kernelFunc: ({ inputs, backend, attrs }) => {
      const wasm = backend as TensorStore;
      const copies: TensorInfo[] = [];
      const toCpu = (tensor: TensorInfo): TensorInfo => {
        const { shape, dtype } = tensor;
        const copy = { dataId: cpu.write(wasm.readSync(tensor.dataId), shape, dtype), shape, dtype };
        copies.push(copy);
        return copy;
      };
      const fromCpu = ({ dataId, shape, dtype }: TensorInfo): TensorInfo => {
        const moved = { dataId: wasm.write(cpu.readSync(dataId), shape, dtype), shape, dtype };
        cpu.disposeData(dataId, true);
        return moved;
      };
      const cpuInputs: Record<string, TensorInfo | TensorInfo[] | undefined> = {};
      for (const [name, value] of Object.entries(inputs as Record<string, TensorInfo | TensorInfo[] | undefined>)) {
        cpuInputs[name] = Array.isArray(value) ? value.map(toCpu) : value && toCpu(value);
      }
      const output = kernel.kernelFunc({
        inputs: cpuInputs as NamedTensorInfoMap,
        backend: cpu,
        ...(attrs === undefined ? {} : { attrs }),
      });
      const moved = Array.isArray(output) ? output.map(fromCpu) : fromCpu(output);
      for (const { dataId } of copies) cpu.disposeData(dataId, true);
      return moved;
    },
  };
}
