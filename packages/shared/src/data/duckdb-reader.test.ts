import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { digestOf } from './digest.js';
import { openTable } from './open-table.js';
import type { DataSource } from './source.js';
import type { CellRequest, ColumnProfile } from './table-reader.js';

const folder = mkdtempSync(join(tmpdir(), 'octomil-tables-'));
afterAll(() => rmSync(folder, { recursive: true }));

let files = 0;
function write(content: string | Uint8Array, ending = '.csv'): string {
  const path = join(folder, `table${files++}${ending}`);
  writeFileSync(path, content);
  return path;
}

async function parquet(select: string): Promise<string> {
  const { DuckDBInstance } = await import('@duckdb/node-api');
  const path = write('', '.parquet');
  const connection = await (await DuckDBInstance.create(':memory:')).connect();
  await connection.run(`COPY (${select}) TO '${path}' (FORMAT parquet)`);
  connection.closeSync();
  return path;
}

async function profile(
  source: DataSource,
  missingMarkers: Readonly<Record<string, readonly (number | string)[]>> = {},
): Promise<Record<string, ColumnProfile>> {
  const reader = await openTable(source);
  const profiles = await reader.profile({
    columns: reader.columns.map(({ key }) => key),
    maxLevels: 32,
    missingMarkers: new Map(Object.entries(missingMarkers)),
  });
  reader.close();
  return Object.fromEntries(profiles.map((one) => [one.key, one]));
}

async function cells(source: DataSource, requests: readonly CellRequest[]): Promise<number[][]> {
  const reader = await openTable(source);
  const columns = requests.map((): number[] => []);
  for await (const chunk of reader.stream(requests)) {
    for (const [i, column] of columns.entries()) column.push(...(chunk.columns[i] ?? []));
  }
  reader.close();
  return columns;
}

async function failure(action: Promise<unknown>): Promise<OctomilError> {
  const thrown = await action.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (!(thrown instanceof OctomilError)) throw thrown ?? new OctomilError('internal', 'nothing was thrown');
  return thrown;
}

const numbers = (column: string): CellRequest => ({ column, as: 'number' });

test('a ragged file is refused with its line, and its rows stay out of the message', async () => {
  for (const row of ['secret,5', 'secret,5,6,7']) {
    const path = write(`a,b,c\n1,2,3\n${row}\n6,7,8\n`);
    const error = await failure(profile({ path }));
    expect(error.code).toBe('data_unreadable');
    expect(error.reason).toContain('line 3');
    expect(error.reason).toContain(path);
    expect(JSON.stringify([error.message, String(error.cause)])).not.toContain('secret');
  }
});

test('every missing marker is missing, also with spaces around it, and does not turn numbers into text', async () => {
  const markers = ['', 'NA', 'N/A', '?', 'null', 'NULL', 'NaN', 'nan', 'None', '.', ' ? ', '"  NA"'];
  const path = write(`a,b\n${markers.map((marker) => `${marker},1`).join('\n')}\n7,1\n`);
  const { a } = await profile({ path });
  expect(a).toMatchObject({ present: 1, numbers: 1 });
  const [values] = await cells({ path }, [numbers('a')]);
  expect(values).toEqual([...markers.map(() => Number.NaN), 7]);
});

test('own missing texts of a source, and markers of a column, count as missing', async () => {
  const path = write('a,b\nunk,-9\n1,2\n2,3\n');
  expect((await profile({ path, missingTexts: ['unk'] }))['a']).toMatchObject({ present: 2, numbers: 2 });
  expect((await profile({ path }, { b: [-9], a: ['UNK'] }))['b']).toMatchObject({ present: 2, numbers: 2, mean: 2.5 });
  expect((await profile({ path }, { a: ['UNK'] }))['a']).toMatchObject({ present: 2, numbers: 2 });
});

test('a letter far down the file is seen, as no sample decides the type', async () => {
  const rows = Array.from({ length: 30_001 }, (_, i) => `${i}.5`);
  const path = write(`a,b\n${rows.map((row) => `${row},1`).join('\n')}\nx,1\n`);
  expect((await profile({ path }))['a']).toMatchObject({ present: 30_002, numbers: 30_001 });
  const [values] = await cells({ path }, [numbers('a')]);
  expect(values?.at(-1)).toBe(Number.POSITIVE_INFINITY);
});

test('an all-missing column has nothing present', async () => {
  const { b } = await profile({ path: write('a,b\n1,\n2,NA\n') });
  expect(b).toMatchObject({ present: 0, numbers: 0, levels: [] });
});

