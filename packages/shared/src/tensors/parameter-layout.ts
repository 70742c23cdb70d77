import { fstatSync, readSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import {
  compareNames,
  elementCount,
  headerLength,
  LENGTH_FIELD_BYTES,
  type ParseOptions,
  parseHeader,
  serializeHeader,
} from './safetensors.js';

export interface TensorShape {
  readonly name: string;
  readonly shape: readonly number[];
}

/** One tensor's place in the flat parameter vector. */
export interface LayoutTensor extends TensorShape {
  /** Elements before it. */
  readonly offset: number;
  /** Elements of it. */
  readonly size: number;
}

/**
 * How a *weights file* (base, checkpoint or update) is laid out: safetensors, all F32, tensors sorted by name, so that its
 * data section is one flat Float32Array whose order derives from the names alone.
 */
export interface ParameterLayout {
  readonly tensors: readonly LayoutTensor[];
  readonly totalParams: number;
  /** Everything before the data section: the 8-byte length and the padded JSON. */
  readonly headerBytes: Uint8Array;
}

const BYTES_PER_PARAM = Float32Array.BYTES_PER_ELEMENT;
/** Most headers fit, and are then read in one call. */
const USUAL_HEADER_BYTES = 4_096;

/**
 * The layout of a weights file that holds these tensors, in whatever order they are given.
 *
 * @throws `invalid_input` for a repeated name or a dimension that is no count
 */
export function layoutOf(
  tensors: readonly TensorShape[],
  metadata: Readonly<Record<string, string>> = {},
): ParameterLayout {
  const placed: LayoutTensor[] = [];
  let offset = 0;
  for (const { name, shape } of [...tensors].sort((a, b) => compareNames(a.name, b.name))) {
    const size = elementCount(shape);
    if (!shape.every((dimension) => Number.isSafeInteger(dimension) && dimension >= 0) || !Number.isSafeInteger(size)) {
      throw new OctomilError('invalid_input', `tensor "${name}" has the shape [${shape}]; dimensions are counts`);
    }
    placed.push({ name, shape: [...shape], offset, size });
    offset += size;
  }
  const entries = placed.map((tensor) => ({
    name: tensor.name,
    dtype: 'F32' as const,
    shape: tensor.shape,
    begin: tensor.offset * BYTES_PER_PARAM,
    end: (tensor.offset + tensor.size) * BYTES_PER_PARAM,
  }));
  return { tensors: placed, totalParams: offset, headerBytes: serializeHeader(entries, metadata) };
}

/** Bytes of a weights file of this layout. */
export function weightsFileBytes(layout: ParameterLayout): number {
  return layout.headerBytes.length + layout.totalParams * BYTES_PER_PARAM;
}

/**
 * Reads the layout from the front of a weights file.
 *
 * @param prefix at least the length field and the JSON
 * @param fileBytes length of the whole file; default: `prefix` is the whole file
 * @throws `corrupt_file` when it is no safetensors file, or holds other types than F32, or tensors out of name order
 */
export function parseLayout(
  prefix: Uint8Array,
  fileBytes: number = prefix.length,
  options: ParseOptions = {},
): ParameterLayout {
  const header = parseHeader(prefix, fileBytes, options);
  const tensors: LayoutTensor[] = [];
  let previous: string | undefined;
  // Tensors without elements share their offset with a neighbour, so bytes alone do not order them.
  const entries = [...header.entries].sort((a, b) => a.begin - b.begin || compareNames(a.name, b.name));
  for (const { name, dtype, shape, begin, end } of entries) {
    if (dtype !== 'F32') {
      throw new OctomilError('corrupt_file', `not a weights file: tensor "${name}" is ${dtype}, expected F32`);
    }
    if (previous !== undefined && compareNames(previous, name) >= 0) {
      throw new OctomilError(
        'corrupt_file',
        `not a weights file: tensor "${name}" is stored after "${previous}"; tensors are sorted by name`,
      );
    }
    previous = name;
    tensors.push({ name, shape, offset: begin / BYTES_PER_PARAM, size: (end - begin) / BYTES_PER_PARAM });
  }
  return {
    tensors,
    totalParams: header.dataBytes / BYTES_PER_PARAM,
    // Not slice(): on a Buffer that is a view over the whole file.
    headerBytes: new Uint8Array(prefix.subarray(0, header.dataOffset)),
  };
}

/**
 * Reads the layout of a weights file, and nothing but its header.
 *
 * @throws `corrupt_file` as {@link parseLayout}; errors of the file system as they are
 */
export async function readLayout(path: string, options: ParseOptions = {}): Promise<ParameterLayout> {
  const file = await open(path, 'r');
  try {
    const { size: fileBytes } = await file.stat();
    const field = new Uint8Array(LENGTH_FIELD_BYTES);
    const { bytesRead } = await file.read(field, 0, LENGTH_FIELD_BYTES, 0);
    const length = headerLength(field.subarray(0, bytesRead), { ...options, fileBytes });
    const prefix = new Uint8Array(LENGTH_FIELD_BYTES + length);
    let filled = 0;
    while (filled < prefix.length) {
      const read = await file.read(prefix, filled, prefix.length - filled, filled);
      if (read.bytesRead === 0) break;
      filled += read.bytesRead;
    }
    return parseLayout(prefix.subarray(0, filled), fileBytes, options);
  } finally {
    await file.close();
  }
}

/**
 * As {@link readLayout}, of an open file and at once: for threads that have nothing else to do. A header is a few KiB, and
 * waiting for the thread pool would take longer than reading it.
 *
 * @throws `corrupt_file` as {@link parseLayout}; errors of the file system as they are
 */
export function readLayoutSync(descriptor: number, options: ParseOptions = {}): ParameterLayout {
  const { size: fileBytes } = fstatSync(descriptor);
  const start = new Uint8Array(USUAL_HEADER_BYTES);
  const filled = readSync(descriptor, start, 0, start.length, 0);
  const prefixBytes =
    LENGTH_FIELD_BYTES +
    headerLength(start.subarray(0, Math.min(filled, LENGTH_FIELD_BYTES)), { ...options, fileBytes });
  if (prefixBytes <= filled) return parseLayout(start.subarray(0, prefixBytes), fileBytes, options);
  const prefix = new Uint8Array(prefixBytes);
  let read = 0;
  while (read < prefixBytes) {
    const count = readSync(descriptor, prefix, read, prefixBytes - read, read);
    if (count === 0) break;
    read += count;
  }
  return parseLayout(prefix.subarray(0, read), fileBytes, options);
}

/**
 * Compares names and shapes; headers may differ in metadata and padding.
 *
 * @returns the first difference in words, or `undefined` when both hold the same parameters in the same places
 */
export function sameLayout(expected: ParameterLayout, actual: ParameterLayout): string | undefined {
  const known = new Set(expected.tensors.map((tensor) => tensor.name));
  const received = new Map(actual.tensors.map((tensor) => [tensor.name, tensor]));
  for (const tensor of expected.tensors) {
    const other = received.get(tensor.name);
    if (other === undefined) return `tensor "${tensor.name}" of shape [${tensor.shape}] is missing`;
    if (other.shape.length !== tensor.shape.length || other.shape.some((size, axis) => size !== tensor.shape[axis])) {
      return `tensor "${tensor.name}" has the shape [${other.shape}], expected [${tensor.shape}]`;
    }
  }
  const extra = actual.tensors.find((tensor) => !known.has(tensor.name));
  return extra === undefined ? undefined : `tensor "${extra.name}" of shape [${extra.shape}] is not part of the model`;
}

/** The tensor that holds element `index` of the flat vector, and the element's place inside it. */
export function locateParameter(layout: ParameterLayout, index: number): { name: string; element: number } | undefined {
  const tensor = layout.tensors.find(({ offset, size }) => index >= offset && index < offset + size);
  return tensor === undefined ? undefined : { name: tensor.name, element: index - tensor.offset };
}
