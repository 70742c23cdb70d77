import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { columnWidth, encodedWidth } from './column-width.js';
import { encodeRows } from './encode.js';
import type { FeatureColumn, FeatureSpec, TargetSpec } from './feature-spec.js';
import { loadDataset } from './load-dataset.js';
import { sealFeatureSpec } from './spec-hash.js';

const folder = mkdtempSync(join(tmpdir(), 'octomil-encode-'));
afterAll(() => rmSync(folder, { recursive: true }));

const target: TargetSpec = {
  rule: { column: 'y', comparison: '>', value: 0 },
  output: { kind: 'binary' },
  classes: [],
  values: 'number',
  mean: 0,
  deviation: 1,
  missingMarkers: [],
};
const columns: readonly FeatureColumn[] = [
  { kind: 'numeric', name: 'Chol', mean: 240.123, deviation: 51.7, missingMarkers: [0], missingIndicator: true },
  { kind: 'numeric', name: 'age', mean: 54.5, deviation: 0.3, missingMarkers: ['old'], missingIndicator: false },
  { kind: 'boolean', name: 'smoker', mean: 0.4, deviation: 0.5, missingMarkers: ['no idea'], missingIndicator: true },
  {
    kind: 'categorical',
    name: 'ward',
    levels: ['east', 'köln'],
    values: 'text',
    missingMarkers: ['x'],
    missingIndicator: true,
  },
  {
    kind: 'categorical',
    name: 'grade',
    levels: ['1', '2.5'],
    values: 'number',
    missingMarkers: [9],
    missingIndicator: false,
  },
];
const spec: FeatureSpec = sealFeatureSpec({ formatVersion: 1, layout: 'table', columns, target });

test('each kind is encoded as its type says', () => {
  expect(columns.map(columnWidth)).toEqual([2, 1, 2, 4, 3]);
  const encoded = encodeRows(spec, [
    { chol: 291.823, AGE: 54.8, smoker: 'Yes', ward: ' East ', grade: 2.5 },
    { chol: 0, age: 'old', smoker: null, ward: 'X', grade: 9 },
    { chol: 1e9, age: -1e9, smoker: false, ward: 'west', grade: 'b' },
  ]);
  const expected = [
    [1, 0, 1, 1.2, 0, 1, 0, 0, 0, 0, 1, 0],
    [0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0],
    [10, 0, -10, -0.8, 0, 0, 0, 1, 0, 0, 0, 1],
  ].flat();
  expect(encoded.length).toBe(3 * encodedWidth(spec));
  for (const [i, value] of expected.entries()) expect(encoded[i]).toBeCloseTo(value, 5);
});

test('text in a column of numbers, nested values and rows of something else are refused', () => {
  expect(() => encodeRows(spec, [{ chol: 'high' }])).toThrow('"Chol" is no finite number');
  expect(() => encodeRows(spec, [{ chol: Number.POSITIVE_INFINITY }])).toThrow('no finite number');
  expect(() => encodeRows(spec, [{ chol: [1] }])).toThrow('a list');
  expect(() => encodeRows(spec, [{ weight: 1 }])).toThrow('none of the model');
});

const spacing = fc.constantFrom('', ' ', '  ', '\t', '\u00a0');
const spaced = (cell: fc.Arbitrary<string>) => fc.tuple(spacing, cell, spacing).map((parts) => parts.join(''));
const absent = fc.constantFrom('', 'NA', '?', 'null', 'NaN', 'None', '.');
const numeral = fc.oneof(
  fc.double({ noNaN: true, noDefaultInfinity: true, min: -1e30, max: 1e30 }).map(String),
  fc.integer().map(String),
  fc.constantFrom('0', '0.0', '-0', '.5', '5.', '+3', '1e3', '007', '1_000', '9'),
);
const row = fc.record({
  Chol: spaced(fc.oneof(numeral, absent)),
  age: spaced(fc.oneof(numeral, absent, fc.constantFrom('old', 'OLD'))),
  smoker: spaced(
    fc.oneof(absent, fc.constantFrom('yes', 'Y', 'TRUE', '1', '1.0', 'no', 'n', '0', 'false', 'no idea', '2')),
  ),
  ward: spaced(
    fc.oneof(absent, fc.constantFrom('East', 'Köln', 'köln', 'KÖLN', 'x', 'X', 'west', 'İ', 'Σ'), fc.string()),
  ),
  grade: spaced(fc.oneof(numeral, absent, fc.constantFrom('1', '1.0', '2.5', '2.50', '9', 'b'))),
});

test('a row given as an object is encoded as the same row of a file', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(row, { minLength: 1, maxLength: 60 }), async (rows) => {
      const path = join(folder, 'rows.csv');
      const quote = (cell: string) => `"${cell.replaceAll('"', '""')}"`;
      const lines = rows.map((cells) => [...Object.values(cells), '1'].map(quote).join(','));
      writeFileSync(path, `chol,age,smoker,ward,grade,y\n${lines.join('\n')}\n`);
      const { train } = await loadDataset({ path, encoding: 'utf-8', delimiter: ',' }, spec, {
        salt: '',
        shareRatio: 0,
      });
      expect(train.rows).toBe(rows.length);
      expect(await train.readRange(0, train.rows)).toEqual(encodeRows(spec, rows));
    }),
    { numRuns: 40 },
  );
});