test('codes with leading zeros are not numbers, decimals below one are', async () => {
  const { a, b } = await profile({ path: write('a,b\n01234,0.5\n98765,0\n') });
  expect(a?.hasCodes).toBe(true);
  expect(b).toMatchObject({ hasCodes: false, numbers: 2, whole: false });
});

test.each([
  ['latin-1', Buffer.from('größe,ort\n1,Köln\n', 'latin1')],
  ['utf-8 with a byte order mark', Buffer.from('\uFEFFgröße,ort\n1,Köln\n')],
  ['utf-16', Buffer.from('\uFEFFgröße,ort\n1,Köln\n', 'utf16le')],
])('%s is found by itself', async (_, bytes) => {
  const { größe, ort } = await profile({ path: write(bytes) });
  expect(größe).toMatchObject({ present: 1, numbers: 1 });
  expect(ort?.levels).toEqual([{ value: 'köln', count: 1 }]);
});

test('big-endian UTF-16 is refused with what to do', async () => {
  const error = await failure(openTable({ path: write(Buffer.from('\uFEFFa,b\n1,2\n', 'utf16le').swap16()) }));
  expect(error.code).toBe('data_unreadable');
  expect(error.reason).toContain('save it as UTF-8');
});

test('bytes that the encoding does not have are an error that names the option', async () => {
  const bytes = Buffer.concat([Buffer.from('a,b\n'), Buffer.alloc(2 << 20, '1,2\n'), Buffer.from('é,2\n', 'latin1')]);
  const error = await failure(profile({ path: write(bytes) }));
  expect(error.code).toBe('data_unreadable');
  expect(error.reason).toContain('"encoding"');
});

test.each([
  [';', '12,5', 12.5],
  ['\t', '12.5', 12.5],
  ['|', '-12,5', -12.5],
])('delimiter %j and number %j', async (delimiter, number, expected) => {
  const path = write(`name of it${delimiter}b${delimiter}c\nx y${delimiter}${number}${delimiter}1\n`);
  expect(await cells({ path }, [numbers('b')])).toEqual([[expected]]);
});

test('a comma between digits is no decimal comma where it delimits, unless asked', async () => {
  const path = write('a,b\n"1,5",2\n');
  expect(await cells({ path }, [numbers('a')])).toEqual([[Number.POSITIVE_INFINITY]]);
  expect(await cells({ path, decimalSeparator: ',' }, [numbers('a')])).toEqual([[1.5]]);
});

test('quotes, doubled quotes, line ends in cells, CRLF and CR', async () => {
  const text = '"a ""x""",b\n"line\none, two",2\n,3\n';
  for (const end of ['\n', '\r\n', '\r']) {
    const path = write(text.replaceAll('\n', end));
    const reader = await openTable({ path });
    expect(reader.columns.map(({ name }) => name)).toEqual(['a "x"', 'b']);
    expect(await reader.countRows()).toBe(2);
    reader.close();
  }
});

test('gzip and tsv', async () => {
  expect(await cells({ path: write(gzipSync('a,b\n1,2\n'), '.csv.gz') }, [numbers('b')])).toEqual([[2]]);
  expect(await cells({ path: write('a\tb\n1\t2\n', '.tsv') }, [numbers('b')])).toEqual([[2]]);
  const whole = gzipSync(`a,b\n${Array.from({ length: 90_000 }, () => `${Math.random()},1\n`).join('')}`);
  const error = await failure(cells({ path: write(whole.subarray(0, whole.length / 2), '.csv.gz') }, [numbers('b')]));
  expect(['corrupt_file', 'data_unreadable']).toContain(error.code);
});

test('column names match whatever their case and spaces; two that match are refused', async () => {
  const reader = await openTable({ path: write('Chest Pain , Blood-Pressure\n1,2\n') });
  expect(reader.columns.map(({ key }) => key)).toEqual(['chest_pain', 'blood_pressure']);
  reader.close();
  const error = await failure(openTable({ path: write('Chest Pain,chest_pain\n1,2\n') }));
  expect(error.code).toBe('data_unreadable');
  expect(error.reason).toContain('"Chest Pain"');
});

