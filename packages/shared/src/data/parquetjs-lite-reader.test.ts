import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import { openTable } from './open-table.js';
import type { DataSource, ReaderName } from './source.js';
import type { CellRequest, ColumnProfile } from './table-reader.js';

const folder = mkdtempSync(join(tmpdir(), 'octomil-lite-'));
afterAll(() => rmSync(folder, { recursive: true }));

let files = 0;
async function parquet(select: string, options = 'FORMAT parquet'): Promise<string> {
  const { DuckDBInstance } = await import('@duckdb/node-api');
  const path = join(folder, `table${files++}.parquet`);
  const connection = await (await DuckDBInstance.create(':memory:')).connect();
  await connection.run(`COPY (${select}) TO '${path}' (${options})`);
  connection.closeSync();
  return path;
}

/** Of every kind that both readers know, with what makes cells missing, marked or no number. */
const TABLE = `SELECT i AS id, i % 7 AS few, (i % 5)::DOUBLE / 4 AS ratio, i % 3 = 0 AS flag,
  CASE WHEN i % 4 = 0 THEN NULL ELSE i * 0.5::DOUBLE END AS gaps, DATE '2020-01-01' + (i % 50)::INTEGER AS day,
  TIMESTAMP '2020-01-01 10:00:00' + INTERVAL (i * 500) MILLISECOND AS at,
  CASE i % 4 WHEN 0 THEN 'Yes' WHEN 1 THEN ' no' WHEN 2 THEN 'NA' ELSE 'unk' END AS word,
  CASE WHEN i % 9 = 0 THEN '?' WHEN i % 9 = 1 THEN '-inf' ELSE (i % 9) || '.50' END AS spelled, '0' || i AS code
  FROM range(3000) t(i)`;

async function readAll(source: DataSource): Promise<{ cells: Float64Array[]; profiles: ColumnProfile[] }> {
  const reader = await openTable(source);
  const levels = ['yes', 'no', '0', '1', '1.25', 'true'];
  const requests = reader.columns.flatMap(({ key: column }): CellRequest[] => [
    { column, as: 'number' },
    { column, as: 'boolean', missingTexts: ['no'] },
    { column, as: 'level', levels },
    { column, as: 'content' },
  ]);
  try {
    const cells = requests.map((): number[] => []);
    for await (const chunk of reader.stream(requests)) {
      for (const [i, column] of cells.entries()) column.push(...(chunk.columns[i] ?? []));
    }
    const profiles = await reader.profile({
      columns: reader.columns.map(({ key }) => key),
      maxLevels: 32,
      missingMarkers: new Map([
        ['few', [0]],
        ['word', ['UNK']],
      ]),
    });
    return { cells: cells.map((column) => Float64Array.from(column)), profiles };
  } finally {
    reader.close();
  }
}

const withoutEstimates = (profiles: readonly ColumnProfile[]) =>
  profiles.map(({ distinctEstimate: _, levels, mean, deviation, nonZeroMean, nonZeroDeviation, ...rest }) => ({
    ...rest,
    levels: levels?.toSorted((a, b) => (a.value < b.value ? -1 : 1)) ?? null,
    moments: [mean, deviation, nonZeroMean, nonZeroDeviation].map((moment) => moment.toPrecision(9)),
  }));

test('both readers give the same cells and profiles', async () => {
  const path = await parquet(TABLE);
  const of = (reader: ReaderName) => readAll({ path, reader, missingTexts: ['unk'] });
  const [lite, duckdb] = [await of('parquetjs-lite'), await of('duckdb')];
  expect(lite.cells).toEqual(duckdb.cells);
  expect(withoutEstimates(lite.profiles)).toEqual(withoutEstimates(duckdb.profiles));
  for (const [i, { distinctEstimate }] of lite.profiles.entries()) {
    const exact = new Set(duckdb.cells[i * 4 + 3]).size;
    expect(Math.abs(distinctEstimate - exact)).toBeLessThanOrEqual(1 + exact * 0.1);
  }
});

test.each([
  ['decimals', 'SELECT 1.5::DECIMAL(9,2) AS a', 'FORMAT parquet'],
  ['version 2 pages', 'SELECT range AS a FROM range(5000)', 'FORMAT parquet, PARQUET_VERSION V2'],
  ['zstd', 'SELECT range AS a FROM range(5000)', 'FORMAT parquet, COMPRESSION zstd'],
])('what it cannot read is refused, naming the reader that can: %s', async (_, select, options) => {
  const path = await parquet(select, options);
  await expect(readAll({ path, reader: 'parquetjs-lite' })).rejects.toMatchObject({
    code: 'data_unreadable',
    reason: expect.stringContaining('use the reader duckdb'),
  });
  await readAll({ path });
});

test('a file cut short or with a footer that is not there is corrupt', async () => {
  const bytes = readFileSync(await parquet('SELECT range AS a FROM range(5000)'));
  const longFooter = Buffer.from(bytes);
  longFooter.writeUInt32LE(0x7fffffff, bytes.length - 8);
  for (const broken of [bytes.subarray(0, bytes.length - 20), Buffer.alloc(0), longFooter]) {
    const path = join(folder, `broken${files++}.parquet`);
    writeFileSync(path, broken);
    await expect(openTable({ path, reader: 'parquetjs-lite' })).rejects.toMatchObject({ code: 'corrupt_file' });
  }
});

test('it reads single Parquet files only, and there are no other readers', async () => {
  const path = join(folder, 'a.csv');
  writeFileSync(path, 'a\n1\n');
  const one = await parquet('SELECT 1 AS a');
  for (const source of [{ path }, { path: 'two', files: [one, one] }]) {
    await expect(openTable({ ...source, reader: 'parquetjs-lite' })).rejects.toMatchObject({ code: 'invalid_input' });
  }
  await expect(openTable({ path: one, reader: 'other' as ReaderName })).rejects.toMatchObject({
    code: 'invalid_input',
  });
});
