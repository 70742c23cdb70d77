import { OctomilError } from '@octomil/shared/errors';
import { bfloat16ToFloat32, float16ToFloat32 } from './half-floats.js';
import { layoutOf, type ParameterLayout, parseLayout } from './parameter-layout.js';
import { compareNames, elementCount, type ParseOptions, parseSafetensors, type RawTensor } from './safetensors.js';

export interface NamedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/**
 * Writes a weights file. The bytes depend on the tensors and the metadata alone, not on their order.
 *
 * @throws `invalid_input` for a repeated name or data that does not fill the shape
 */
export function encodeWeights(
  tensors: readonly NamedTensor[],
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const layout = layoutOf(tensors, metadata);
  const out = new Uint8Array(layout.headerBytes.length + layout.totalParams * 4);
  out.set(layout.headerBytes);
  flattenInto(tensors, new Float32Array(out.buffer, layout.headerBytes.length, layout.totalParams));
  return out;
}

/**
 * Writes a weights file from a flat vector in the layout's order.
 *
 * @throws `invalid_input` when the vector's length is not `layout.totalParams`
 */
export function encodeFlat(layout: ParameterLayout, flat: Float32Array): Uint8Array {
  requireLength(layout, flat);
  const out = new Uint8Array(layout.headerBytes.length + flat.byteLength);
  out.set(layout.headerBytes);
  out.set(new Uint8Array(flat.buffer, flat.byteOffset, flat.byteLength), layout.headerBytes.length);
  return out;
}

/**
 * Reads a weights file. The data are views over `bytes` where these are aligned, so they keep them alive.
 *
 * @throws `corrupt_file`
 */
export function decodeWeights(bytes: Uint8Array, options: ParseOptions = {}): NamedTensor[] {
  const layout = parseLayout(bytes, bytes.length, options);
  return unflatten(layout, flatView(bytes, layout));
}

/**
 * The flat parameter vector of a weights file: a view over `bytes` when these are aligned to 4, otherwise a copy.
 *
 * @throws `corrupt_file` when the bytes are not of that layout's length
 */
export function flatView(bytes: Uint8Array, layout: ParameterLayout): Float32Array {
  const start = layout.headerBytes.length;
  if (bytes.length !== start + layout.totalParams * 4) {
    throw new OctomilError(
      'corrupt_file',
      `a weights file of ${layout.totalParams} parameters has ${start + layout.totalParams * 4} bytes, got ${bytes.length}`,
    );
  }
  if ((bytes.byteOffset + start) % 4 === 0) {
    return new Float32Array(bytes.buffer, bytes.byteOffset + start, layout.totalParams);
  }
  return new Float32Array(new Uint8Array(bytes.subarray(start)).buffer);
}

/** All parameters as one vector, tensors in the order of their names. @throws `invalid_input` as {@link encodeWeights} */
export function flatten(tensors: readonly NamedTensor[]): Float32Array {
  const out = new Float32Array(layoutOf(tensors).totalParams);
  flattenInto(tensors, out);
  return out;
}

/**
 * The tensors of a flat vector, as views over it.
 *
 * @throws `invalid_input` when the vector's length is not `layout.totalParams`
 */
export function unflatten(layout: ParameterLayout, flat: Float32Array): NamedTensor[] {
  requireLength(layout, flat);
  return layout.tensors.map(({ name, shape, offset, size }) => ({
    name,
    shape,
    data: flat.subarray(offset, offset + size),
  }));
}

/**
 * Turns any safetensors file of floats (F64, F32, F16, BF16; F64 is rounded) into weights, for models made elsewhere.
 *
 * @throws `corrupt_file` as {@link parseSafetensors}; `invalid_input` when a tensor holds something other than floats
 */
export function weightsFromSafetensors(bytes: Uint8Array, options: ParseOptions = {}): NamedTensor[] {
  return parseSafetensors(bytes, options)
    .tensors.map((tensor) => ({ name: tensor.name, shape: tensor.shape, data: toFloat32(tensor) }))
    .sort((a, b) => compareNames(a.name, b.name));
}

function toFloat32({ name, dtype, bytes }: RawTensor): Float32Array {
  // A copy of its own: aligned, and it does not keep the file alive.
  const own = new Uint8Array(bytes).buffer;
  if (dtype === 'F32') return new Float32Array(own);
  if (dtype === 'F64') return Float32Array.from(new Float64Array(own));
  if (dtype === 'F16') return float16ToFloat32(new Uint16Array(own));
  if (dtype === 'BF16') return bfloat16ToFloat32(new Uint16Array(own));
  throw new OctomilError('invalid_input', `tensor "${name}" is ${dtype}; weights are F64, F32, F16 or BF16`);
}

function flattenInto(tensors: readonly NamedTensor[], out: Float32Array): void {
  let position = 0;
  for (const { name, shape, data } of [...tensors].sort((a, b) => compareNames(a.name, b.name))) {
    if (data.length !== elementCount(shape)) {
      throw new OctomilError(
        'invalid_input',
        `tensor "${name}" of shape [${shape}] needs ${elementCount(shape)} values, got ${data.length}`,
      );
    }
    out.set(data, position);
    position += data.length;
  }
}

function requireLength(layout: ParameterLayout, flat: Float32Array): void {
  if (flat.length !== layout.totalParams) {
    throw new OctomilError(
      'invalid_input',
      `the vector has ${flat.length} values, the layout ${layout.totalParams} parameters`,
    );
  }
}