test.each([
  ['an empty file', () => write(''), 'is empty'],
  ['white space only', () => write('\n\n'), 'is empty'],
  ['no header', () => write('1,2\n3,4\n'), 'not column names'],
  ['a patient for a header', () => write('63,male,145,1\n67,female,160,0\n'), 'seems to have no header'],
  ['a patient with one decimal', () => write('male,white,2.3,north\nfemale,black,1.5,south\n'), 'not column names'],
  ['a patient with a decimal comma', () => write('m;w;2,3;n\nf;b;1,5;s\n'), 'not column names'],
  ['a patient with gaps', () => write('?,male,145,\n67,female,160,0\n'), 'not column names'],
  ['no such file', () => join(folder, 'nothing.csv'), 'no such file'],
  ['an unknown ending', () => write('a,b\n', '.xlsx'), 'no format'],
])('%s', async (_, make, reason) => {
  const error = await failure(openTable({ path: make() }));
  expect(error.code).toBe('data_unreadable');
  expect(error.reason).toContain(reason);
});

test.each([
  ['a year among names', 'country,region,2019\nA,B,5\n', ['country', 'region', '2019']],
  ['an unnamed first column', ',age,sex\n0,63,m\n', ['unnamed_1', 'age', 'sex']],
  ['names with digits', 'v1.5,x2,3d\n1,2,3\n', ['v1_5', 'x2', '3d']],
])('%s is a header', async (_, text, keys) => {
  const reader = await openTable({ path: write(text) });
  expect(reader.columns.map(({ key }) => key)).toEqual(keys);
  reader.close();
});

test('a folder, and a header without rows', async () => {
  const path = join(folder, 'folder.csv');
  mkdirSync(path);
  expect((await failure(openTable({ path }))).reason).toContain('is a folder');
  const reader = await openTable({ path: write('a,b\n') });
  expect(await reader.countRows()).toBe(0);
  reader.close();
});

(process.getuid?.() === 0 ? test.skip : test)('a file that may not be read (not as root)', async () => {
  const path = write('a,b\n1,2\n');
  chmodSync(path, 0o000);
  expect((await failure(openTable({ path }))).reason).toContain('permissions');
});

test('numbers that a double cannot hold, not-a-number and infinity', async () => {
  const path = write('a,b\n9007199254740993,1e400\n1,-inf\n2,NaN\n3,4\n');
  expect(await cells({ path }, [numbers('a'), numbers('b')])).toEqual([
    [9007199254740992, 1, 2, 3],
    [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN, 4],
  ]);
  expect((await profile({ path }))['b']).toMatchObject({ present: 3, numbers: 1 });
});

test('parquet of many types: missing values are NaN, never what the slot held before', async () => {
  const path = await parquet(`SELECT * FROM (VALUES
    (9007199254740993::BIGINT, 1.25::DECIMAL(9,2), true, 'Yes', DATE '2020-01-01', [1], 'x'::ENUM('x','y')),
    (NULL, NULL, NULL, NULL, NULL, NULL, NULL), (3, 'nan'::DOUBLE, false, ' ? ', NULL, NULL, 'y'))
    t(i, d, flag, word, day, list, "En um")`);
  const reader = await openTable({ path });
  expect(reader.columns.map(({ key, family }) => [key, family])).toEqual([
    ['i', 'number'],
    ['d', 'number'],
    ['flag', 'boolean'],
    ['word', 'text'],
    ['day', 'time'],
    ['list', 'unsupported'],
    ['en_um', 'text'],
  ]);
  reader.close();
  const found = await cells({ path }, [
    numbers('i'),
    numbers('d'),
    { column: 'flag', as: 'boolean' },
    { column: 'word', as: 'boolean' },
    { column: 'en_um', as: 'level', levels: ['y'] },
  ]);
  const nan = Number.NaN;
  expect(found).toEqual([
    [9007199254740992, nan, 3],
    [1.25, nan, nan],
    [1, nan, 0],
    [1, nan, nan],
    [-1, nan, 0],
  ]);
  const profiles = await profile({ path });
  expect(profiles['word']).toMatchObject({ present: 1, levels: [{ value: 'yes', count: 1 }] });
  expect(profiles['day']).toMatchObject({ present: 1, levels: null });
});

test('equal cells have equal content in CSV and Parquet', async () => {
  const requests: CellRequest[] = ['n', 't', 'f', 'd'].map((column) => ({ column, as: 'content' }));
  const csv = await cells({ path: write('n,t,f,d\n63.0,Köln,1,2020-01-01\n,NA,0,\n') }, requests);
  const table = await parquet(
    `SELECT * FROM (VALUES (63, 'Köln', true, DATE '2020-01-01'), (NULL, NULL, false, NULL)) t(n, t, f, d)`,
  );
  expect(await cells({ path: table }, requests)).toEqual(csv);
});

