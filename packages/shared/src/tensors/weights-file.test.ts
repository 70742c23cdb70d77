import { closeSync, openSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import fc from 'fast-check';
import {
  layoutOf,
  locateParameter,
  type ParameterLayout,
  parseLayout,
  readLayout,
  readLayoutSync,
  sameLayout,
  weightsFileBytes,
} from './parameter-layout.js';
import { elementCount, serializeSafetensors } from './safetensors.js';
import { decodeWeights, encodeFlat, encodeWeights, flatten, type NamedTensor, unflatten } from './weights-file.js';

const namedTensor = fc
  .tuple(fc.string(), fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 3 }))
  .filter(([name]) => name !== '__metadata__')
  .chain(([name, shape]) =>
    fc
      .array(fc.float(), { minLength: elementCount(shape), maxLength: elementCount(shape) })
      .map((values): NamedTensor => ({ name, shape, data: Float32Array.from(values) })),
  );
const models = fc.uniqueArray(namedTensor, { selector: (tensor) => tensor.name, maxLength: 6 });

test('encode and decode agree, sorted by name, and the data section is the flat vector', () => {
  fc.assert(
    fc.property(models, (tensors) => {
      const bytes = encodeWeights(tensors, { round: '3' });
      const sorted = [...tensors].sort((a, b) => (a.name < b.name ? -1 : 1));
      expect(decodeWeights(bytes)).toEqual(sorted);
      expect(encodeWeights([...tensors].reverse(), { round: '3' })).toEqual(bytes);
      const layout = parseLayout(bytes);
      expect(layout.headerBytes.length % 8).toBe(0);
      expect(layout).toEqual(layoutOf(tensors, { round: '3' }));
      expect(bytes.length).toBe(weightsFileBytes(layout));
      const flat = flatten(tensors);
      expect(new Float32Array(bytes.slice(layout.headerBytes.length).buffer)).toEqual(flat);
      expect(encodeFlat(layout, flat)).toEqual(bytes);
      expect(unflatten(layout, flat)).toEqual(sorted);
    }),
    { numRuns: 100 },
  );
});

test('bytes at an odd address are decoded as well', () => {
  const tensors = [{ name: 'w', shape: [3], data: Float32Array.of(1, 2, 3) }];
  const shifted = Buffer.concat([Buffer.alloc(1), encodeWeights(tensors)]).subarray(1);
  expect(decodeWeights(shifted)).toEqual(tensors);
  expect(parseLayout(shifted).headerBytes.buffer.byteLength).toBe(parseLayout(shifted).headerBytes.length);
});

test('mutated weights files are refused as corrupt_file, and never otherwise', () => {
  const edits = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 3 });
  fc.assert(
    fc.property(models, edits, (tensors, changes) => {
      const bytes = encodeWeights(tensors);
      for (const [at, value] of changes) bytes[at % bytes.length] = value;
      try {
        decodeWeights(bytes);
      } catch (error) {
        expect(error).toBeInstanceOf(OctomilError);
        expect((error as OctomilError).code).toBe('corrupt_file');
      }
    }),
    { numRuns: 500 },
  );
});

function layoutAtOnce(path: string): ParameterLayout {
  const descriptor = openSync(path, 'r');
  try {
    return readLayoutSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

test('a layout is read from the front of a file, and a file cut short is refused', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-layout-'));
  try {
    const bytes = encodeWeights([{ name: 'w', shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) }]);
    const path = join(folder, 'model.safetensors');
    await writeFile(path, bytes);
    expect(await readLayout(path)).toEqual(parseLayout(bytes));
    expect(layoutAtOnce(path)).toEqual(parseLayout(bytes));
    for (const length of [0, 5, 12, bytes.length - 1]) {
      await writeFile(path, bytes.subarray(0, length));
      await expect(readLayout(path)).rejects.toMatchObject({ code: 'corrupt_file' });
      expect(() => layoutAtOnce(path)).toThrow(expect.objectContaining({ code: 'corrupt_file' }));
    }
    // A header that is larger than what one read brings.
    const many = encodeWeights(
      Array.from({ length: 200 }, (_, index) => ({
        name: `tensor-${index}`,
        shape: [1],
        data: Float32Array.of(index),
      })),
    );
    await writeFile(path, many);
    expect(layoutAtOnce(path)).toEqual(parseLayout(many));
    await writeFile(path, many.subarray(0, 5_000));
    expect(() => layoutAtOnce(path)).toThrow(expect.objectContaining({ code: 'corrupt_file' }));
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('other types and another order are no weights file', () => {
  const half = serializeSafetensors([{ name: 'w', dtype: 'F16', shape: [1], bytes: new Uint8Array(2) }]);
  expect(() => parseLayout(half)).toThrow(/"w" is F16, expected F32/);
  const json = new TextEncoder().encode(
    '{"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
  );
  const unsorted = new Uint8Array(8 + json.length + 8);
  unsorted[0] = json.length;
  unsorted.set(json, 8);
  expect(() => parseLayout(unsorted)).toThrow(/"a" is stored after "b"/);
});

test('the first difference of two layouts is named with both shapes', () => {
  const base = layoutOf([
    { name: 'dense/bias', shape: [4] },
    { name: 'dense/kernel', shape: [3, 4] },
  ]);
  const kernel = { name: 'dense/kernel', shape: [3, 4] };
  expect(
    sameLayout(base, layoutOf([kernel, { name: 'dense/bias', shape: [4] }], { other: 'metadata' })),
  ).toBeUndefined();
  expect(sameLayout(base, layoutOf([kernel]))).toBe('tensor "dense/bias" of shape [4] is missing');
  expect(sameLayout(base, layoutOf([kernel, { name: 'dense/bias', shape: [2, 2] }]))).toBe(
    'tensor "dense/bias" has the shape [2,2], expected [4]',
  );
  expect(sameLayout(base, layoutOf([...base.tensors, { name: 'extra', shape: [] }]))).toBe(
    'tensor "extra" of shape [] is not part of the model',
  );
});

test('an element of the flat vector is found in its tensor', () => {
  const layout = layoutOf([
    { name: 'a', shape: [2] },
    { name: 'empty', shape: [0] },
    { name: 'z', shape: [3] },
  ]);
  expect(locateParameter(layout, 1)).toEqual({ name: 'a', element: 1 });
  expect(locateParameter(layout, 2)).toEqual({ name: 'z', element: 0 });
  expect(locateParameter(layout, 5)).toBeUndefined();
});

test('what cannot be encoded says which tensor and why', () => {
  const data = Float32Array.of(1, 2);
  expect(() => encodeWeights([{ name: 'w', shape: [3], data }])).toThrow(/"w" of shape \[3\] needs 3 values, got 2/);
  expect(() =>
    encodeWeights([
      { name: 'w', shape: [2], data },
      { name: 'w', shape: [2], data },
    ]),
  ).toThrow(/"w" is repeated/);
  expect(() => unflatten(layoutOf([{ name: 'w', shape: [3] }]), data)).toThrow(/2 values, the layout 3/);
});
