import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import { DATE_FORMATS } from '@octomil/shared/data';
import fc from 'fast-check';
import { encodedWidth } from './column-width.js';
import { encodeRows } from './encode.js';
import type { FeatureColumn, FeatureSpec, TargetSpec } from './feature-spec.js';
import { loadDataset } from './load-dataset.js';
import { sealFeatureSpec } from './spec-hash.js';

const folder = mkdtempSync(join(tmpdir(), 'octomil-kinds-'));
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
const plain = { missingMarkers: [], missingIndicator: true } as const;
const specOf = (columns: readonly FeatureColumn[]): FeatureSpec =>
  sealFeatureSpec({ formatVersion: 1, layout: 'table', columns, target });
const noHoldout = { salt: '', shareRatio: 0 };

const pain: FeatureColumn = {
  kind: 'ordinal',
  name: 'pain',
  levels: ['none', 'mild', 'severe'],
  values: 'text',
  mean: 1,
  deviation: 0.5,
  ...plain,
};
const grade: FeatureColumn = {
  kind: 'ordinal',
  name: 'grade',
  levels: ['1', '2', '3.5'],
  values: 'number',
  mean: 1,
  deviation: 1,
  ...plain,
  missingMarkers: [9],
};
const code: FeatureColumn = {
  kind: 'hashed',
  name: 'icd',
  buckets: 7,
  seed: 'octomil',
  ...plain,
  missingMarkers: ['x'],
};
const born: FeatureColumn = {
  kind: 'datetime',
  name: 'born',
  format: 'iso',
  parts: [{ part: 'years', mean: -50, deviation: 10 }],
  from: { column: 'admitted' },
  ...plain,
};
const admitted: FeatureColumn = {
  kind: 'datetime',
  name: 'admitted',
  format: 'iso',
  parts: [{ part: 'days', mean: 0, deviation: 100 }, { part: 'month' }, { part: 'weekday' }, { part: 'hour' }],
  from: '2020-01-01',
  ...plain,
};
const crp: FeatureColumn = {
  kind: 'numeric',
  name: 'crp',
  clip: [0, 500],
  scale: 'log1p',
  mean: 2,
  deviation: 1,
  ...plain,
};
const every = [pain, grade, code, born, admitted, crp];

test('each kind is encoded as its type says', () => {
  const first = (column: FeatureColumn, row: Record<string, unknown>) => {
    const spec = specOf([column]);
    return [...encodeRows(spec, [row])].map((value) => Number(value.toFixed(5)));
  };
  expect(first(pain, { Pain: ' Severe ' })).toEqual([2, 0]);
  expect(first(pain, { pain: 'awful' })).toEqual([0, 1]);
  expect(first(grade, { grade: '3.50' })).toEqual([1, 0]);
  expect(first(grade, { grade: 9 })).toEqual([0, 1]);
  // A Thursday in April at 18 h, 1,000 days before the reference less 18.5 hours.
  const dates = first(admitted, { admitted: '2017-04-06T18:30:00Z' });
  const angles = [Math.PI / 2, (6 / 7) * Math.PI, 1.5 * Math.PI];
  const cycles = angles.flatMap((angle) => [Math.sin(angle), Math.cos(angle)]);
  for (const [i, value] of [-9.99229, ...cycles, 0].entries()) expect(dates[i]).toBeCloseTo(value, 4);
  expect(first(born, { born: '1960-01-01', admitted: '2010-01-01' })[0]).toBeCloseTo(0, 3);
  expect(first(born, { born: '1960-01-01', admitted: null })).toEqual([0, 1]);
  expect(first(crp, { crp: 1e9 })[0]).toBeCloseTo(Math.log(501) - 2, 5);
  expect(first(crp, { crp: -4 })).toEqual([-2, 0]);
  const buckets = first(code, { icd: ' i21.9' });
  expect(buckets).toEqual(first(code, { icd: 'I21.9' }));
  expect(buckets.reduce((sum, one) => sum + one, 0)).toBe(1);
  expect(first(code, { icd: 'x' })).toEqual([0, 0, 0, 0, 0, 0, 0, 1]);
  // Fixed for good: a change would break every model that was trained before.
  expect(buckets.indexOf(1)).toBe(5);
});

test('what is no date, no code, or a raw time stamp is refused', () => {
  expect(() => encodeRows(specOf([admitted]), [{ admitted: '31.12.2020' }])).toThrow('no date such as 2020-12-31');
  expect(() => encodeRows(specOf([admitted]), [{ admitted: 1_577_836_800 }])).toThrow('no date');
  expect(() => encodeRows(specOf([admitted]), [{ admitted: '2021-02-30' }])).toThrow('no date');
  expect(() => encodeRows(specOf([code]), [{ icd: 1.5 }])).toThrow('no text or whole number');
});

test('aliases are taken where the name itself is not there', () => {
  const spec = specOf([{ ...pain, aliases: ['Schmerz'] }]);
  expect([...encodeRows(spec, [{ schmerz: 'mild', other: 1 }])]).toEqual([0, 0]);
  expect([...encodeRows(spec, [{ schmerz: 'mild', pain: 'severe' }])]).toEqual([2, 0]);
});

const absent = fc.constantFrom('', 'NA', '?', 'null', ' ');
const day = fc
  .date({ min: new Date('1900-01-01T00:00:00Z'), max: new Date('2100-01-01T00:00:00Z'), noInvalidDate: true })
  .map((date) => date.toISOString());
