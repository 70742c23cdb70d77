import { createJsFoldKernel } from './fold-kernel-js.js';
import { createWasmFoldKernel } from './fold-kernel-wasm.js';
import { CompileError } from './wasm/web-assembly.js';

/** Running figures of a vector that is measured piece by piece. */
export interface VectorMeasure {
  readonly sumOfSquares: number;
  /** Greatest absolute value. Meaningless when not finite. */
  readonly maxAbs: number;
  readonly finite: boolean;
}

/**
 * The arithmetic of a fold. Both implementations give the same bytes: every operation is a single IEEE 754 one, in the
 * same order, and nothing is fused.
 *
 * Vectors come from the kernel's own `float32` and `float64`, which hand out parts of the memory it was created with.
 * Files are read straight into them.
 */
export interface FoldKernel {
  readonly name: 'wasm' | 'js';
  /** A zeroed vector from the kernel's memory. @throws `insufficient_memory` when that is used up */
  float32(length: number): Float32Array<ArrayBuffer>;
  /** As {@link float32}. */
  float64(length: number): Float64Array<ArrayBuffer>;
  /**
   * `sum[i] += weights[k] * inputs[k][i]`, input after input. Several inputs a call are faster and give the same bytes.
   *
   * @returns whether every input value was finite
   */
  accumulate(sum: Float64Array, inputs: readonly Float32Array[], weights: readonly number[]): boolean;
  /** `sum[i] /= by` */
  divide(sum: Float64Array, by: number): void;
  /** `sum[i] -= base[i]` */
  subtract(sum: Float64Array, base: Float32Array): void;
  /** `out[i] = float32(base[i] + sum[i])`. @returns whether every result was finite */
  addRounded(base: Float32Array, sum: Float64Array, out: Float32Array): boolean;
  /** Forgets what was measured. */
  resetMeasure(): void;
  /** Adds a piece. Every piece but the last has a length divisible by 4, or results depend on how a vector was cut. */
  measure(piece: Float32Array): void;
  measured(): VectorMeasure;
}

export interface FoldKernelOptions {
  /** Bytes for all vectors together; each takes up to 15 more for alignment. */
  readonly memoryBytes: number;
  /** Default: `wasm`, or `js` where WebAssembly has no SIMD. */
  readonly implementation?: 'wasm' | 'js';
}

/** Bytes that vectors of these sizes need in a kernel's memory. */
export function kernelMemoryBytes(vectorBytes: readonly number[]): number {
  return vectorBytes.reduce((sum, bytes) => sum + Math.ceil(bytes / 16) * 16, 0);
}

/**
 * @throws `insufficient_memory` when the memory cannot be had; `runtime_unavailable` when wasm was asked for by name and
 * cannot run
 */
export function createFoldKernel(options: FoldKernelOptions): FoldKernel {
  if (options.implementation === 'js') return createJsFoldKernel(options.memoryBytes);
  try {
    return createWasmFoldKernel(options.memoryBytes);
  } catch (error) {
    if (options.implementation === 'wasm' || !(error instanceof CompileError)) throw error;
    return createJsFoldKernel(options.memoryBytes);
  }
}

/** Index of the first value that is NaN or infinite, -1 when there is none. */
export function firstNonFinite(values: Float32Array): number {
  return values.findIndex((value) => !Number.isFinite(value));
}
