import type { FoldKernel } from '@octomil/shared/compute';
import type { ParameterLayout } from '@octomil/shared/tensors';
import type { FilledBuffer } from './read-ahead.js';
import { nonFiniteRejection } from './update-rejection.js';

/** One range of every update, handed over in device order. */
export interface RangeInputs {
  readonly layout: ParameterLayout;
  /** Parameters before the range. */
  readonly start: number;
  take(updateIndex: number): Promise<FilledBuffer>;
}

/** Turns one range of all updates into its weighted mean. */
export interface RangeFold {
  /** For the record: see `AggregationResult.backend`. */
  readonly name: string;
  /** @throws `update_rejected` naming the update, the tensor and the element that is not finite */
  fold(inputs: RangeInputs, mean: Float64Array): Promise<void>;
}

/** Updates added in one pass over the accumulator. */
export const UPDATES_PER_PASS = 4;

/** Adds update after update into float64 sums, on the CPU. */
export function kernelFold(kernel: FoldKernel, weights: readonly number[]): RangeFold {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return {
    name: kernel.name,
    fold: async (inputs, mean) => {
      mean.fill(0);
      for (let first = 0; first < weights.length; first += UPDATES_PER_PASS) {
        const pass = weights.slice(first, first + UPDATES_PER_PASS);
        const filled: FilledBuffer[] = [];
        for (const offset of pass.keys()) filled.push(await inputs.take(first + offset));
        const values = filled.map((buffer) => buffer.values);
        if (!kernel.accumulate(mean, values, pass)) {
          const bad = values.findIndex((piece) => !piece.every(Number.isFinite));
          throw nonFiniteRejection(inputs.layout, values[bad] ?? new Float32Array(), inputs.start, {
            updateIndex: first + bad,
          });
        }
        for (const buffer of filled) buffer.release();
      }
      kernel.divide(mean, total);
    },
  };
}
