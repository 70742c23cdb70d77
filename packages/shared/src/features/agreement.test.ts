import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import { DATE_FORMATS } from '@octomil/shared/data';
import { toOctomilError } from '@octomil/shared/errors';
import fc from 'fast-check';
import { encodeRows } from './encode.js';
import type { FeatureColumn } from './feature-spec.js';
import { loadDataset } from './load-dataset.js';
import { sealFeatureSpec } from './spec-hash.js';

const folder = mkdtempSync(join(tmpdir(), 'octomil-agree-'));
afterAll(() => rmSync(folder, { recursive: true }));

const target = {
  rule: { column: 'y', comparison: '>', value: 0 },
  output: { kind: 'binary' },
  classes: [],
  values: 'number',
  mean: 0,
  deviation: 1,
  missingMarkers: [],
} as const;
const plain = { name: 'a', missingIndicator: true } as const;
const scaling = { mean: 1, deviation: 2 } as const;

const marker = fc.constantFrom<string | number>(
  'x',
  ' X ',
  '9',
  9,
  '-9.0',
  'Köln',
  '2020-01-01',
  'true',
  'NA',
  '01',
  '1',
);
const markers = fc.uniqueArray(marker, { maxLength: 3 });
const column: fc.Arbitrary<FeatureColumn> = fc.oneof(
  fc.record({ missingMarkers: markers, log: fc.boolean(), clip: fc.boolean() }).map(
    ({ missingMarkers, log, clip }): FeatureColumn => ({
      kind: 'numeric',
      ...plain,
      ...scaling,
      missingMarkers,
      ...(log ? { scale: 'log1p' as const } : {}),
      ...(clip ? { clip: [-3, 4] as const } : {}),
    }),
  ),
  markers.map((missingMarkers): FeatureColumn => ({ kind: 'boolean', ...plain, ...scaling, missingMarkers })),
  fc.record({ missingMarkers: markers, ordinal: fc.boolean(), numbers: fc.boolean() }).map(
    ({ missingMarkers, ordinal, numbers }): FeatureColumn => ({
      ...(ordinal ? { kind: 'ordinal', ...scaling } : { kind: 'categorical' }),
      ...plain,
      missingMarkers,
      levels: numbers ? ['1', '2.5', '0'] : ['1', 'köln', 'true', 'x', '2.5', '2020-01-01'],
      values: numbers ? 'number' : 'text',
    }),
  ),
  markers.map(
    (missingMarkers): FeatureColumn => ({ kind: 'hashed', ...plain, missingMarkers, buckets: 50, seed: 's' }),
  ),
  fc.record({ missingMarkers: markers, format: fc.constantFrom(...DATE_FORMATS) }).map(
    ({ missingMarkers, format }): FeatureColumn => ({
      kind: 'datetime',
      ...plain,
      format,
      missingMarkers,
      parts: [{ part: 'years', mean: 0, deviation: 300 }, { part: 'month' }, { part: 'weekday' }, { part: 'hour' }],
      from: '2020-01-01',
    }),
  ),
);

const two = fc.integer({ min: 0, max: 70 }).map((value) => String(value).padStart(2, '0'));
const year = fc.constantFrom('0000', '0001', '0099', '1899', '1900', '2000', '2020', '2024', '9999', '99', '20200');
const oddDate = fc
  .tuple(
    year,
    fc.constantFrom('0', '1', '01', '02', '2', '12', '13'),
    fc.constantFrom('0', '01', '1', '28', '29', '30', '31', '32'),
  )
  .chain(([y, m, d]) =>
    fc.tuple(
      fc.constantFrom(
        `${y}-${m}-${d}`,
        `${d}.${m}.${y}`,
        `${d}/${m}/${y}`,
        `${m}/${d}/${y}`,
        `${y}/${m}/${d}`,
        `${y}${m}${d}`,
      ),
      fc.oneof(
        { weight: 3, arbitrary: fc.constant('') },
        fc
          .tuple(
            fc.constantFrom('T', ' ', 't', '  '),
            two,
            two,
            fc.option(two),
            fc.constantFrom('', '.', '.1', '.123456789', '.1234567890'),
            fc.constantFrom('', 'Z', ' z', '+01', '+0130', '-23:59', '+24:00', ' +02:30', '+2'),
          )
          .map(([gap, h, min, s, fraction, zone]) => `${gap}${h}:${min}${s === null ? '' : `:${s}${fraction}`}${zone}`),
      ),
      fc.constantFrom('', ' ', '\t', '\u00a0', '\u2003'),
    ),
  )
  .map(([date, time, space]) => `${space}${date}${time}${space}`);
