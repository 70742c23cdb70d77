import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { constants, deflateRawSync, gzipSync } from 'node:zlib';
import { afterAll, expect, test } from '@jest/globals';
import type { OctomilError } from '@octomil/shared/errors';
import { digestOf } from './digest.js';
import { openTable } from './open-table.js';
import type { DataSource } from './source.js';
import type { CellRequest } from './table-reader.js';

const root = mkdtempSync(join(tmpdir(), 'octomil-many-'));
afterAll(() => rmSync(root, { recursive: true }));

let folders = 0;
function folderOf(files: Readonly<Record<string, string | Uint8Array>>): string {
  const folder = join(root, `set${folders++}`);
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(join(folder, name, '..'), { recursive: true });
    writeFileSync(join(folder, name), content);
  }
  return folder;
}

async function read(source: DataSource, ...columns: string[]): Promise<number[][]> {
  const reader = await openTable(source);
  try {
    const found = columns.map((): number[] => []);
    const requests = columns.map((column): CellRequest => ({ column, as: 'number' }));
    for await (const chunk of reader.stream(requests)) {
      for (const [i, column] of found.entries()) column.push(...(chunk.columns[i] ?? []));
    }
    expect(await reader.countRows()).toBe(found[0]?.length);
    return found;
  } finally {
    reader.close();
  }
}

async function failure(source: DataSource): Promise<OctomilError> {
  try {
    await read(source, 'a');
  } catch (error) {
    return error as OctomilError;
  }
  throw new TypeError('nothing was thrown');
}

async function parquet(folder: string, name: string, select: string): Promise<void> {
  const { DuckDBInstance } = await import('@duckdb/node-api');
  const connection = await (await DuckDBInstance.create(':memory:')).connect();
  await connection.run(`COPY (${select}) TO '${join(folder, name)}' (FORMAT parquet)`);
  connection.closeSync();
}

test('a folder is one table of its files in the order of their names; what is no data is left alone', async () => {
  const folder = folderOf({
    '2.csv': 'a,b\n3,4\n',
    '1.csv': 'a,b\n1,2\n',
    'deep/3.csv': 'a,b\n5,6\n',
    'README.md': 'x',
    _SUCCESS: '',
    '.hidden.csv': 'z\n1\n',
  });
  expect(await read({ path: folder }, 'a', 'b')).toEqual([
    [1, 3, 5],
    [2, 4, 6],
  ]);
  expect(await read({ path: join(folder, '[0-9].csv') }, 'a')).toEqual([[1, 3]]);
  expect(await read({ path: 'the set', files: [join(folder, '2.csv'), join(folder, '1.csv')] }, 'a')).toEqual([[3, 1]]);
});

test('files of another order of columns, delimiter, encoding or compression are still one table', async () => {
  const folder = folderOf({
    '1.csv': 'a,größe\n1,1.5\n',
    '2.csv': Buffer.from('GRÖSSE;größe;a\n;2,5;2\n'.replace('GRÖSSE;', '').replace('\n;', '\n'), 'latin1'),
    '3.csv.gz': gzipSync('a\tgröße\n3\t3\n'),
  });
  expect(await read({ path: folder }, 'a', 'größe')).toEqual([
    [1, 2, 3],
    [1.5, 2.5, 3],
  ]);
});

test('a file with other columns is named with them', async () => {
  const folder = folderOf({ '1.csv': 'a,b\n1,2\n', '2.csv': 'a,c\n1,2\n' });
  const error = await failure({ path: folder });
  expect(error.code).toBe('data_unreadable');
  expect(error.reason).toContain('2.csv');
  expect(error.reason).toContain('lacks "b"');
  expect(error.reason).toContain('only it has "c"');
});

test('Parquet files: types of a kind are one, those of two kinds are refused with the column', async () => {
  const folder = folderOf({});
  mkdirSync(folder);
  await parquet(folder, '1.parquet', "SELECT 1::INTEGER AS a, 'x' AS t");
  await parquet(folder, '2.parquet', "SELECT 'y'::ENUM('y') AS t, 2.5::DOUBLE AS a");
  expect(await read({ path: folder }, 'a')).toEqual([[1, 2.5]]);
  await parquet(folder, '3.parquet', "SELECT 'one' AS a, 'x' AS t");
  const error = await failure({ path: folder });
  expect(error.code).toBe('data_unreadable');
  expect(error.reason).toContain('3.parquet');
  expect(error.reason).toContain('"a" holds text, there number');
});

test('a damaged file among many is the one that is named', async () => {
  const folder = folderOf({ '1.csv': 'a,b\n1,2\n', '2.csv': 'a,b\n1,2\n1,2,3\n', '3.csv': 'a,b\n1,2\n' });
  const error = await failure({ path: folder });
  expect(error.reason).toContain(join(folder, '2.csv'));
  expect(error.reason).toContain('line 3');
});

test.each([
  ['no data in a folder', { 'notes.md': 'x' }, '', 'folder without data'],
  ['no match', { 'a.csv': 'a\n1\n' }, '/*.parquet', 'no file matches'],
  ['two formats', { 'a.csv': 'a\nx\n', 'b.jsonl': '{"a":1}\n' }, '', 'two formats'],
])('%s', async (_, files, pattern, reason) => {
  const error = await failure({ path: `${folderOf(files)}${pattern}` });
  expect(error.code).toBe('data_unreadable');
  expect(error.reason).toContain(reason);
});

