import type { Dtype } from '@octomil/shared/tensors';

/** What a state dict's pickle may hold. Nothing here was ever called: tensors are descriptions until they are read. */
export type PickleValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | { readonly kind: 'bytes' }
  | { readonly kind: 'tuple'; readonly items: readonly PickleValue[] }
  | { readonly kind: 'list'; readonly items: PickleValue[] }
  | { readonly kind: 'dict'; readonly entries: [PickleValue, PickleValue][] }
  | { readonly kind: 'global'; readonly name: string }
  | PickledStorage
  | PickledTensor;

export interface PickledStorage {
  readonly kind: 'storage';
  readonly dtype: Dtype;
  /** Name of its file under `data/`. */
  readonly key: string;
  readonly elements: number;
}

export interface PickledTensor {
  readonly kind: 'tensor';
  readonly storage: PickledStorage;
  /** In elements. */
  readonly offset: number;
  readonly shape: readonly number[];
  /** In elements. */
  readonly strides: readonly number[];
}

/** `torch.FloatStorage` and its siblings, which name the type of a storage's elements. */
export const STORAGE_DTYPES: Readonly<Record<string, Dtype>> = {
  'torch.FloatStorage': 'F32',
  'torch.DoubleStorage': 'F64',
  'torch.HalfStorage': 'F16',
  'torch.BFloat16Storage': 'BF16',
  'torch.LongStorage': 'I64',
  'torch.IntStorage': 'I32',
  'torch.ShortStorage': 'I16',
  'torch.CharStorage': 'I8',
  'torch.ByteStorage': 'U8',
  'torch.BoolStorage': 'BOOL',
};

export const ORDERED_DICT = 'collections.OrderedDict';
export const REBUILD_TENSOR = 'torch._utils._rebuild_tensor_v2';
export const REBUILD_PARAMETER = 'torch._utils._rebuild_parameter';

type Kinds = Extract<PickleValue, { kind: string }>;

export function isKind<K extends Kinds['kind']>(
  value: PickleValue | undefined,
  kind: K,
): value is Extract<Kinds, { kind: K }> {
  return typeof value === 'object' && value !== null && value.kind === kind;
}

export function describe(value: PickleValue): string {
  if (typeof value !== 'object') return `a ${typeof value}`;
  if (value === null) return 'None';
  return value.kind === 'global' ? value.name : `a ${value.kind}`;
}