const oddNumber = fc.constantFrom(
  '1',
  '01',
  '+1',
  '-0',
  '1e0',
  '1.',
  '.5',
  '1e400',
  '-1e400',
  'inf',
  '-Infinity',
  'nan',
  '-NaN',
  '1_0',
  '0x10',
  '１',
  '9.0',
  '-9',
  '1,5',
  '1 000',
  '1e-400',
  '--1',
  '1e',
  'Infinity',
  '2.50',
  '1.0',
);
const oddText = fc.constantFrom(
  'TRUE',
  'Yes',
  'N',
  'no',
  'İ',
  'ß',
  'SS',
  'ſ',
  'K',
  'Σς',
  'KÖLN',
  'Ko\u0308ln',
  'x',
  'X',
  '\u200bx',
  'NULL',
  'n/a',
  '-',
  '.',
  '\ufeff1',
  'a\nb',
  '"',
  "'",
  ',',
  '',
  '\u0000',
);
const cell = fc.oneof(
  { weight: 3, arbitrary: oddDate },
  oddNumber,
  oddText,
  fc.string({ unit: 'grapheme', maxLength: 5 }),
);

async function outcome(act: () => Promise<Float32Array> | Float32Array): Promise<string> {
  try {
    return (await act()).join();
  } catch (error) {
    return toOctomilError(error).code === 'internal' ? 'failed' : 'refused';
  }
}

async function compare(one: FeatureColumn, cells: readonly string[]): Promise<void> {
  const spec = sealFeatureSpec({ formatVersion: 1, layout: 'table', columns: [one], target });
  const path = join(folder, 'a.csv');
  writeFileSync(path, `a,y\n${cells.map((text) => `"${text.replaceAll('"', '""')}",1`).join('\n')}\n`);
  const source = { path, encoding: 'utf-8', delimiter: ',' } as const;
  const ofFile = await outcome(async () => {
    const { train } = await loadDataset(source, spec, { salt: '', shareRatio: 0 });
    return await train.readRange(0, train.rows);
  });
  const rows = cells.map((a) => ({ a }));
  expect([one, cells, await outcome(() => encodeRows(spec, rows))]).toEqual([one, cells, ofFile]);
}

test('odd cells are taken alike, and refused alike, from files and rows, whatever the column', async () => {
  await fc.assert(fc.asyncProperty(column, fc.array(cell, { minLength: 1, maxLength: 3 }), compare), { numRuns: 60 });
}, 240_000);

test.each(['NA', 'X', ' x', 'None', 'none', '9', 'true', 'mild'])(
  '"%s" is missing where it means that, though it is a level',
  async (text) => {
    const levels = ['x', 'na', 'none', '9', 'true', 'mild'];
    const ward: FeatureColumn = {
      kind: 'categorical',
      ...plain,
      missingMarkers: ['x', 9, 'true'],
      levels,
      values: 'text',
    };
    await compare(ward, [text]);
    const spec = sealFeatureSpec({ formatVersion: 1, layout: 'table', columns: [ward], target });
    const isMissing = (row: object) => encodeRows(spec, [{ ...row }])[levels.length + 1] === 1;
    expect(isMissing({ a: text })).toBe(!['none', 'mild'].includes(text));
    expect([9, true, false].map((a) => isMissing({ a }))).toEqual([true, true, false]);
    const numbers = join(folder, `${levels.indexOf(text)}.parquet`);
    await writeParquet(numbers, [9, 1]);
    for (const reader of ['duckdb', 'parquetjs-lite'] as const) {
      const { train } = await loadDataset({ path: numbers, reader }, spec, { salt: '', shareRatio: 0 });
      expect((await train.readRange(0, 2)).join()).toBe(encodeRows(spec, [{ a: 9 }, { a: 1 }]).join());
    }
  },
);

async function writeParquet(path: string, values: readonly number[]): Promise<void> {
  const { DuckDBInstance } = await import('@duckdb/node-api');
  const instance = await DuckDBInstance.create(':memory:');
  const connection = await instance.connect();
  const rows = values.map((value) => `(${value}::DOUBLE, 1)`).join(', ');
  await connection.run(
    `COPY (SELECT a, y FROM (VALUES ${rows}) t(a, y)) TO '${path}' (FORMAT parquet, COMPRESSION uncompressed)`,
  );
  connection.closeSync();
  instance.closeSync();
}
