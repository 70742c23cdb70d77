import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import { type Dataset, MemoryDataset } from './dataset.js';
import { describeSite } from './describe-site.js';
import type { FeatureSpec, TargetSpec } from './feature-spec.js';
import { loadDataset } from './load-dataset.js';
import { sealFeatureSpec } from './spec-hash.js';
import { parseTargetRule } from './target-rule.js';

const folder = mkdtempSync(join(tmpdir(), 'octomil-load-'));
afterAll(() => rmSync(folder, { recursive: true }));

let files = 0;
function csv(header: string, rows: readonly (readonly (string | number)[])[]): string {
  const path = join(folder, `data${files++}.csv`);
  writeFileSync(path, `${[header, ...rows.map((row) => row.join(','))].join('\n')}\n`);
  return path;
}

async function asParquet(path: string): Promise<string> {
  const { DuckDBInstance } = await import('@duckdb/node-api');
  const connection = await (await DuckDBInstance.create(':memory:')).connect();
  const parquet = path.replace('.csv', '.parquet');
  await connection.run(`COPY (SELECT * FROM read_csv('${path}')) TO '${parquet}' (FORMAT parquet)`);
  connection.closeSync();
  return parquet;
}

function specFor(target: Partial<TargetSpec> = {}): FeatureSpec {
  return sealFeatureSpec({
    formatVersion: 1,
    layout: 'table',
    columns: [
      { kind: 'numeric', name: 'a', mean: 0, deviation: 1, missingMarkers: [], missingIndicator: false },
      { kind: 'numeric', name: 'b', mean: 0, deviation: 1, missingMarkers: [], missingIndicator: true },
    ],
    target: {
      rule: parseTargetRule('y>0'),
      output: { kind: 'binary' },
      classes: [],
      values: 'number',
      mean: 0,
      deviation: 1,
      missingMarkers: [],
      ...target,
    },
  });
}

/** First input of each row: the test tables number their rows there, within the clipping range. */
const ids = (data: Dataset) => {
  const x = inputsOf(data);
  return Array.from({ length: data.rows }, (_, i) => Math.round((x[i * data.width] ?? 0) * 1000));
};

function inputsOf(data: Dataset): Float32Array {
  if (data instanceof MemoryDataset) return data.x;
  throw new TypeError('these rows are not in memory');
}
const table = Array.from({ length: 2000 }, (_, i) => [i / 1000, (i % 7) + 0.5, `ward ${i % 3}`, `p${i % 100}`, i % 2]);
const HEADER = 'a,b,word,patient,y';
const holdout = { salt: 'salt', shareRatio: 0.25 };

test('the same rows are held out whatever their order and the format of the file; another salt holds out others', async () => {
  const path = csv(HEADER, table);
  const plain = await loadDataset({ path }, specFor(), holdout);
  expect(plain.heldOut.rows / 2000).toBeGreaterThan(0.21);
  expect(plain.heldOut.rows / 2000).toBeLessThan(0.29);
  expect(ids(plain.train)).toEqual(ids(plain.train).toSorted((one, two) => one - two));
  const held = new Set(ids(plain.heldOut));
  const shuffled = csv(HEADER, table.toReversed());
  const turned = csv(
    'y,patient,b,A,word',
    table.map(([a, b, word, patient, y]) => [y, patient, b, a, word].map((cell) => cell ?? '')),
  );
  for (const other of [shuffled, turned, await asParquet(path)]) {
    expect(new Set(ids((await loadDataset({ path: other }, specFor(), holdout)).heldOut))).toEqual(held);
  }
  const salted = await loadDataset({ path }, specFor(), { ...holdout, salt: 'pepper' });
  expect(new Set(ids(salted.heldOut))).not.toEqual(held);
});

test('all rows of one entity fall on the same side', async () => {
  const { train, heldOut } = await loadDataset({ path: csv(HEADER, table) }, specFor(), {
    ...holdout,
    entityColumn: 'Patient',
  });
  const patients = (data: Dataset) => new Set(ids(data).map((id) => id % 100));
  expect(train.rows + heldOut.rows).toBe(2000);
  expect(heldOut.rows).toBeGreaterThan(0);
  expect([...patients(train)].filter((patient) => patients(heldOut).has(patient))).toEqual([]);
});

test('rows without a target are dropped and counted, a column that the file lacks is imputed', async () => {
  const path = csv('a,y', [
    [1, 1],
    [2, ''],
    [3, 0],
    [4, '?'],
  ]);
  const { train, droppedRows } = await loadDataset({ path }, specFor(), { salt: '', shareRatio: 0 });
  expect(droppedRows).toBe(2);
  expect([...inputsOf(train)]).toEqual([1, 0, 1, 3, 0, 1]);
  expect([...train.y]).toEqual([1, 0]);
});

