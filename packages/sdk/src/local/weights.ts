import type { NamedTensor } from '@octomil/shared/tensors';
import { OctomilClientError } from '../client-error.js';

/** One tensor: row-major values and their shape. */
export interface Weights {
  readonly shape: readonly number[];
  readonly data: Float32Array | Float64Array | readonly number[];
}

/** Tensors by name. */
export type StateDict = Readonly<Record<string, Weights>>;

/** Weights as callers have them: by name, as a list, or the bytes of a safetensors, torch zip or .npy file. */
export type WeightsLike = StateDict | readonly (Weights & { readonly name: string })[] | Uint8Array;

/** Whether a value means weights rather than rows of a table. */
export function isWeights(value: unknown): value is WeightsLike {
  if (value instanceof Uint8Array) return true;
  if (typeof value !== 'object' || value === null) return false;
  const tensors: unknown[] = Array.isArray(value) ? value : Object.values(value);
  return tensors.length > 0 && tensors.every(isTensor) && (!Array.isArray(value) || tensors.every(hasName));
}

/** As named float32 tensors. @throws OctomilClientError `invalid_input` for what is none, or does not fill its shape */
export function namedTensors(weights: Exclude<WeightsLike, Uint8Array>): NamedTensor[] {
  const entries = Array.isArray(weights)
    ? (weights as readonly (Weights & { name: string })[]).map((tensor) => [tensor.name, tensor] as const)
    : Object.entries(weights as StateDict);
  return entries.map(([name, tensor]) => {
    if (!isTensor(tensor)) {
      throw new OctomilClientError(
        'invalid_input',
        `weight "${name}" is not a tensor; give { shape, data } for each name`,
      );
    }
    const { shape, data } = tensor;
    const wanted = shape.reduce((product, size) => product * size, 1);
    if (wanted !== data.length) {
      throw new OctomilClientError(
        'invalid_input',
        `weight "${name}" of shape [${shape}] needs ${wanted} values, got ${data.length}`,
      );
    }
    return { name, shape: [...shape], data: data instanceof Float32Array ? data : Float32Array.from(data) };
  });
}

/** For callers who know no list of tensors. */
export function stateDict(tensors: readonly NamedTensor[]): Record<string, { shape: number[]; data: Float32Array }> {
  return Object.fromEntries(tensors.map(({ name, shape, data }) => [name, { shape: [...shape], data }]));
}

function isTensor(value: unknown): value is Weights {
  if (typeof value !== 'object' || value === null || !('shape' in value) || !('data' in value)) return false;
  const { shape, data } = value;
  const numbers = Array.isArray(data) || data instanceof Float32Array || data instanceof Float64Array;
  return numbers && Array.isArray(shape) && shape.every((size) => Number.isSafeInteger(size) && size >= 0);
}

function hasName(value: unknown): boolean {
  return typeof (value as { name?: unknown }).name === 'string';
}
