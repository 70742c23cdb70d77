import { OctomilError } from '@octomil/shared/errors';
import type { NamedTensor } from '@octomil/shared/tensors';

/** One step of the pipeline that a round asks for, with its parameters by their names on the wire. */
export interface Filter {
  readonly type: string;
  readonly [parameter: string]: unknown;
}

/** What was done to an update. */
export interface FilterRecord {
  readonly type: string;
  /** false: this program knows no such filter, and left the update as it was. */
  readonly applied: boolean;
}

/** Uniform in [0, 1). */
type Random = () => number;

type Step = (tensor: NamedTensor, parameters: Filter, random: Random) => NamedTensor | undefined;

const STEPS: Readonly<Record<string, Step>> = {
  // Each tensor by itself, as published clients do it, not all of them together.
  gradient_clip: (tensor, filter) => {
    const maxNorm = numberOf(filter, 'max_norm', { usual: 1 });
    const norm = normOf(tensor);
    return norm <= maxNorm ? tensor : mapped(tensor, (value) => (value * maxNorm) / norm);
  },
  gaussian_noise: (tensor, filter, random) => {
    const deviation = numberOf(filter, 'stddev', { usual: 0.01 });
    return mapped(tensor, (value) => value + deviation * normal(random));
  },
  norm_validation: (tensor, filter) =>
    normOf(tensor) > numberOf(filter, 'max_norm', { usual: 10 }) ? undefined : tensor,
  sparsification: (tensor, filter) => {
    const share = numberOf(filter, 'top_k_percent', { usual: 10, max: 100 }) / 100;
    const kept = Math.max(1, Math.ceil(tensor.data.length * share));
    const threshold = Array.from(tensor.data, Math.abs).sort((a, b) => b - a)[kept - 1] ?? 0;
    return mapped(tensor, (value) => (Math.abs(value) >= threshold ? value : 0));
  },
  quantization: (tensor, filter) => {
    const levels = 2 ** numberOf(filter, 'bits', { usual: 8, min: 1, max: 32 }) - 1;
    let low = Number.POSITIVE_INFINITY;
    let high = Number.NEGATIVE_INFINITY;
    for (const value of tensor.data) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    const step = (high - low) / levels;
    return step > 0 ? mapped(tensor, (value) => low + Math.round((value - low) / step) * step) : tensor;
  },
};

export function isKnownFilter(type: string): boolean {
  return Object.hasOwn(STEPS, type);
}

/** What changed since the base: tensors of the base that the update has too; others do not travel. */
export function deltaOf(base: readonly NamedTensor[], updated: readonly NamedTensor[]): NamedTensor[] {
  const byName = new Map(updated.map((tensor) => [tensor.name, tensor]));
  return base.flatMap(({ name, data }) => {
    const tensor = byName.get(name);
    return tensor === undefined ? [] : [mapped(tensor, (value, index) => value - (data[index] ?? 0))];
  });
}

/** FedProx as published clients approximate it after training: every value ÷ (1 + μ). */
export function proximal(delta: readonly NamedTensor[], mu: number): NamedTensor[] {
  return mu > 0 ? delta.map((tensor) => mapped(tensor, (value) => value / (1 + mu))) : [...delta];
}

/**
 * Applies filters in their order. A tensor that `norm_validation` takes away changes nothing: it travels as zeros.
 *
 * @throws `config_invalid` for a parameter outside its range
 */
export function applyFilters(
  delta: readonly NamedTensor[],
  filters: readonly Filter[],
  random: Random,
): { tensors: NamedTensor[]; records: FilterRecord[] } {
  let tensors = [...delta];
  const records = filters.map((filter): FilterRecord => {
    const step = isKnownFilter(filter.type) ? STEPS[filter.type] : undefined;
    if (step === undefined) return { type: filter.type, applied: false };
    tensors = tensors.map((tensor) => step(tensor, filter, random) ?? mapped(tensor, () => 0));
    return { type: filter.type, applied: true };
  });
  return { tensors, records };
}

function mapped(tensor: NamedTensor, change: (value: number, index: number) => number): NamedTensor {
  return { ...tensor, data: tensor.data.map(change) };
}

function normOf({ data }: NamedTensor): number {
  let sum = 0;
  for (const value of data) sum += value * value;
  return Math.sqrt(sum);
}

/** @throws `config_invalid` for what would turn or spoil an update while it counts as filtered */
function numberOf(
  filter: Filter,
  name: string,
  { usual, min = 0, max = Number.MAX_VALUE }: { usual: number; min?: number; max?: number },
): number {
  const value = filter[name] ?? usual;
  if (typeof value === 'number' && value >= min && value <= max) return value;
  const limit = max === Number.MAX_VALUE ? `of at least ${min}` : `from ${min} to ${max}`;
  throw new OctomilError(
    'config_invalid',
    `the filter ${filter.type} has ${name} = ${JSON.stringify(value)}, which must be a number ${limit}; nothing was sent`,
    { details: { filter: filter.type, parameter: name } },
  );
}

/** Box and Muller, "A Note on the Generation of Random Normal Deviates", 1958. */
function normal(random: Random): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}
