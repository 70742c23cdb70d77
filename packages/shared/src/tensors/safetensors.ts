import { OctomilError } from '@octomil/shared/errors';
import { DTYPE_BYTES, type Dtype, isDtype } from './dtypes.js';

/** Where one tensor lies, checked against the length of the data section. */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Bytes from the start of the data section. */
  readonly begin: number;
  /** Exclusive. */
  readonly end: number;
}

export interface SafetensorsHeader {
  /** In the order of their bytes in the data section. */
  readonly entries: readonly TensorEntry[];
  readonly metadata: Readonly<Record<string, string>>;
  /** Start of the data section: 8 bytes of length, then the JSON. */
  readonly dataOffset: number;
  /** Bytes of the data section. */
  readonly dataBytes: number;
}

export interface RawTensor {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Little-endian elements. A view: it keeps the whole file alive, and need not be aligned. */
  readonly bytes: Uint8Array;
}

export interface ParseOptions {
  /** Longest JSON header accepted, in bytes. Default 8 MiB; a longer one throws. */
  readonly maxHeaderBytes?: number;
}

export const DEFAULT_MAX_HEADER_BYTES = 8 * 1024 * 1024;

/** Bytes of the length field in front of the JSON. */
export const LENGTH_FIELD_BYTES = 8;

/**
 * Reads the 8-byte length field and checks it before anybody allocates for it.
 *
 * @param fileBytes length of the whole file when known
 * @returns bytes of the JSON header
 * @throws `corrupt_file`
 */
export function headerLength(prefix: Uint8Array, options: ParseOptions & { fileBytes?: number } = {}): number {
  if (prefix.length < LENGTH_FIELD_BYTES) {
    throw corrupt(`the file has ${prefix.length} bytes; a safetensors file starts with an 8-byte header length`);
  }
  const view = new DataView(prefix.buffer, prefix.byteOffset, prefix.byteLength);
  const length = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32;
  const limit = options.maxHeaderBytes ?? DEFAULT_MAX_HEADER_BYTES;
  if (length > limit) throw corrupt(`its header claims ${length} bytes; the limit is ${limit}`);
  if (length < 2) throw corrupt(`its header claims ${length} bytes; the shortest header is {}`);
  if (options.fileBytes !== undefined && LENGTH_FIELD_BYTES + length > options.fileBytes) {
    throw corrupt(`its header claims ${length} bytes, but only ${options.fileBytes - LENGTH_FIELD_BYTES} follow`);
  }
  return length;
}

/**
 * Parses the header and checks every entry: known type, sane shape, bytes that match it, no overlap, no hole, nothing
 * outside the file. Nothing is allocated by a number that the file claims.
 *
 * @param prefix at least the length field and the JSON
 * @param fileBytes length of the whole file
 * @throws `corrupt_file`
 */
export function parseHeader(prefix: Uint8Array, fileBytes: number, options: ParseOptions = {}): SafetensorsHeader {
  const length = headerLength(prefix, { ...options, fileBytes });
  const dataOffset = LENGTH_FIELD_BYTES + length;
  if (prefix.length < dataOffset) {
    throw corrupt(`its header ends after ${prefix.length - LENGTH_FIELD_BYTES} of ${length} bytes`);
  }
  const json = parseJson(prefix.subarray(LENGTH_FIELD_BYTES, dataOffset));
  const entries: TensorEntry[] = [];
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(json)) {
    if (name === '__metadata__') metadata = parseMetadata(value);
    else entries.push(parseEntry(name, value));
  }
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end || compareNames(a.name, b.name));
  const dataBytes = fileBytes - dataOffset;
  let position = 0;
  for (const entry of entries) {
    if (entry.begin !== position) {
      const what = entry.begin < position ? 'overlaps the one before it' : 'leaves a hole before it';
      throw corrupt(`tensor ${quote(entry.name)} starts at byte ${entry.begin} and ${what}, which ends at ${position}`);
    }
    position = entry.end;
  }
  if (position !== dataBytes) {
    throw corrupt(`its tensors need ${position} bytes of data, but the file has ${dataBytes}`);
  }
  return { entries, metadata, dataOffset, dataBytes };
}

/**
 * Parses a whole file in memory without copying it.
 *
 * @throws `corrupt_file` for anything that is not a complete, well-formed safetensors file
 */
export function parseSafetensors(
  bytes: Uint8Array,
  options: ParseOptions = {},
): { tensors: RawTensor[]; metadata: Readonly<Record<string, string>> } {
  const header = parseHeader(bytes, bytes.length, options);
  const tensors = header.entries.map(({ name, dtype, shape, begin, end }) => ({
    name,
    dtype,
    shape,
    bytes: bytes.subarray(header.dataOffset + begin, header.dataOffset + end),
  }));
  return { tensors, metadata: header.metadata };
}

/**
 * Writes a safetensors file: tensors by falling element size, then by name, so that each is aligned and the bytes depend
 * on the contents alone.
 *
 * @throws `invalid_input` for a repeated name or bytes that do not match the shape
 */
