import { OctomilError } from '@octomil/shared/errors';
import {
  describe,
  isKind,
  type PickledStorage,
  type PickledTensor,
  type PickleValue,
  STORAGE_DTYPES,
} from './pickle-value.js';

const MAX_RANK = 64;

/** `('storage', torch.FloatStorage, '0', 'cpu', 12)`. */
export function storageOf(id: PickleValue): PickledStorage {
  const [tag, type, key, , elements] = isKind(id, 'tuple') ? id.items : [];
  const dtype = isKind(type, 'global') ? STORAGE_DTYPES[type.name] : undefined;
  if (tag !== 'storage' || dtype === undefined || typeof key !== 'string' || !isCount(elements)) {
    throw corrupt('it refers to something that is no storage of numbers');
  }
  return { kind: 'storage', dtype, key, elements };
}

/** Arguments of `torch._utils._rebuild_tensor_v2`: storage, offset, size, stride, requires_grad, hooks. */
export function tensorOf([source = null, offset, size = null, stride = null]: readonly PickleValue[]): PickledTensor {
  if (!isKind(source, 'storage')) throw corrupt(`a tensor lies in ${describe(source)}`);
  const shape = counts(size);
  const strides = counts(stride);
  if (!isCount(offset) || shape === undefined || strides?.length !== shape.length) {
    throw corrupt('a tensor has an offset, size or stride that is none');
  }
  return { kind: 'tensor', storage: source, offset, shape, strides };
}

function counts(value: PickleValue): readonly number[] | undefined {
  // Its length first: one tuple of a million numbers may be the shape of every tensor.
  if (!isKind(value, 'tuple') || value.items.length > MAX_RANK) return undefined;
  return value.items.every(isCount) ? value.items : undefined;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && !Object.is(value, -0);
}

function corrupt(reason: string, cause?: unknown): OctomilError {
  return new OctomilError('corrupt_file', `not a PyTorch state dict: ${reason}`, cause === undefined ? {} : { cause });
}
