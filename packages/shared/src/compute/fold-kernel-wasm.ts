import { OctomilError } from '@octomil/shared/errors';
import type { FoldKernel } from './fold-kernel.js';
import { foldLanes } from './fold-kernel-js.js';
import { KernelMemory } from './kernel-memory.js';
import { FOLD_MODULE_BASE64 } from './wasm/fold-module.js';
import { Instance, Memory, Module } from './wasm/web-assembly.js';

/** Addresses and counts are unsigned 32-bit numbers; what comes back is 1 when something was not finite. */
interface FoldExports {
  accumulate1(sum: number, x: number, count: number, weight: number): number;
  accumulate2(sum: number, x1: number, x2: number, count: number, weight1: number, weight2: number): number;
  accumulate4(sum: number, ...xsCountWeights: number[]): number;
  measure(x: number, count: number, state: number): void;
  divide(sum: number, count: number, by: number): void;
  subtract(sum: number, base: number, count: number): void;
  addRounded(base: number, sum: number, out: number, count: number): number;
}

const PAGE_BYTES = 65_536;
/** 4 f64 sums, 4 f32 magnitudes, 4 words of non-finiteness. */
const MEASURE_STATE_BYTES = 64;

let compiled: object | undefined;

/**
 * The kernels in WebAssembly SIMD, over a memory of their own.
 *
 * @throws `WebAssembly.CompileError` where there is no SIMD; `insufficient_memory`
 */
export function createWasmFoldKernel(memoryBytes: number): FoldKernel {
  compiled ??= new Module(Buffer.from(FOLD_MODULE_BASE64, 'base64'));
  const pages = Math.ceil((memoryBytes + MEASURE_STATE_BYTES) / PAGE_BYTES);
  const memory = allocate(pages);
  const { exports } = new Instance(compiled, { octomil: { memory } });
  const kernels = exports as unknown as FoldExports;
  const { buffer } = memory;
  const vectors = new KernelMemory(buffer, MEASURE_STATE_BYTES);
  const sums = new Float64Array(buffer, 0, 4);
  const greatest = new Float32Array(buffer, 32, 4);
  const bad = new Uint32Array(buffer, 48, 4);

  const addressOf = (vector: Float32Array | Float64Array, length: number): number => {
    if (vector.buffer !== buffer || vector.length !== length) {
      throw new OctomilError(
        'invalid_input',
        `a vector of ${vector.length} values is not one of ${length} from this kernel's memory`,
      );
    }
    return vector.byteOffset;
  };

  return {
    name: 'wasm',
    float32: (length) => vectors.float32(length),
    float64: (length) => vectors.float64(length),
    accumulate: (sum, inputs, weights) => {
      const count = sum.length;
      const target = addressOf(sum, count);
      let spoiled = 0;
      for (let first = 0; first < inputs.length; ) {
        const left = inputs.length - first;
        const width = left >= 4 ? 4 : left >= 2 ? 2 : 1;
        const xs = inputs.slice(first, first + width).map((input) => addressOf(input, count));
        const [w1 = 0, w2 = 0, w3 = 0, w4 = 0] = weights.slice(first, first + width);
        const [x1 = 0, x2 = 0, x3 = 0, x4 = 0] = xs;
        if (width === 4) spoiled |= kernels.accumulate4(target, x1, x2, x3, x4, count, w1, w2, w3, w4);
        else if (width === 2) spoiled |= kernels.accumulate2(target, x1, x2, count, w1, w2);
        else spoiled |= kernels.accumulate1(target, x1, count, w1);
        first += width;
      }
      return spoiled === 0;
    },
    divide: (sum, by) => kernels.divide(addressOf(sum, sum.length), sum.length, by),
    subtract: (sum, base) => {
      kernels.subtract(addressOf(sum, sum.length), addressOf(base, sum.length), sum.length);
    },
    addRounded: (base, sum, out) => {
      const count = sum.length;
      return kernels.addRounded(addressOf(base, count), addressOf(sum, count), addressOf(out, count), count) === 0;
    },
    resetMeasure: () => {
      sums.fill(0);
      greatest.fill(0);
      bad.fill(0);
    },
    measure: (piece) => kernels.measure(addressOf(piece, piece.length), piece.length, 0),
    measured: () => ({
      sumOfSquares: foldLanes(sums),
      maxAbs: Math.max(...greatest),
      finite: bad.every((word) => word === 0),
    }),
  };
}

function allocate(pages: number): InstanceType<typeof Memory> {
  try {
    return new Memory({ initial: pages, maximum: pages });
  } catch (cause) {
    throw new OctomilError(
      'insufficient_memory',
      `the aggregation kernel could not get ${pages * PAGE_BYTES} bytes; the limit of one kernel is 4 GiB`,
      { cause },
    );
  }
}