test('the digest of a set follows each file and their order', async () => {
  const [first, second] = [
    folderOf({ '1.csv': 'a\n1\n', '2.csv': 'a\n2\n' }),
    folderOf({ '1.csv': 'a\n2\n', '2.csv': 'a\n1\n' }),
  ];
  expect(await digestOf({ path: first })).toBe(await digestOf({ path: `${first}/*.csv` }));
  expect(await digestOf({ path: first })).not.toBe(await digestOf({ path: second }));
});

test('lines of JSON: keys in any order or absent, text and numbers alike, nested values no numbers', async () => {
  const folder = folderOf({
    'rows.jsonl': '{"a":1,"b":"2.5","n":{"x":1}}\n{"b":null,"big":9007199254740993}\n\n{"b":"NA","a":-3e2,"c":true}\n',
    'rows2.jsonl': '{"late":7}\n',
  });
  const nan = Number.NaN;
  expect(await read({ path: join(folder, 'rows.jsonl') }, 'a', 'b', 'big', 'n')).toEqual([
    [1, nan, -300],
    [2.5, nan, nan],
    [nan, 9007199254740992, nan],
    [Number.POSITIVE_INFINITY, nan, nan],
  ]);
  expect(await read({ path: folder }, 'late')).toEqual([[nan, nan, nan, 7]]);
  const packed = folderOf({ 'rows.jsonl.gz': gzipSync('{"a":1}\n') });
  expect(await read({ path: packed }, 'a')).toEqual([[1]]);
});

test.each([
  ['a broken line', '{"a":1}\n{"a":2, "secret": \n{"a":3}\n', 'near line'],
  ['an array', '[{"a":1}]\n', 'one JSON object'],
  ['numbers', '1\n2\n', 'one JSON object'],
  ['keys that count as one', '{"a":1,"A ":2}\n', 'two columns'],
  ['nothing', '', 'is empty'],
])('JSON that is not: %s', async (_, text, reason) => {
  const error = await failure({ path: join(folderOf({ 'x.jsonl': text }), 'x.jsonl') });
  expect(error.code).toBe('data_unreadable');
  expect(error.reason).toContain(reason);
  expect(`${error.message}${String(error.cause)}`).not.toContain('secret');
});

test('a CSV without a header takes its names from the settings', async () => {
  const path = join(folderOf({ 'x.csv': '1,2\n3,4\n' }), 'x.csv');
  expect(await read({ path, header: false, columns: ['a', 'b'] }, 'a', 'b')).toEqual([
    [1, 3],
    [2, 4],
  ]);
  expect((await failure({ path, header: false, columns: ['a'] })).reason).toContain('2 cells');
  expect((await failure({ path, header: false })).code).toBe('invalid_input');
  expect((await failure({ path, columns: ['a', 'b'] })).code).toBe('invalid_input');
});

test('comments before, between and after rows, not within quotes', async () => {
  const path = join(folderOf({ 'x.csv': '# export, of today\na,b\n1,2 # tail\n# mid\n"#",4\n' }), 'x.csv');
  expect(await read({ path, comment: '#' }, 'b', 'a')).toEqual([
    [2, 4],
    [1, Number.POSITIVE_INFINITY],
  ]);
});

test.each([
  [',', '"1,234.5"', 1234.5],
  ['.', '"1.234,5"', 1234.5],
  ['.', '"-1.234.567"', -1_234_567],
  ['.', '"12,5"', 12.5],
  ['.', '1.5', Number.POSITIVE_INFINITY],
  [' ', '1 234.5', 1234.5],
  [' ', '1\u00a0234', 1234],
  ["'", "1'234", 1234],
  [',', '"1,23"', Number.POSITIVE_INFINITY],
  [',', '1234.5', 1234.5],
] as const)('thousands separator %j in %s', async (thousandsSeparator, cell, expected) => {
  const path = join(folderOf({ 'x.csv': `a,b\n${cell},x\n` }), 'x.csv');
  expect(await read({ path, thousandsSeparator, delimiter: ',' }, 'a')).toEqual([[expected]]);
});

test('a gzip bomb is refused before it is read, whatever its trailer says', async () => {
  const bomb = gzipSync(`a,b\n${'1,2\n'.repeat(1_000_000)}`);
  bomb.writeUInt32LE(10, bomb.length - 4);
  const path = join(folderOf({ 'x.csv.gz': bomb }), 'x.csv.gz');
  const error = await failure({ path, maxUnpackedBytes: 1_000_000 });
  expect(error.code).toBe('too_large');
  expect(error.reason).toContain('1000000');
  const honest = join(folderOf({ 'x.csv.gz': gzipSync(`a,b\n${'1,2\n'.repeat(1000)}`) }), 'x.csv.gz');
  expect((await read({ path: honest, maxUnpackedBytes: 100_000 }, 'a'))[0]).toHaveLength(1000);
});

test('a gzip file that is cut short is refused, between rows and in its last bytes too', async () => {
  const whole = gzipSync(`a,b\n${'1,2\n'.repeat(1000)}`);
  // What a program that is still writing has sent so far: whole rows, and no end.
  const between = deflateRawSync(`a,b\n${'1,2\n'.repeat(500)}`, { finishFlush: constants.Z_SYNC_FLUSH });
  const cuts = [
    whole.subarray(0, 40),
    ...[1, 4, 8, 9].map((bytes) => whole.subarray(0, whole.length - bytes)),
    Buffer.concat([whole.subarray(0, 10), between]),
    Buffer.concat([whole, whole.subarray(0, 40)]),
  ];
  for (const bytes of cuts) {
    const error = await failure({ path: join(folderOf({ 'x.csv.gz': bytes }), 'x.csv.gz') });
    expect(error).toMatchObject({ code: 'corrupt_file', reason: expect.stringContaining('is not a whole gzip file') });
  }
});