export function serializeSafetensors(
  tensors: readonly RawTensor[],
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const ordered = [...tensors].sort(
    (a, b) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype] || compareNames(a.name, b.name),
  );
  const entries: TensorEntry[] = [];
  let position = 0;
  for (const { name, dtype, shape, bytes } of ordered) {
    const expected = elementCount(shape) * DTYPE_BYTES[dtype];
    if (bytes.length !== expected) {
      throw new OctomilError(
        'invalid_input',
        `tensor ${quote(name)} of shape [${shape}] and type ${dtype} needs ${expected} bytes, got ${bytes.length}`,
      );
    }
    entries.push({ name, dtype, shape, begin: position, end: position + bytes.length });
    position += bytes.length;
  }
  const header = serializeHeader(entries, metadata);
  const out = new Uint8Array(header.length + position);
  out.set(header);
  for (const [index, entry] of entries.entries()) {
    out.set(ordered[index]?.bytes ?? [], header.length + entry.begin);
  }
  return out;
}

/**
 * Length field and JSON, padded with spaces so that the data section starts at a multiple of 8.
 *
 * @throws `invalid_input` for a repeated or reserved name
 */
export function serializeHeader(
  entries: readonly TensorEntry[],
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const seen = new Set<string>();
  const parts: string[] = [];
  const metadataKeys = Object.keys(metadata).sort();
  if (metadataKeys.length > 0) {
    const pairs = metadataKeys.map((key) => `${JSON.stringify(key)}:${JSON.stringify(metadata[key])}`);
    parts.push(`"__metadata__":{${pairs.join(',')}}`);
  }
  for (const { name, dtype, shape, begin, end } of entries) {
    if (seen.has(name) || name === '__metadata__') {
      throw new OctomilError(
        'invalid_input',
        `tensor name ${quote(name)} is ${seen.has(name) ? 'repeated' : 'reserved'}`,
      );
    }
    if (!name.isWellFormed()) {
      throw new OctomilError('invalid_input', `tensor name ${quote(name)} has half of a surrogate pair in it`);
    }
    seen.add(name);
    parts.push(
      `${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape.join(',')}],"data_offsets":[${begin},${end}]}`,
    );
  }
  const json = new TextEncoder().encode(`{${parts.join(',')}}`);
  const length = Math.ceil(json.length / 8) * 8;
  const out = new Uint8Array(LENGTH_FIELD_BYTES + length).fill(0x20);
  new DataView(out.buffer).setUint32(0, length, true);
  new DataView(out.buffer).setUint32(4, 0, true);
  out.set(json, LENGTH_FIELD_BYTES);
  return out;
}

/** Order of names in every file we write: by UTF-16 code units, so it depends on no locale. */
export function compareNames(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Product of the dimensions; 1 for a scalar. */
export function elementCount(shape: readonly number[]): number {
  let count = 1;
  for (const dimension of shape) count *= dimension;
  return count;
}

function parseJson(bytes: Uint8Array): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch (cause) {
    throw corrupt('its header is not JSON in UTF-8', cause);
  }
  if (!isRecord(value)) throw corrupt('its header is not a JSON object');
  return value;
}

function parseMetadata(value: unknown): Record<string, string> {
  if (!isRecord(value)) throw corrupt('__metadata__ is not an object');
  const metadata: [string, string][] = [];
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') throw corrupt(`__metadata__ field ${quote(key)} is not a string`);
    metadata.push([key, text]);
  }
  return Object.fromEntries(metadata);
}

function parseEntry(name: string, value: unknown): TensorEntry {
  if (!isRecord(value)) throw corrupt(`tensor ${quote(name)} is not described by an object`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (!isDtype(dtype)) throw corrupt(`tensor ${quote(name)} has the unknown type ${quote(dtype)}`);
  if (!Array.isArray(shape) || !shape.every(isSize))
    throw corrupt(`tensor ${quote(name)} has the shape ${quote(shape)}`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize)) {
    throw corrupt(`tensor ${quote(name)} has the data_offsets ${quote(offsets)}`);
  }
  const [begin, end] = offsets as [number, number];
  const expected = elementCount(shape) * DTYPE_BYTES[dtype];
  if (!Number.isSafeInteger(expected) || end - begin !== expected) {
    throw corrupt(
      `tensor ${quote(name)} of shape [${shape.slice(0, 8)}] and type ${dtype} needs ${expected} bytes, its data_offsets give ${end - begin}`,
    );
  }
  return { name, dtype, shape, begin, end };
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && !Object.is(value, -0);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Names in messages come from the file: quoted and cut short. */
function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? 'undefined';
  return text.length > 120 ? `${text.slice(0, 120)}…` : text;
}

function corrupt(reason: string, cause?: unknown): OctomilError {
  return new OctomilError('corrupt_file', `not a safetensors file: ${reason}`, cause === undefined ? {} : { cause });
}
