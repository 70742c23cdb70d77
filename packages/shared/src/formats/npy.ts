import { OctomilError } from '@octomil/shared/errors';
import { float16ToFloat32 } from '@octomil/shared/tensors';
import { bytesOf } from './byte-parts.js';

/** An array of numbers in C order, whatever order the file had. */
export interface NumberArray {
  readonly shape: readonly number[];
  /** The file's type without its byte order, such as `f4` or `i8`. */
  readonly dtype: string;
  /**
   * Float32 for types that it holds exactly (f2, f4, and integers of up to 16 bits); otherwise Float64, in which integers
   * of 64 bits are rounded beyond 2⁵³.
   */
  readonly data: Float32Array | Float64Array;
}

const MAGIC = '\x93NUMPY';
/** numpy reads headers of up to 10,000 characters unless told otherwise (`max_header_size`). */
const MAX_HEADER_BYTES = 64 * 1024;
const MAX_RANK = 64;

interface ElementType {
  readonly bytes: number;
  readonly exactInFloat32: boolean;
  /** Elements in the machine's order. The bytes are aligned. */
  readonly read: (bytes: Uint8Array) => ArrayLike<number> | BigInt64Array | BigUint64Array;
}

const type = (
  bytes: number,
  exactInFloat32: boolean,
  read: (buffer: ArrayBufferLike) => ReturnType<ElementType['read']>,
): ElementType => ({ bytes, exactInFloat32, read: (own) => read(own.buffer) });

const TYPES: Readonly<Record<string, ElementType>> = {
  b1: type(1, true, (buffer) => new Uint8Array(buffer)),
  i1: type(1, true, (buffer) => new Int8Array(buffer)),
  u1: type(1, true, (buffer) => new Uint8Array(buffer)),
  i2: type(2, true, (buffer) => new Int16Array(buffer)),
  u2: type(2, true, (buffer) => new Uint16Array(buffer)),
  f2: type(2, true, (buffer) => float16ToFloat32(new Uint16Array(buffer))),
  i4: type(4, false, (buffer) => new Int32Array(buffer)),
  u4: type(4, false, (buffer) => new Uint32Array(buffer)),
  f4: type(4, true, (buffer) => new Float32Array(buffer)),
  i8: type(8, false, (buffer) => new BigInt64Array(buffer)),
  u8: type(8, false, (buffer) => new BigUint64Array(buffer)),
  f8: type(8, false, (buffer) => new Float64Array(buffer)),
};

/**
 * Reads a `.npy` file of numbers (numpy's `format.py`, versions 1.0 to 3.0), in C or Fortran order, of either byte order.
 * Everything is checked against the file's length before memory is set aside.
 *
 * @throws OctomilError `corrupt_file`, also for arrays of objects (these are pickles), records, text and complex numbers
 */
export function readNpy(file: Uint8Array): NumberArray {
  const { header, dataOffset } = readHeader(file);
  const { descr, fortranOrder, shape } = parseHeaderText(header);
  const [, order = '', name = ''] = /^([<>=|]?)([a-zA-Z]\d{0,4})/.exec(descr) ?? [];
  const element = Object.hasOwn(TYPES, name) && descr === order + name ? TYPES[name] : undefined;
  if (element === undefined) {
    const why = name.startsWith('O') ? 'it holds Python objects, which are never unpickled' : 'it is no number type';
    throw corrupt(`its type is ${quote(descr)}: ${why}; supported are ${Object.keys(TYPES).join(', ')}`);
  }
  const count = shape.reduce((total, size) => total * size, 1);
  const dataBytes = file.length - dataOffset;
  if (!Number.isSafeInteger(count) || count * element.bytes !== dataBytes) {
    throw corrupt(
      `shape (${shape.join(', ')}) of type ${quote(descr)} needs ${count * element.bytes} bytes of data, the file has ${dataBytes}`,
    );
  }
  // A copy of its own: aligned, and it does not keep the file alive.
  const own = new Uint8Array(file.subarray(dataOffset));
  if (order === '>') swapBytes(own, element.bytes);
  const values = element.read(own);
  const inC = fortranOrder ? fromFortranOrder<number | bigint>(values, shape) : values;
  return { shape, dtype: name, data: element.exactInFloat32 ? asFloat32(inC) : asFloat64(inC) };
}

/** Writes a `.npy` file (version 1.0, C order): `<f4` for Float32Array, `<f8` for Float64Array. */
export function writeNpy(array: { shape: readonly number[]; data: Float32Array | Float64Array }): Uint8Array {
  const header = npyHeader(array);
  const out = new Uint8Array(header.length + array.data.byteLength);
  out.set(header);
  out.set(bytesOf(array.data), header.length);
  return out;
}

