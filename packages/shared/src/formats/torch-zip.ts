import { OctomilError } from '@octomil/shared/errors';
import {
  bfloat16ToFloat32,
  DTYPE_BYTES,
  type Dtype,
  elementCount,
  float16ToFloat32,
  type NamedTensor,
} from '@octomil/shared/tensors';
import { bytesOf } from './byte-parts.js';
import { DEFAULT_PICKLE_LIMITS, type PickleLimits, readPickle } from './pickle-reader.js';
import { describe, isKind, type PickledTensor, type PickleValue } from './pickle-value.js';
import { stateDictPickle } from './pickle-writer.js';
import { openStoredZip, type StoredZip, writeStoredZip } from './stored-zip.js';

export interface TorchTensor extends NamedTensor {
  /** As it is in the file; `data` is float32 whatever it is, rounded where it has to be. */
  readonly dtype: Dtype;
}

export interface TorchStateDict {
  /** In the file's order. Names of nested dictionaries are joined by dots. */
  readonly tensors: readonly TorchTensor[];
  /** Names of entries that are no tensors (an epoch number, an optimizer's settings); their values are not read. */
  readonly others: readonly string[];
}

export interface TorchReadOptions {
  readonly pickle?: PickleLimits;
  /** Longest pickle accepted, in bytes. Default 16 MiB: names and shapes alone lie in it. */
  readonly maxPickleBytes?: number;
  /** All tensors together as float32, in bytes. Default 1,000,000,000, as for models. */
  readonly maxBytes?: number;
}

const DEFAULT_MAX_PICKLE_BYTES = 16 * 1024 * 1024;
const DEFAULT_MAX_BYTES = 1_000_000_000;
const MAX_DEPTH = 32;
/** Tensors may share storages (tied weights), but not unfold a small file into a large model. */
const MAX_SHARES = 8;
/** All names together: a prefix is shared, but each name is a text of its own once it is looked up. */
const MAX_NAME_CHARACTERS = 32 * 1024 * 1024;

/**
 * Reads the zip that `torch.save` writes of a state dict: contiguous or strided tensors of floats or integers, tied
 * weights, parameters, nested dictionaries. Its pickle is read as data by an interpreter of our own; nothing in it is
 * ever called. Everything that the file claims is checked before memory is set aside for it.
 *
 * @param source the whole file, or its path: of a path, storages are read one by one
 * @throws OctomilError `corrupt_file` naming what is wrong or what was found that a state dict does not need;
 * `too_large` beyond `maxBytes`
 */
export async function readTorchZip(
  source: Uint8Array | string,
  options: TorchReadOptions = {},
): Promise<TorchStateDict> {
  const zip = await openStoredZip(source);
  try {
    const root = rootOf(zip);
    await refuseBigEndian(zip, root);
    const maxPickleBytes = options.maxPickleBytes ?? DEFAULT_MAX_PICKLE_BYTES;
    const pickleBytes = zip.sizes.get(`${root}data.pkl`) ?? 0;
    if (pickleBytes > maxPickleBytes) {
      throw corrupt(`its data.pkl has ${pickleBytes} bytes; the limit is ${maxPickleBytes}`);
    }
    const limits = options.pickle ?? DEFAULT_PICKLE_LIMITS;
    const { found, others } = listTensors(readPickle(await zip.read(`${root}data.pkl`), limits), limits.maxTensors);
    checkSizes(found, zip, root, options.maxBytes ?? DEFAULT_MAX_BYTES);
    return { tensors: await readTensors(found, zip, root), others };
  } finally {
    zip.close();
  }
}

/**
 * Writes a state dict of float32 tensors that `torch.load(path, weights_only=True)` takes. Names stay as they are. The
 * same tensors give the same bytes; the data are not copied.
 *
 * @throws OctomilError `invalid_input` for data that do not fill a shape or a repeated name
 */