const dateText = fc.oneof(
  day,
  day.map((text) => text.slice(0, 10)),
  day.map((text) => text.slice(0, 16).replace('T', ' ')),
  day.map((text) => ` ${text.slice(0, 19)}+02:30`),
  day.map((text) => `${text.slice(0, 19)}-0500`),
  absent,
);
const row = fc.record({
  pain: fc.oneof(absent, fc.constantFrom('none', ' Mild', 'SEVERE', 'awful', 'é'), fc.string()),
  grade: fc.oneof(absent, fc.constantFrom('1', '2.0', '3.5', '4', '9', '9.0')),
  icd: fc.oneof(absent, fc.constantFrom('I21.9', ' i21.9 ', '01234', '1234', 'x', ' X', 'Köln'), fc.string()),
  born: dateText,
  admitted: dateText,
  crp: fc.oneof(absent, fc.double({ noNaN: true, noDefaultInfinity: true }).map(String), fc.constantFrom('0', '-3')),
});

test('a row given as an object is encoded as the same row of a CSV file, for every kind', async () => {
  const spec = specOf(every);
  await fc.assert(
    fc.asyncProperty(fc.array(row, { minLength: 1, maxLength: 60 }), async (rows) => {
      const path = join(folder, 'rows.csv');
      const quote = (cell: string) => `"${cell.replaceAll('"', '""')}"`;
      const lines = rows.map((cells) => [...Object.values(cells), '1'].map(quote).join(','));
      writeFileSync(path, `pain,grade,icd,born,admitted,crp,y\n${lines.join('\n')}\n`);
      const { train } = await loadDataset({ path, encoding: 'utf-8', delimiter: ',' }, spec, noHoldout);
      expect(train.rows).toBe(rows.length);
      expect(await train.readRange(0, train.rows)).toEqual(encodeRows(spec, rows));
      await train.close();
    }),
    { numRuns: 40 },
  );
});

test('dates in every declared format are read alike from files and rows', async () => {
  for (const format of DATE_FORMATS) {
    const column: FeatureColumn = { ...admitted, format };
    const spec = specOf([column]);
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(day, fc.boolean()), { minLength: 1, maxLength: 40 }), async (days) => {
        const rows = days.map(([text, withTime]) => {
          const [year, month, date] = text.slice(0, 10).split('-') as [string, string, string];
          const spelled =
            format === 'iso'
              ? text.slice(0, 10)
              : format.replace('yyyy', year).replace('mm', month).replace('dd', date);
          return { admitted: withTime ? `${spelled} ${text.slice(11, 19)}` : spelled };
        });
        const path = join(folder, 'dates.csv');
        writeFileSync(path, `admitted,y\n${rows.map((one) => `${one.admitted},1`).join('\n')}\n`);
        const { train } = await loadDataset({ path, delimiter: ',' }, spec, noHoldout);
        const expected = encodeRows(
          specOf([admitted]),
          days.map(([text, withTime]) => ({
            admitted: withTime ? text.slice(0, 19) : text.slice(0, 10),
          })),
        );
        expect(await train.readRange(0, train.rows)).toEqual(expected);
        expect(encodeRows(spec, rows)).toEqual(expected);
      }),
      { numRuns: 5 },
    );
  }
});

test('a row given as an object is encoded as the same row of a Parquet file, with types of its own', async () => {
  const { DuckDBInstance } = await import('@duckdb/node-api');
  const path = join(folder, 'typed.parquet');
  const instance = await DuckDBInstance.create(':memory:');
  const connection = await instance.connect();
  const rows = Array.from({ length: 40 }, (_, i) => ({
    pain: ['none', 'Mild', 'severe', 'awful', null][i % 5] ?? null,
    grade: i % 6 === 5 ? null : [1, 2, 3.5, 4, 9][i % 5],
    icd: i % 7 === 6 ? null : 1_234_567_890_123 * i,
    born: i % 8 === 7 ? null : `19${String(50 + i)}-0${1 + (i % 9)}-1${i % 10}`,
    admitted: `2021-0${1 + (i % 9)}-2${i % 9}T1${i % 10}:30:15.25Z`,
    crp: i % 9 === 8 ? null : i * i * 3.25,
  }));
  const sql = (value: unknown) =>
    value === null ? 'NULL' : typeof value === 'number' ? String(value) : `'${String(value)}'`;
  const tuples = rows.map((one) => `(${Object.values(one).map(sql).join(', ')}, 1)`);
  await connection.run("SET TimeZone='America/New_York'");
  await connection.run(
    `COPY (SELECT pain, grade::DOUBLE AS grade, icd::BIGINT AS icd, born::DATE AS born, admitted::TIMESTAMPTZ AS admitted, crp::FLOAT AS crp, y FROM (VALUES ${tuples.join(', ')}) t(pain, grade, icd, born, admitted, crp, y)) TO '${path}' (FORMAT parquet)`,
  );
  connection.closeSync();
  instance.closeSync();
  const spec = specOf(every);
  const { train } = await loadDataset({ path }, spec, noHoldout);
  expect(train.rows).toBe(rows.length);
  expect(train.width).toBe(encodedWidth(spec));
  expect(await train.readRange(0, train.rows)).toEqual(encodeRows(spec, rows));
});