/** Everything before the data. @throws OctomilError `invalid_input` when the data do not fill the shape */
export function npyHeader({
  shape,
  data,
}: {
  shape: readonly number[];
  data: Float32Array | Float64Array;
}): Uint8Array {
  const count = shape.reduce((total, size) => total * size, 1);
  if (count !== data.length) {
    throw new OctomilError('invalid_input', `shape [${shape}] needs ${count} values, got ${data.length}`);
  }
  const descr = data instanceof Float32Array ? '<f4' : '<f8';
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`;
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': ${tuple}, }`;
  // The data begin at a multiple of 64, after the line feed that ends the header.
  const total = Math.ceil((10 + text.length + 1) / 64) * 64;
  const out = Buffer.alloc(total, ' ');
  out.write(MAGIC, 'latin1');
  out.writeUInt8(1, 6);
  out.writeUInt8(0, 7);
  out.writeUInt16LE(total - 10, 8);
  out.write(text, 10, 'latin1');
  out.write('\n', total - 1, 'latin1');
  return out;
}

function readHeader(file: Uint8Array): { header: string; dataOffset: number } {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < 10 || Buffer.from(file.subarray(0, 6)).toString('latin1') !== MAGIC) {
    throw corrupt('it does not begin with \\x93NUMPY');
  }
  const major = view.getUint8(6);
  if (major < 1 || major > 3) throw corrupt(`its version is ${major}; 1 to 3 are known`);
  if (major > 1 && file.length < 12) throw corrupt('it ends inside its header');
  const start = major === 1 ? 10 : 12;
  const length = major === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  if (length > MAX_HEADER_BYTES) throw corrupt(`its header claims ${length} bytes; the limit is ${MAX_HEADER_BYTES}`);
  if (start + length > file.length) throw corrupt(`its header claims ${length} bytes, ${file.length - start} follow`);
  const bytes = file.subarray(start, start + length);
  return { header: Buffer.from(bytes).toString(major === 3 ? 'utf8' : 'latin1'), dataOffset: start + length };
}

/** The header is a Python dictionary of three entries; anything else in it is refused rather than understood. */
function parseHeaderText(text: string): { descr: string; fortranOrder: boolean; shape: number[] } {
  const body = /^\s*\{(.*)\}\s*$/s.exec(text)?.[1];
  if (body === undefined) throw corrupt(`its header is no dictionary: ${quote(text)}`);
  const descr = /(?:^|,)\s*['"]descr['"]\s*:\s*(?:'([^']*)'|"([^"]*)"|\[)/.exec(body);
  const order = /(?:^|,)\s*['"]fortran_order['"]\s*:\s*(True|False)\s*(?:,|$)/.exec(body);
  const shape = /(?:^|,)\s*['"]shape['"]\s*:\s*\(([\d,\sL]*)\)\s*(?:,|$)/.exec(body);
  if (descr === null || order === null || shape === null) {
    throw corrupt(`its header lacks descr, fortran_order or shape: ${quote(text)}`);
  }
  const name = descr[1] ?? descr[2];
  if (name === undefined) throw corrupt('its type is a record of several fields; one number per element is supported');
  const sizes = (shape[1] ?? '').split(',').map((size) => size.trim().replace(/L$/, ''));
  if (sizes.at(-1) === '') sizes.pop();
  if (sizes.length > MAX_RANK) throw corrupt(`its shape has ${sizes.length} dimensions; the limit is ${MAX_RANK}`);
  const numbers = sizes.map(Number);
  if (sizes.includes('') || !numbers.every((size) => Number.isSafeInteger(size) && size >= 0)) {
    throw corrupt(`its shape is (${quote(shape[1])})`);
  }
  return { descr: name, fortranOrder: order[1] === 'True', shape: numbers };
}

function swapBytes(bytes: Uint8Array, width: number): void {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (width === 2) view.swap16();
  else if (width === 4) view.swap32();
  else if (width === 8) view.swap64();
}

/** Element (i, j, k) lies at i + j·n₀ + k·n₀·n₁; it is to lie at (i·n₁ + j)·n₂ + k. */
function fromFortranOrder<T extends number | bigint>(
  values: ArrayLike<T>,
  shape: readonly number[],
): T[] | ArrayLike<T> {
  if (shape.length < 2 || values.length === 0) return values;
  const out = new Array<T>(values.length);
  const place = new Array<number>(shape.length).fill(0);
  const strides: number[] = [];
  shape.reduce((stride, size) => {
    strides.push(stride);
    return stride * size;
  }, 1);
  let source = 0;
  for (let target = 0; target < values.length; target++) {
    out[target] = values[source] as T;
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

function asFloat32(values: ArrayLike<number | bigint>): Float32Array {
  return values instanceof Float32Array ? values : Float32Array.from(values, Number);
}

function asFloat64(values: ArrayLike<number | bigint>): Float64Array {
  return values instanceof Float64Array ? values : Float64Array.from(values, Number);
}

function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? 'undefined';
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

function corrupt(reason: string): OctomilError {
  return new OctomilError('corrupt_file', `not a usable .npy file: ${reason}`);
}