export function writeTorchZip(tensors: readonly NamedTensor[]): AsyncIterable<Uint8Array> {
  const names = new Set<string>();
  for (const { name, shape, data } of tensors) {
    if (data.length !== elementCount(shape) || names.has(name)) {
      const what = names.has(name) ? 'is repeated' : `of shape [${shape}] has ${data.length} values`;
      throw new OctomilError('invalid_input', `tensor ${JSON.stringify(name)} ${what}`);
    }
    names.add(name);
  }
  return writeStoredZip([
    { name: 'archive/data.pkl', bytes: stateDictPickle(tensors) },
    { name: 'archive/byteorder', bytes: Buffer.from('little') },
    ...tensors.map(({ data }, index) => ({ name: `archive/data/${index}`, bytes: bytesOf(data) })),
    { name: 'archive/version', bytes: Buffer.from('3\n') },
  ]);
}

/** The folder in which `data.pkl` lies, with its slash. */
function rootOf(zip: StoredZip): string {
  const roots = [...zip.sizes.keys()].filter((name) => name === 'data.pkl' || name.endsWith('/data.pkl'));
  const [first, ...more] = roots;
  if (first === undefined || more.length > 0) {
    throw corrupt(`it has ${roots.length} files named data.pkl; torch.save writes one`);
  }
  return first.slice(0, -'data.pkl'.length);
}

async function refuseBigEndian(zip: StoredZip, root: string): Promise<void> {
  const name = `${root}byteorder`;
  const size = zip.sizes.get(name);
  if (size === undefined) return;
  const order = size > 16 ? 'too long' : Buffer.from(await zip.read(name)).toString('latin1');
  if (order.trim() !== 'little') throw corrupt(`its byte order is ${JSON.stringify(order)}; little is supported`);
}

interface FoundTensor extends PickledTensor {
  readonly name: string;
}

function listTensors(value: PickleValue, maxTensors: number): { found: FoundTensor[]; others: string[] } {
  if (!isKind(value, 'dict')) throw corrupt(`it holds ${describe(value)} instead of a dictionary of tensors`);
  const found = new Map<string, FoundTensor>();
  const others: string[] = [];
  let seen = 0;
  let characters = 0;
  // Made once for a dictionary, however often it is shared: it may have a million entries for one key.
  const latest = new Map<object, ReadonlyMap<PickleValue, PickleValue>>();
  const walk = (dict: Extract<PickleValue, { kind: 'dict' }>, prefix: string, depth: number): void => {
    if (depth > MAX_DEPTH) throw corrupt(`its dictionaries nest more than ${MAX_DEPTH} deep`);
    // A later value of a key replaces an earlier one.
    const values = latest.get(dict) ?? new Map(dict.entries);
    latest.set(dict, values);
    for (const [key, inner] of values) {
      if (typeof key !== 'string' && typeof key !== 'number') throw corrupt(`a key is ${describe(key)}`);
      const name = `${prefix}${key}`;
      seen++;
      characters += name.length;
      // Values may be shared, so a few instructions could describe endlessly many names.
      if (seen > 4 * maxTensors || name.length > 10_000 || characters > MAX_NAME_CHARACTERS)
        throw corrupt('it describes too many or too long names');
      if (isKind(inner, 'dict')) walk(inner, `${name}.`, depth + 1);
      else if (!isKind(inner, 'tensor')) others.push(name);
      else if (found.has(name)) throw corrupt(`two tensors are named ${JSON.stringify(name)}`);
      else found.set(name, { ...inner, name });
    }
  };
  walk(value, '', 1);
  return { found: [...found.values()], others };
}

/** Every number that memory will be set aside for. */
function checkSizes(found: readonly FoundTensor[], zip: StoredZip, root: string, maxBytes: number): void {
  const storageElements = new Map<string, number>();
  let elements = 0;
  for (const { name, storage, offset, shape, strides } of found) {
    const bytes = zip.sizes.get(`${root}data/${storage.key}`);
    const needed = storage.elements * DTYPE_BYTES[storage.dtype];
    if (bytes === undefined || bytes !== needed) {
      throw corrupt(
        `tensor ${quote(name)} lies in storage ${quote(storage.key)} of ${needed} bytes; the file has ${bytes ?? 'none'}`,
      );
    }
    storageElements.set(storage.key, Math.max(storageElements.get(storage.key) ?? 0, storage.elements));
    const count = elementCount(shape);
    const last = shape.reduce((sum, size, axis) => sum + Math.max(size - 1, 0) * (strides[axis] ?? 0), offset);
    if (!Number.isSafeInteger(count) || (count > 0 && !(last < storage.elements)) || offset > storage.elements) {
      throw corrupt(
        `tensor ${quote(name)} of shape [${shape.slice(0, 8)}], offset ${offset} and strides [${strides.slice(0, 8)}] reaches beyond its ${storage.elements} elements`,
      );
    }
    if (count > storage.elements) {
      throw corrupt(`tensor ${quote(name)} has ${count} values in ${storage.elements} stored ones: an expanded view`);
    }
    elements += count;
  }
  if (elements * 4 > maxBytes) {
    throw new OctomilError(
      'too_large',
      `the state dict has ${elements} numbers, ${elements * 4} bytes as float32; the limit is ${maxBytes}`,
      { details: { value: elements * 4, limit: maxBytes } },
    );
  }
  const stored = [...storageElements.values()].reduce((sum, count) => sum + count, 0);
  if (elements > stored * MAX_SHARES) {
    throw corrupt(`its tensors have ${elements} values, more than ${MAX_SHARES} times the ${stored} that are stored`);
  }
}

