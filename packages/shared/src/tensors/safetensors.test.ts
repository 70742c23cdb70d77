import { expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import fc from 'fast-check';
import { DTYPE_BYTES, type Dtype } from './dtypes.js';
import { bfloat16ToFloat32, float16ToFloat32 } from './half-floats.js';
import { elementCount, parseSafetensors, type RawTensor, serializeSafetensors } from './safetensors.js';
import { weightsFromSafetensors } from './weights-file.js';

const shapes = fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 3 });
const rawTensor = fc
  .tuple(fc.string({ unit: 'grapheme' }), fc.constantFrom(...(Object.keys(DTYPE_BYTES) as Dtype[])), shapes)
  .filter(([name]) => name !== '__metadata__')
  .chain(([name, dtype, shape]) => {
    const length = elementCount(shape) * DTYPE_BYTES[dtype];
    return fc
      .uint8Array({ minLength: length, maxLength: length })
      .map((bytes): RawTensor => ({ name, dtype, shape, bytes }));
  });
const files = fc.tuple(
  fc.uniqueArray(rawTensor, { selector: (tensor) => tensor.name, maxLength: 5 }),
  fc.dictionary(fc.string(), fc.string(), { maxKeys: 2 }),
);

/** A file with this header, written by hand, and so many bytes of data. */
function fileOf(header: unknown, dataBytes: number): Uint8Array {
  const json = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header));
  const out = new Uint8Array(8 + json.length + dataBytes);
  new DataView(out.buffer).setBigUint64(0, BigInt(json.length), true);
  out.set(json, 8);
  return out;
}

function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof OctomilError) return error.code;
    throw error;
  }
  return 'nothing was thrown';
}

test('what is written is read back, whatever the types, shapes and names', () => {
  fc.assert(
    fc.property(files, ([tensors, metadata]) => {
      const parsed = parseSafetensors(serializeSafetensors(tensors, metadata));
      expect(parsed.metadata).toEqual({ ...metadata });
      const byName = new Map(parsed.tensors.map((tensor) => [tensor.name, tensor]));
      expect(byName.size).toBe(tensors.length);
      for (const tensor of tensors) {
        const back = byName.get(tensor.name);
        expect({ ...back, bytes: [...(back?.bytes ?? [])] }).toEqual({ ...tensor, bytes: [...tensor.bytes] });
      }
    }),
    { numRuns: 150 },
  );
});

test('the bytes do not depend on the order of the tensors', () => {
  fc.assert(
    fc.property(files, ([tensors]) => {
      expect(serializeSafetensors([...tensors].reverse())).toEqual(serializeSafetensors(tensors));
    }),
    { numRuns: 50 },
  );
});

test('random bytes and mutated files are refused as corrupt_file, and never otherwise', () => {
  const mutated = fc
    .tuple(files, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 }), fc.nat(20))
    .map(([[tensors, metadata], edits, cut]) => {
      const bytes = serializeSafetensors(tensors, metadata);
      for (const [at, value] of edits) bytes[at % bytes.length] = value;
      return bytes.subarray(0, bytes.length - (cut > 10 ? cut - 10 : 0));
    });
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), mutated), (bytes) => {
      const code = codeOf(() => parseSafetensors(bytes));
      expect(['corrupt_file', 'nothing was thrown']).toContain(code);
    }),
    { numRuns: 1500 },
  );
});

test('JSON headers of odd shape are refused as corrupt_file', () => {
  const entry = fc.record(
    {
      dtype: fc.oneof(fc.constantFrom('F32', 'U8', 'F4', '__proto__'), fc.jsonValue()),
      shape: fc.oneof(fc.array(fc.oneof(fc.integer(), fc.double(), fc.constant(2 ** 53 - 1))), fc.jsonValue()),
      data_offsets: fc.oneof(fc.tuple(fc.integer(), fc.integer()), fc.jsonValue()),
    },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(
      fc.dictionary(fc.string(), fc.oneof(entry, fc.jsonValue()), { minKeys: 1 }),
      fc.nat(16),
      (header, size) => {
        const code = codeOf(() => parseSafetensors(fileOf(header, size)));
        expect(['corrupt_file', 'nothing was thrown']).toContain(code);
      },
    ),
    { numRuns: 500 },
  );
});

