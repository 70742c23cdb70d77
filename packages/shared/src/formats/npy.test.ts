import { expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import fc from 'fast-check';
import { readNpy, writeNpy } from './npy.js';

/** As numpy writes it, by hand. */
function npy(descr: string, shape: string, data: ArrayBufferView, fortran = false, version = 1): Uint8Array {
  const text = `{'descr': ${descr}, 'fortran_order': ${fortran ? 'True' : 'False'}, 'shape': ${shape}, }\n`;
  const head = Buffer.alloc(version === 1 ? 10 : 12);
  head.write('\x93NUMPY', 'latin1');
  head[6] = version;
  if (version === 1) head.writeUInt16LE(text.length, 8);
  else head.writeUInt32LE(text.length, 8);
  return Buffer.concat([head, Buffer.from(text), Buffer.from(data.buffer, data.byteOffset, data.byteLength)]);
}

test('a round trip of any shape and either width', () => {
  const shapes = fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 4 });
  fc.assert(
    fc.property(shapes, fc.boolean(), fc.infiniteStream(fc.float()), (shape, wide, numbers) => {
      const count = shape.reduce((total, size) => total * size, 1);
      const values = Array.from({ length: count }, () => numbers.next().value ?? 0);
      const data = wide ? Float64Array.from(values) : Float32Array.from(values);
      const read = readNpy(writeNpy({ shape, data }));
      expect(read).toEqual({ shape, dtype: wide ? 'f8' : 'f4', data });
    }),
  );
});

test('every number type, both byte orders', () => {
  const shape = '(3,)';
  for (const [descr, data] of [
    ['|b1', Uint8Array.of(0, 1, 1)],
    ['|i1', Int8Array.of(-128, 0, 127)],
    ['|u1', Uint8Array.of(0, 1, 255)],
    ['<i2', Int16Array.of(-32768, 0, 5)],
    ['<u2', Uint16Array.of(65535, 0, 5)],
    ['<i4', Int32Array.of(-(2 ** 31), 0, 5)],
    ['<u4', Uint32Array.of(2 ** 32 - 1, 0, 5)],
    ['<f4', Float32Array.of(1.5, -0, Number.NaN)],
    ['=f8', Float64Array.of(1.1, -0, Number.POSITIVE_INFINITY)],
  ] as const) {
    expect([...readNpy(npy(`'${descr}'`, shape, data)).data]).toEqual([...data]);
  }
  expect([...readNpy(npy("'<i8'", shape, BigInt64Array.of(-(2n ** 62n), 0n, 7n))).data]).toEqual([-(2 ** 62), 0, 7]);
  expect([...readNpy(npy("'<f2'", shape, Uint16Array.of(0x3c00, 0xc000, 0x3555))).data]).toEqual([
    1,
    -2,
    expect.closeTo(1 / 3, 3),
  ]);
  const big = Buffer.alloc(12);
  [1.5, -2, 0.25].forEach((value, index) => {
    big.writeFloatBE(value, index * 4);
  });
  for (const version of [1, 2, 3]) {
    expect([...readNpy(npy("'>f4'", shape, big, false, version)).data]).toEqual([1.5, -2, 0.25]);
  }
});

test('Fortran order becomes C order', () => {
  // numpy.asfortranarray(numpy.arange(12).reshape(2, 3, 2)) lies in memory as below.
  const data = Float32Array.of(0, 6, 2, 8, 4, 10, 1, 7, 3, 9, 5, 11);
  const read = readNpy(npy("'<f4'", '(2, 3, 2)', data, true));
  expect([...read.data]).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
});

test.each<[string, Uint8Array, RegExp]>([
  ['objects', npy("'|O'", '(1,)', Uint8Array.of(1)), /Python objects/],
  ['complex numbers', npy("'<c8'", '(1,)', new Uint8Array(8)), /no number type/],
  ['records', npy("[('a', '<f4')]", '(1,)', new Uint8Array(4)), /record/],
  [
    'more data claimed than there are',
    npy("'<f4'", '(1000000000000,)', new Uint8Array(4)),
    /needs 4000000000000 bytes/,
  ],
  ['trailing bytes', npy("'<f4'", '(1,)', new Uint8Array(5)), /the file has 5/],
  ['a negative size', npy("'<f4'", '(-1,)', new Uint8Array(4)), /lacks/],
  ['version 9', npy("'<f4'", '(1,)', new Uint8Array(4), false, 9), /version is 9/],
])('refused: %s', (_, file, message) => {
  expect(() => readNpy(file)).toThrow(message);
  expect(() => readNpy(file)).toThrow(expect.objectContaining({ code: 'corrupt_file' }));
});

test('whatever the bytes, the answer is an array or corrupt_file', () => {
  const valid = writeNpy({ shape: [2, 3], data: Float32Array.of(1, 2, 3, 4, 5, 6) });
  const damaged = fc
    .array(fc.tuple(fc.nat({ max: valid.length - 1 }), fc.nat({ max: 255 })), { minLength: 1, maxLength: 8 })
    .map((changes) => {
      const bytes = new Uint8Array(valid);
      for (const [place, value] of changes) bytes[place] = value;
      return bytes;
    });
  const cut = fc.nat({ max: valid.length }).map((length) => valid.subarray(0, length));
  fc.assert(
    fc.property(fc.oneof(damaged, cut, fc.uint8Array({ maxLength: 200 })), (bytes) => {
      try {
        readNpy(bytes);
      } catch (error) {
        expect(error).toBeInstanceOf(OctomilError);
        expect((error as OctomilError).code).toBe('corrupt_file');
      }
    }),
    { numRuns: 1_000 },
  );
});