test('a wide table reads as a narrow one', async () => {
  const names = Array.from({ length: 300 }, (_, i) => `px${i}`);
  const cellAt = (row: number, i: number) => (i === row % 300 ? '?' : String(row * 300 + i + 0.5));
  const rows = Array.from({ length: 2500 }, (_, row) => names.map((_, i) => cellAt(row, i)).join(','));
  const path = write(`${names.join(',')}\n${rows.join('\n')}\n`);
  const last: CellRequest = { column: 'px299', as: 'content' };
  const wide = await cells({ path }, [last, ...names.map(numbers)]);
  const narrow = await cells({ path }, [last, numbers('px0'), numbers('px150')]);
  expect([wide[0], wide[1], wide[151]]).toEqual(narrow);
  expect(wide[151]?.[150]).toBeNaN();
  expect(wide[151]?.[2499]).toBe(2499 * 300 + 150.5);
});

test('a Parquet file cut short or damaged is corrupt, by name', async () => {
  const bytes = readFileSync(await parquet('SELECT range AS a, range * 2.5 AS b FROM range(50000)'));
  const damaged = Buffer.concat([bytes.subarray(0, 1000), bytes.subarray(5000)]);
  for (const broken of [bytes.subarray(0, bytes.length - 20), bytes.subarray(0, 100), Buffer.alloc(0), damaged]) {
    const path = write(broken, '.parquet');
    const error = await failure(cells({ path }, [numbers('b')]));
    expect(error.code).toBe('corrupt_file');
    expect(error.reason).toContain(path);
  }
});

test('the file asked for can be read, no other, and the lock cannot be undone', async () => {
  const { openDuckDb } = await import('./duckdb-session.js');
  const other = write('a\n1\n');
  const session = await openDuckDb([write('a\n1\n')], 2 ** 28);
  for (const sql of [`SELECT * FROM read_csv('${other}')`, 'SET enable_external_access=true', 'INSTALL httpfs']) {
    await expect(session.connection.run(sql)).rejects.toThrow();
  }
  session.close();
});

test('names with quotes in them, of files and columns', async () => {
  const path = join(folder, "it's [1].csv");
  writeFileSync(path, '"a\'b ""c""",d\n1,2\n');
  const reader = await openTable({ path });
  expect(await cells({ path }, [numbers(reader.columns[0]?.key ?? '')])).toEqual([[1]]);
  reader.close();
  const quoted = await parquet('SELECT 1 AS "it\'s ""x"""');
  expect(await cells({ path: quoted }, [numbers('it\'s_"x"')])).toEqual([[1]]);
});

test('the digest follows content and options, not the name', async () => {
  const [first, second, third] = [write('a,b\n1,2\n'), write('a,b\n1,2\n'), write('a,b\n1,3\n')];
  const digest = await digestOf({ path: first });
  expect(await digestOf({ path: second })).toBe(digest);
  expect(await digestOf({ path: third })).not.toBe(digest);
  expect(await digestOf({ path: first, missingTexts: ['x'] })).not.toBe(digest);
  writeFileSync(first, 'a,b\n1,22\n');
  expect(await digestOf({ path: first })).not.toBe(digest);
});

test.each([
  ['a short file', 10],
  ['a file whose rest is longer than a line may be', 1_000_000],
])('a quote that never closes: %s', async (_, rows) => {
  const path = write(`a,b\n1,2\n"secret,2\n${'3,4\n'.repeat(rows)}`);
  const error = await failure(cells({ path }, [numbers('b')]));
  expect(error.code).toBe('data_unreadable');
  expect(error.reason).toMatch(/quote/);
  expect(`${error.message}${String(error.cause)}`).not.toContain('secret');
});

test('empty names are numbered, equal ones are refused, in CSV and Parquet', async () => {
  const reader = await openTable({ path: write(',a, ,b\n1,2,3,4\n') });
  expect(reader.columns.map(({ key }) => key)).toEqual(['unnamed_1', 'a', 'unnamed_3', 'b']);
  reader.close();
  for (const path of [write('a,b,a\n1,2,3\n'), await parquet('SELECT 1 AS a, 2 AS b, 3 AS "a "')]) {
    const error = await failure(openTable({ path }));
    expect(error.code).toBe('data_unreadable');
    expect(error.reason).toContain('two columns called "a"');
  }
  const unnamed = await openTable({ path: await parquet('SELECT 1 AS " ", 2 AS b') });
  expect(unnamed.columns.map(({ key }) => key)).toEqual(['unnamed_1', 'b']);
  expect(await cells({ path: unnamed.source.path }, [numbers('unnamed_1')])).toEqual([[1]]);
  unnamed.close();
});
