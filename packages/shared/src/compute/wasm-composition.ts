import type * as Tfjs from '@tensorflow/tfjs-core';
import type { DataType, KernelFunc, NamedTensorInfoMap, TensorInfo } from '@tensorflow/tfjs-core';

/** What kernels of the bridge use of the wasm backend. */
export interface WasmHeap {
  makeOutput(shape: number[], dtype: DataType): TensorInfo;
  /** A view, good until the next allocation: the heap moves when it grows. */
  typedArrayFromHeap(tensor: TensorInfo): Float32Array | Int32Array | Uint8Array;
  disposeData(dataId: object): boolean;
}

export type RunKernel = (name: string, inputs: object, attrs: object) => TensorInfo;

export interface WasmKernelCall<Attributes> {
  readonly inputs: Readonly<Record<string, TensorInfo>>;
  readonly attrs: Attributes;
  readonly heap: WasmHeap;
  /** Runs another kernel of the wasm backend. What it gives is freed afterwards, unless it is the result. */
  readonly run: RunKernel;
  /** The kernel that was registered before, on the same inputs, and by default the same attributes. */
  readonly before: (attrs?: Attributes) => TensorInfo;
}

/** Puts a kernel into the wasm backend, in the place of the one that is there. */
export function registerWasmKernel<Attributes>(
  tf: typeof Tfjs,
  kernelName: string,
  compute: (call: WasmKernelCall<Attributes>) => TensorInfo,
): void {
  const earlier = tf.getKernel(kernelName, 'wasm');
  const kernelFunc: KernelFunc = (call) => {
    const heap = call.backend as WasmHeap;
    const scratch: TensorInfo[] = [];
    const run: RunKernel = (name, inputs, attrs) => {
      const output = tf.getKernel(name, 'wasm').kernelFunc({
        inputs: inputs as NamedTensorInfoMap,
        backend: call.backend,
        attrs: attrs as Tfjs.NamedAttrMap,
      }) as TensorInfo;
      scratch.push(output);
      return output;
    };
    const result = compute({
      inputs: call.inputs as Record<string, TensorInfo>,
      attrs: call.attrs as unknown as Attributes,
      heap,
      run,
      before: (attrs) =>
        earlier.kernelFunc({ ...call, attrs: (attrs ?? call.attrs) as Tfjs.NamedAttrMap }) as TensorInfo,
    });
    for (const { dataId } of scratch) if (dataId !== result.dataId) heap.disposeData(dataId);
    return result;
  };
  tf.unregisterKernel(kernelName, 'wasm');
  tf.registerKernel({ ...earlier, kernelFunc });
}

/** A new tensor of zeros on the wasm heap, whose memory otherwise holds what was there before. */
export function zerosOnHeap(heap: WasmHeap, shape: number[], dtype: DataType = 'float32'): TensorInfo {
  const tensor = heap.makeOutput(shape, dtype);
  if (shape.every((size) => size > 0)) heap.typedArrayFromHeap(tensor).fill(0);
  return tensor;
}