test('targets of every sort', async () => {
  const path = csv('a,y,z,w', [
    [1, 10, 'Benign', 'yes'],
    [2, 20, 'malignant', 'No'],
    [3, 30, 'unsure', ''],
  ]);
  const y = async (target: Partial<TargetSpec>) => [
    ...(await loadDataset({ path }, specFor(target), { salt: '', shareRatio: 0 })).train.y,
  ];
  expect(await y({ rule: parseTargetRule('y'), output: { kind: 'regression' }, mean: 20, deviation: 5 })).toEqual([
    -2, 0, 2,
  ]);
  expect(await y({ rule: parseTargetRule('z==malignant') })).toEqual([0, 1, 0]);
  expect(await y({ rule: parseTargetRule('z!=benign') })).toEqual([0, 1, 1]);
  expect(await y({ rule: parseTargetRule('z'), classes: ['benign', 'malignant'], values: 'text' })).toEqual([0, 1]);
  expect(await y({ rule: parseTargetRule('w'), classes: ['0', '1'], values: 'boolean' })).toEqual([1, 0]);
  expect(await y({ rule: parseTargetRule('y'), classes: ['10', '30'], missingMarkers: [30] })).toEqual([0]);
});

test('what does not fit the spec is named', async () => {
  const load = (path: string, entityColumn?: string) =>
    loadDataset({ path }, specFor(), { ...holdout, ...(entityColumn === undefined ? {} : { entityColumn }) });
  await expect(load(csv('a,b', [[1, 2]]))).rejects.toThrow(/data_mismatch.*no target column "y"/);
  await expect(load(csv('c,y', [[1, 2]]))).rejects.toThrow(/data_mismatch.*none of the agreed columns/);
  await expect(load(csv('a,y', [['tall', 2]]))).rejects.toThrow(/data_mismatch.*"a" is numeric/);
  await expect(load(csv('a,y', [[1, 'ill']]))).rejects.toThrow(/data_mismatch.*compares numbers/);
  await expect(load(csv('a,y', [[1, 2]]), 'patient')).rejects.toThrow(/data_mismatch.*entity column "patient"/);
  const path = csv(HEADER, table);
  await expect(loadDataset({ path }, specFor(), { salt: '', shareRatio: 1 })).rejects.toThrow('invalid_input');
});

test('a site is described by aggregates; identifiers, dates and texts are named and left out', async () => {
  const rows = Array.from({ length: 200 }, (_, i) => [
    i,
    `name ${i}`,
    `2020-01-${10 + (i % 20)}`,
    i < 5 ? 'rare' : i % 2 === 0 ? 'M' : 'f',
    i < 3 ? '' : 100 + i / 4,
    i < 195 ? '' : 1,
    i % 4,
  ]);
  const path = csv('nr,patient_name,visit,sex,x,empty,y', rows);
  const statistics = await describeSite({ path }, { target: parseTargetRule('y>1') });
  expect(statistics.rows).toBe(200);
  expect(statistics.excluded.map(({ name, reason }) => [name, reason])).toEqual([
    ['nr', 'identifier'],
    ['patient_name', 'identifier'],
    ['visit', 'time'],
  ]);
  expect(statistics.target).toMatchObject({
    count: 200,
    classes: [
      { value: '0', count: 100 },
      { value: '1', count: 100 },
    ],
  });
  const byName = new Map(statistics.columns.map((column) => [column.name, column]));
  expect([...byName.keys()]).toEqual(['sex', 'x']);
  expect(byName.get('sex')).toMatchObject({ levels: 2, other: 0 });
  expect(byName.get('sex')?.categories.map(({ value, count }) => [value, count >= 97])).toEqual([
    ['f', true],
    ['m', true],
  ]);
  expect(byName.get('x')).toMatchObject({ seen: 'numeric', count: 200, missing: 0 });
  await expect(
    describeSite(
      {
        path: csv(
          'a,y',
          rows.slice(0, 9).map(() => [1, 2]),
        ),
      },
      { target: parseTargetRule('y') },
    ),
  ).rejects.toThrow('too_few_rows');
});

test('a column that turns to text in row 900,000 is refused by name, and its text stays out of the message', async () => {
  const path = join(folder, 'late.csv');
  writeFileSync(path, `a,b,y\n${'1,2,1\n'.repeat(899_999)}secret,2,1\n`);
  const error: unknown = await loadDataset({ path }, specFor(), holdout).catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: 'data_mismatch', reason: expect.stringContaining('"a"') });
  expect(String(error)).not.toContain('secret');
}, 300_000);
