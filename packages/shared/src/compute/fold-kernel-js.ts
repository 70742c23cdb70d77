import type { FoldKernel } from './fold-kernel.js';
import { KernelMemory } from './kernel-memory.js';

/** The kernels in plain JavaScript: what the WebAssembly ones compute, and their stand-in where there is no SIMD. */
export function createJsFoldKernel(memoryBytes: number): FoldKernel {
  const memory = new KernelMemory(new ArrayBuffer(memoryBytes), 0);
  const sums = new Float64Array(4);
  const greatest = new Float32Array(4);
  let finite = true;
  return {
    name: 'js',
    float32: (length) => memory.float32(length),
    float64: (length) => memory.float64(length),
    accumulate: (sum, inputs, weights) => {
      let allFinite = true;
      for (const [index, input] of inputs.entries()) {
        // `&&=` would stop at the first bad input; the sums must match the other implementation's all the same.
        allFinite = accumulateOne(sum, input, weights[index] ?? 0) && allFinite;
      }
      return allFinite;
    },
    divide: (sum, by) => {
      for (let index = 0; index < sum.length; index++) sum[index] = at(sum, index) / by;
    },
    subtract: (sum, base) => {
      for (let index = 0; index < sum.length; index++) sum[index] = at(sum, index) - at(base, index);
    },
    addRounded: (base, sum, out) => {
      let spoiled = 0;
      for (let index = 0; index < sum.length; index++) {
        out[index] = at(base, index) + at(sum, index);
        spoiled += at(out, index) - at(out, index);
      }
      return spoiled === 0;
    },
    resetMeasure: () => {
      sums.fill(0);
      greatest.fill(0);
      finite = true;
    },
    measure: (piece) => {
      let spoiled = 0;
      for (let index = 0; index < piece.length; index++) {
        const value = at(piece, index);
        const lane = index & 3;
        spoiled += value - value;
        sums[lane] = at(sums, lane) + value * value;
        if (at(greatest, lane) < Math.abs(value)) greatest[lane] = Math.abs(value);
      }
      finite &&= spoiled === 0;
    },
    measured: () => ({ sumOfSquares: foldLanes(sums), maxAbs: Math.max(...greatest), finite }),
  };
}

/** The four lanes in the one order that both implementations use. */
export function foldLanes(lanes: Float64Array): number {
  return at(lanes, 0) + at(lanes, 1) + (at(lanes, 2) + at(lanes, 3));
}

function accumulateOne(sum: Float64Array, input: Float32Array, weight: number): boolean {
  // x - x is 0 for every finite number and NaN otherwise, and NaN stays.
  let spoiled = 0;
  for (let index = 0; index < input.length; index++) {
    const value = at(input, index);
    spoiled += value - value;
    sum[index] = at(sum, index) + weight * value;
  }
  return spoiled === 0;
}

function at(values: Float64Array | Float32Array, index: number): number {
  return values[index] ?? 0;
}
