import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { encodeWeights, layoutOf, type ParameterLayout } from '@octomil/shared/tensors';
import fc from 'fast-check';
import type { UpdateMeasure } from './aggregation-job.js';
import { validateUpdate, validateUpdateBytes } from './validate-update.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'octomil-validate-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const layout = layoutOf([
  { name: 'bias', shape: [2] },
  { name: 'kernel', shape: [2, 3] },
]);
const update = (values: readonly number[]): Uint8Array =>
  encodeWeights([
    { name: 'bias', shape: [2], data: Float32Array.from(values.slice(0, 2)) },
    { name: 'kernel', shape: [2, 3], data: Float32Array.from(values.slice(2)) },
  ]);

/** Both ways of looking at an update answer alike. */
const WAYS: [string, (bytes: Uint8Array, expected: ParameterLayout) => Promise<UpdateMeasure>][] = [
  ['in memory', async (bytes, expected) => validateUpdateBytes(bytes, expected)],
  [
    'in a file',
    async (bytes, expected) => {
      const path = join(folder, 'update.safetensors');
      writeFileSync(path, bytes);
      return await validateUpdate({ path, layout: expected });
    },
  ],
];

test.each(WAYS)('an update %s is measured', async (_way, validate) => {
  const vector = fc.array(fc.float({ noNaN: true, noDefaultInfinity: true, min: -1e6, max: 1e6 }), {
    minLength: 8,
    maxLength: 8,
  });
  await fc.assert(
    fc.asyncProperty(vector, async (values) => {
      const bytes = update(values);
      const measure = await validate(bytes, layout);
      expect(measure.sizeBytes).toBe(bytes.length);
      expect(measure.maxAbs).toBe(Math.max(...values.map(Math.abs)));
      const norm = Math.hypot(...values);
      expect(Math.abs(measure.normL2 - norm)).toBeLessThanOrEqual(norm * 1e-12);
    }),
    { numRuns: 25 },
  );
});

test.each(WAYS)('a wrong update %s is rejected with the place', async (_way, validate) => {
  const good = [1, 2, 3, 4, 5, 6, 7, 8];
  await expect(validate(update(good.with(4, Number.NEGATIVE_INFINITY)), layout)).rejects.toMatchObject({
    code: 'update_rejected',
    message: expect.stringContaining('-Infinity at element 2 of tensor "kernel"'),
  });
  const other = layoutOf([
    { name: 'kernel', shape: [2, 3] },
    { name: 'bias', shape: [3] },
  ]);
  await expect(validate(update(good), other)).rejects.toThrow(
    /update_rejected.*"bias" has the shape \[2\], expected \[3\]/,
  );
  await expect(validate(update(good).subarray(0, -4), layout)).rejects.toThrow(/update_rejected/);
  await expect(validate(new Uint8Array(3), layout)).rejects.toThrow(/update_rejected.*3 bytes/);
});

test('a large update is measured alike in memory and in a file, and its last value is looked at', async () => {
  const size = 300_001;
  const big = layoutOf([{ name: 'w', shape: [size] }]);
  const data = Float32Array.from({ length: size }, (_, index) => Math.sin(index));
  const bytes = encodeWeights([{ name: 'w', shape: [size], data }]);
  const results = [];
  for (const [, validate] of WAYS) results.push(await validate(bytes, big));
  expect(results[0]).toEqual(results[1]);
  expect(results[0]?.normL2).toBeCloseTo(Math.sqrt(size / 2), 0);
  const spoiled = encodeWeights([{ name: 'w', shape: [size], data: data.with(size - 1, Number.NaN) }]);
  for (const [, validate] of WAYS) await expect(validate(spoiled, big)).rejects.toThrow(/NaN at element 300000/);
});