/** Storage by storage, so that besides the tensors one storage is in memory at a time. */
async function readTensors(found: readonly FoundTensor[], zip: StoredZip, root: string): Promise<TorchTensor[]> {
  const byStorage = Map.groupBy(found, ({ storage }) => `${storage.dtype} ${storage.key}`);
  const data = new Map<string, Float32Array>();
  for (const sharing of byStorage.values()) {
    const storage = sharing[0]?.storage;
    if (storage === undefined) continue;
    const values = toFloat32(storage.dtype, await zip.read(`${root}data/${storage.key}`));
    for (const tensor of sharing) data.set(tensor.name, gather(tensor, values));
  }
  return found.map(({ name, shape, storage }) => ({
    name,
    shape,
    dtype: storage.dtype,
    data: data.get(name) ?? new Float32Array(0),
  }));
}

type ToFloat32 = (buffer: ArrayBufferLike) => Float32Array;

/** By the types of torch's storages. */
const TO_FLOAT32: Partial<Readonly<Record<Dtype, ToFloat32>>> = {
  F32: (buffer) => new Float32Array(buffer),
  F64: (buffer) => Float32Array.from(new Float64Array(buffer)),
  F16: (buffer) => float16ToFloat32(new Uint16Array(buffer)),
  BF16: (buffer) => bfloat16ToFloat32(new Uint16Array(buffer)),
  I64: (buffer) => Float32Array.from(new BigInt64Array(buffer), Number),
  I32: (buffer) => Float32Array.from(new Int32Array(buffer)),
  I16: (buffer) => Float32Array.from(new Int16Array(buffer)),
  I8: (buffer) => Float32Array.from(new Int8Array(buffer)),
  U8: (buffer) => Float32Array.from(new Uint8Array(buffer)),
  BOOL: (buffer) => Float32Array.from(new Uint8Array(buffer)),
};

function toFloat32(dtype: Dtype, { buffer }: Uint8Array): Float32Array {
  const convert = TO_FLOAT32[dtype];
  if (convert === undefined) throw corrupt(`its storages hold ${dtype}`);
  return convert(buffer);
}

/** The tensor in C order: the storage itself where it lies so, otherwise a copy. */
function gather({ offset, shape, strides }: FoundTensor, values: Float32Array): Float32Array {
  const count = elementCount(shape);
  if (isContiguous(shape, strides)) {
    return offset === 0 && count === values.length ? values : values.slice(offset, offset + count);
  }
  const out = new Float32Array(count);
  const place = new Array<number>(shape.length).fill(0);
  let source = offset;
  for (let target = 0; target < count; target++) {
    out[target] = values[source] ?? 0;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const next = (place[axis] ?? 0) + 1;
      source += strides[axis] ?? 0;
      if (next < (shape[axis] ?? 0)) {
        place[axis] = next;
        break;
      }
      place[axis] = 0;
      source -= next * (strides[axis] ?? 0);
    }
  }
  return out;
}

function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  let expected = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const size = shape[axis] ?? 1;
    if (size === 0) return true;
    if (size > 1 && strides[axis] !== expected) return false;
    expected *= size;
  }
  return true;
}

function quote(text: string): string {
  return JSON.stringify(text).slice(0, 120);
}

function corrupt(reason: string): OctomilError {
  return new OctomilError('corrupt_file', `not a PyTorch state dict: ${reason}`);
}