test.each([
  [
    'an overlap',
    { a: { dtype: 'U8', shape: [4], data_offsets: [0, 4] }, b: { dtype: 'U8', shape: [4], data_offsets: [2, 6] } },
    6,
  ],
  [
    'a hole',
    { a: { dtype: 'U8', shape: [2], data_offsets: [0, 2] }, b: { dtype: 'U8', shape: [2], data_offsets: [4, 6] } },
    6,
  ],
  ['a hole at the start', { a: { dtype: 'U8', shape: [2], data_offsets: [1, 3] } }, 3],
  ['data beyond the file', { a: { dtype: 'U8', shape: [9], data_offsets: [0, 9] } }, 8],
  ['data that nobody names', { a: { dtype: 'U8', shape: [2], data_offsets: [0, 2] } }, 3],
  ['a shape that does not fill its bytes', { a: { dtype: 'F32', shape: [2], data_offsets: [0, 4] } }, 4],
  ['a product beyond 2^53', { a: { dtype: 'U8', shape: [2 ** 40, 2 ** 40], data_offsets: [0, 4] } }, 4],
  ['a negative dimension', { a: { dtype: 'U8', shape: [-1, -4], data_offsets: [0, 4] } }, 4],
  ['a fraction', { a: { dtype: 'U8', shape: [1.5], data_offsets: [0, 1.5] } }, 2],
  ['an array as header', [], 0],
  ['an end before the begin', { a: { dtype: 'U8', shape: [0], data_offsets: [4, 0] } }, 4],
])('%s is refused', (_what, header, dataBytes) => {
  expect(codeOf(() => parseSafetensors(fileOf(header, dataBytes)))).toBe('corrupt_file');
});

test('a header longer than the limit is refused before it is read, naming both numbers', () => {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, 2n ** 62n, true);
  expect(() => parseSafetensors(bytes)).toThrow(/46116860184\d+ bytes; the limit is 8388608/);
  expect(() => parseSafetensors(serializeSafetensors([]), { maxHeaderBytes: 4 })).toThrow(/limit is 4/);
});

test('a reserved or repeated name cannot be written', () => {
  const tensor = { dtype: 'U8' as const, shape: [1], bytes: new Uint8Array(1) };
  expect(codeOf(() => serializeSafetensors([{ ...tensor, name: '__metadata__' }]))).toBe('invalid_input');
  expect(
    codeOf(() =>
      serializeSafetensors([
        { ...tensor, name: 'a' },
        { ...tensor, name: 'a' },
      ]),
    ),
  ).toBe('invalid_input');
});

test('half floats become the numbers they stand for', () => {
  const float16 = [0x0000, 0x8000, 0x3c00, 0xc000, 0x7bff, 0x0001, 0x03ff, 0x0400, 0x3555, 0x7c00, 0xfc00];
  expect([...float16ToFloat32(Uint16Array.from(float16))]).toEqual([
    0,
    -0,
    1,
    -2,
    65504,
    2 ** -24,
    1023 * 2 ** -24,
    2 ** -14,
    0.333251953125,
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
  ]);
  expect(float16ToFloat32(Uint16Array.of(0x7e00))[0]).toBeNaN();
  expect([...bfloat16ToFloat32(Uint16Array.of(0x3f80, 0xc040, 0x8000))]).toEqual([1, -3, -0]);
  expect(bfloat16ToFloat32(Uint16Array.of(0x7fc0))[0]).toBeNaN();
});

test('floats of every width become weights, sorted by name; integers are refused by name', () => {
  const bytes = (typed: ArrayBufferView): Uint8Array =>
    new Uint8Array(typed.buffer.slice(typed.byteOffset, typed.byteOffset + typed.byteLength) as ArrayBuffer);
  const file = serializeSafetensors([
    { name: 'd', dtype: 'F64', shape: [1], bytes: bytes(Float64Array.of(0.1)) },
    { name: 'c', dtype: 'F16', shape: [1], bytes: bytes(Uint16Array.of(0x3c00)) },
    { name: 'b', dtype: 'BF16', shape: [], bytes: bytes(Uint16Array.of(0x4000)) },
    { name: 'a', dtype: 'F32', shape: [1, 1], bytes: bytes(Float32Array.of(3)) },
  ]);
  // A view at an odd place, as after a framing prefix.
  const shifted = Buffer.concat([Buffer.alloc(1), file]).subarray(1);
  const weights = weightsFromSafetensors(shifted);
  expect(weights.map(({ name, shape, data }) => [name, shape, [...data]])).toEqual([
    ['a', [1, 1], [3]],
    ['b', [], [2]],
    ['c', [1], [1]],
    ['d', [1], [Math.fround(0.1)]],
  ]);
  const integers = serializeSafetensors([{ name: 'ids', dtype: 'I64', shape: [1], bytes: new Uint8Array(8) }]);
  expect(() => weightsFromSafetensors(integers)).toThrow(/"ids" is I64/);
});
