import { mkdtemp, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { systemClock } from '@octomil/shared/runtime';
import type { ByteRange } from '@octomil/shared/storage';
import fc from 'fast-check';
import { parquetReadObjects } from 'hyparquet';
import { asyncBufferFromFile } from 'hyparquet/src/node.js';
import { compressors } from 'hyparquet-compressors';
import { type CellRequest, type DataSource, digestOf, openTable } from '../index.js';
import { joinRanges, missingRanges, totalBytes } from './byte-ranges.js';
import { isRemoteSource, SourceFiles, type SourceFilesOptions } from './index.js';
import { type RangeServer, startRangeServer } from './testing/range-server.js';

const COLUMNS = 12;
let folder: string;
let server: RangeServer;
let table: Buffer;
let other: Buffer;
let reference: Map<string, Float64Array>;

const clock = { ...systemClock, sleep: async () => undefined };
const openFiles = (options: Partial<SourceFilesOptions> = {}) =>
  SourceFiles.open({ folder: join(folder, 'copies'), maxBytes: 1e9, environment: {}, clock, ...options });
const keys = Array.from({ length: COLUMNS }, (_, i) => `c${i}`);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-acquire-'));
  server = await startRangeServer();
  table = await writeParquet('table.parquet', 0.5);
  other = await writeParquet('other.parquet', 0.25);
  reference = await readColumns({ path: join(folder, 'table.parquet') }, keys);
});

beforeEach(() => {
  server.asked.length = 0;
  server.served.length = 0;
  server.before = () => undefined;
  server.files.set('table.parquet', { bytes: table, etag: '"v1"' });
});

afterAll(async () => {
  server.close();
  expect(await readdir(join(folder, 'copies'))).toEqual([]);
  await rm(folder, { recursive: true });
});

/** Three row groups of doubles, and texts of few values, which have dictionaries and bloom filters. */
async function writeParquet(name: string, seed: number): Promise<Buffer> {
  const { DuckDBInstance } = await import('@duckdb/node-api');
  const instance = await DuckDBInstance.create(':memory:', { threads: '1' });
  const connection = await instance.connect();
  await connection.run(`SELECT setseed(${seed})`);
  const cells = keys.map((key, i) => {
    const number = i % 4 === 3 ? "'level ' || (random() * 200)::INTEGER" : 'random() * 1000';
    return `CASE WHEN random() < 0.05 THEN NULL ELSE ${number} END AS ${key}`;
  });
  const path = join(folder, name);
  await connection.run(
    `COPY (SELECT ${cells.join(', ')} FROM range(60000)) TO '${path}' (FORMAT parquet, ROW_GROUP_SIZE 20480)`,
  );
  connection.closeSync();
  instance.closeSync();
  return readFile(path);
}

async function readColumns(source: DataSource, columns: readonly string[]): Promise<Map<string, Float64Array>> {
  const reader = await openTable(source);
  try {
    const requests = columns.map((column): CellRequest => ({ column, as: 'content' }));
    const found = new Map<string, number[]>(columns.map((column) => [column, []]));
    for await (const chunk of reader.stream(requests)) {
      for (const [i, column] of columns.entries()) {
        const values = found.get(column);
        for (let row = 0; row < chunk.rows; row++) values?.push(chunk.columns[i]?.[row] ?? Number.NaN);
      }
    }
    return new Map([...found].map(([column, values]) => [column, Float64Array.from(values)]));
  } finally {
    reader.close();
  }
}

const bufferOf = (bytes: Buffer) => ({
  byteLength: bytes.length,
  slice: (start: number, end?: number) => new Uint8Array(bytes.subarray(start, end)).buffer,
});

type Values = Map<string, Float64Array>;

/** Bytes: comparing numbers one by one takes the test runner minutes. */
function expectSame(found: Values, wanted: Values, column: string): void {
  const bytes = [found, wanted].map((values) => Buffer.from(values.get(column)?.buffer ?? new ArrayBuffer()));
  expect(bytes[0]?.length).toBe(60_000 * 8);
  expect(bytes[1]?.equals(bytes[0] ?? Buffer.alloc(0))).toBe(true);
}

/** Makes nonsense of all that was not fetched: whoever reads it fails or reads wrong values. */
async function spoilHoles(path: string, fetched: readonly ByteRange[], sizeBytes: number): Promise<void> {
  const file = await open(path, 'r+');
  for (const { start, end } of missingRanges([{ start: 0, end: sizeBytes }], joinRanges(fetched))) {
    await file.write(Buffer.alloc(end - start, 0xa5), 0, end - start, start);
  }
  await file.close();
}

test('columns of a sparse copy have the values of the file, whatever was asked for in whatever order', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.subarray(keys, { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 3 }),
      async (wishes) => {
        server.served.length = 0;
        const files = await openFiles();
        try {
          for (const columns of wishes) {
            const { source, release } = await files.acquire({ path: server.url('table.parquet') }, { columns });
            const [path = ''] = source.files ?? [];
            expect((await stat(path)).size).toBe(table.length);
            await spoilHoles(path, server.served, table.length);
            const found = await readColumns(source, columns);
            for (const column of columns) expectSame(found, reference, column);
            await release();
          }
          // No byte twice.
          expect(totalBytes(server.served)).toBe(totalBytes(joinRanges(server.served)));
        } finally {
          await files.close();
        }
      },
    ),
    { numRuns: 12 },
  );
}, 240_000);

test('a wish for more columns fetches what is missing, the same wish nothing', async () => {
  const files = await openFiles();
  const source = { path: server.url('table.parquet') };
  const first = await files.acquire(source, { columns: ['c0', 'C1 '] });
  expect(server.asked[0]).toBe('HEAD');
  const before = totalBytes(server.served);
  expect(before).toBeLessThan(table.length / 4);
  const again = await files.acquire(source, { columns: ['c1', 'no such column'] });
  expect(totalBytes(server.served)).toBe(before);
  const more = await files.acquire(source, { columns: ['c0', 'c8'] });
  expect(more.source).toEqual(first.source);
  expect(totalBytes(joinRanges(server.served))).toBe(totalBytes(server.served));
  // A question about the profile reads what it is asked and nothing else.
  const [path = ''] = more.source.files ?? [];
  await spoilHoles(path, server.served, table.length);
  const reader = await openTable(more.source);
  expect(await reader.countRows()).toBe(60_000);
  const [profile] = await reader.profile({ columns: ['c8'], maxLevels: 5, missingMarkers: new Map() });
  expect(profile?.numbers).toBeGreaterThan(50_000);
  reader.close();
  for (const acquired of [first, again, more]) await acquired.release();
  await files.close();
});

test('most of the file, and a small file, are taken whole', async () => {
  const files = await openFiles();
  const { source } = await files.acquire({ path: server.url('table.parquet') }, { columns: keys.slice(0, 11) });
  const [path = ''] = source.files ?? [];
  expect(table.equals(await readFile(path))).toBe(true);
  expect(server.asked.length).toBeLessThanOrEqual(4);
  server.asked.length = 0;
  server.files.set('small.parquet', { bytes: Buffer.from('not Parquet at all'), etag: '"s"' });
  await files.acquire({ path: server.url('small.parquet') }, { columns: ['c0'] });
  expect(server.asked).toEqual(['HEAD', 'GET']);
  await files.close();
});

test('what a reader, a server or a file cannot do in parts is taken whole', async () => {
  const files = await openFiles();
  const columns = ['c0'];
  const whole = async (name: string, source: Partial<DataSource> = {}): Promise<void> => {
    const acquired = await files.acquire({ path: server.url(name), ...source }, { columns });
    expect(table.equals(await readFile(acquired.source.files?.[0] ?? ''))).toBe(true);
  };
  await whole('table.parquet', { reader: 'parquetjs-lite' });
  server.files.set('unranged.parquet', { bytes: table, etag: '"v1"', ranges: false });
  await whole('unranged.parquet');
  server.files.set('untold.parquet', { bytes: table, etag: '' });
  await whole('untold.parquet');
  await files.close();
});

test('of a preview only the row groups of its first rows are fetched', async () => {
  const files = await openFiles();
  const wish = { columns: ['c0', 'c1', 'c2'] };
  const { source } = await files.acquire({ path: server.url('table.parquet') }, { ...wish, maxRows: 1000 });
  const fetched = totalBytes(server.served);
  const [path = ''] = source.files ?? [];
  await spoilHoles(path, server.served, table.length);
  const file = await asyncBufferFromFile(path);
  const rows = await parquetReadObjects({ file, compressors, ...wish, rowStart: 0, rowEnd: 1000 });
  const wanted = await parquetReadObjects({ file: bufferOf(table), compressors, ...wish, rowStart: 0, rowEnd: 1000 });
  expect(JSON.stringify(rows)).toBe(JSON.stringify(wanted));
  expect(rows).toHaveLength(1000);
  await files.acquire({ path: server.url('table.parquet') }, wish);
  expect(totalBytes(server.served) - fetched).toBeGreaterThan(1.5 * (fetched - 64 * 1024));
  await files.close();
});

test('an object that changes between two ranges is read anew: no value of the old one is left', async () => {
  const files = await openFiles();
  const url = server.url('table.parquet');
  const old = await files.acquire({ path: url }, { columns: ['c4'] });
  let gets = 0;
  server.before = (line) => {
    if (line.startsWith('GET')) gets++;
    if (gets === 2) server.files.set('table.parquet', { bytes: other, etag: '"v2"' });
  };
  // Its footer is here; the first range is still of the old version, the second is not.
  const wish = { columns: ['c0', 'c8'] };
  const { source, release } = await files.acquire({ path: url }, wish);
  const wanted = await readColumns({ path: join(folder, 'other.parquet') }, wish.columns);
  const found = await readColumns(source, wish.columns);
  for (const column of wish.columns) expectSame(found, wanted, column);
  expect(gets).toBeGreaterThan(3);
  expect(source.digest).not.toBe(old.source.digest);
  expectSame(await readColumns(old.source, ['c4']), reference, 'c4');
  await old.release();
  await release();
  expect(await readdir(join(source.files?.[0] ?? '', '..'))).toHaveLength(1);
  let version = 3;
  server.before = () => server.files.set('table.parquet', { bytes: other, etag: `"v${version++}"` });
  await expect(files.acquire({ path: url }, { columns: ['c1'] })).rejects.toMatchObject({
    code: 'data_unreadable',
    details: { problem: 'changed' },
  });
  await files.close();
});

test('a half-written file is told by its end, without its columns', async () => {
  const files = await openFiles();
  const half = table.subarray(0, table.length / 2);
  const trailer = Buffer.concat([half, table.subarray(-8)]);
  const longer = Buffer.concat([half, Buffer.from([0xff, 0xff, 0xff, 0x7f]), Buffer.from('PAR1')]);
  // The whole footer behind half of the columns: their places lie beyond it.
  const footerBytes = table.readUInt32LE(table.length - 8) + 8;
  const offsets = Buffer.concat([half, table.subarray(-footerBytes)]);
  for (const [i, bytes] of [half, trailer, longer, offsets].entries()) {
    server.asked.length = 0;
    server.files.set('broken.parquet', { bytes, etag: `"b${i}"` });
    const broken = files
      .acquire({ path: server.url('broken.parquet') }, { columns: ['c0'] })
      .then(async ({ source }) => readColumns(source, ['c0']));
    await expect(broken).rejects.toMatchObject({
      code: 'corrupt_file',
      reason: expect.stringContaining(server.url('broken.parquet')),
    });
    if (bytes !== trailer) expect(server.asked.length).toBeLessThanOrEqual(3);
  }
  await files.close();
});

test('the limit counts what is fetched: few columns of a file that is larger than it', async () => {
  const files = await openFiles({ maxBytes: table.length / 3 });
  const path = server.url('table.parquet');
  const few = await files.acquire({ path }, { columns: ['c0', 'c1'] });
  await expect(files.acquire({ path })).rejects.toMatchObject({ code: 'too_large' });
  await expect(files.acquire({ path }, { columns: keys.slice(0, 7) })).rejects.toMatchObject({ code: 'too_large' });
  // What was here still is, and still right.
  expectSame(await readColumns(few.source, ['c1']), reference, 'c1');
  await few.release();
  // Nobody uses it: it makes room.
  server.files.set('next.parquet', { bytes: other, etag: '"n"' });
  await files.acquire({ path: server.url('next.parquet') }, { columns: ['c0', 'c1', 'c2'] });
  expect(await stat(few.source.files?.[0] ?? '').catch(() => 'gone')).toBe('gone');
  await files.close();
});

test('many at once share one copy, and whoever gives up does not end the others', async () => {
  const files = await openFiles();
  const path = server.url('table.parquet');
  const abort = new AbortController();
  server.before = (line) => {
    if (line.startsWith('GET')) abort.abort();
  };
  const cancelled = files.acquire({ path }, { columns: ['c0'], signal: abort.signal });
  const others = ['c0', 'c1', 'c2', 'c0'].map((column) => files.acquire({ path }, { columns: [column] }));
  await expect(cancelled).rejects.toMatchObject({ code: 'cancelled' });
  const acquired = await Promise.all(others);
  expect(new Set(acquired.map(({ source }) => source.files?.[0])).size).toBe(1);
  for (const column of ['c0', 'c1', 'c2']) {
    const found = await readColumns(acquired[0]?.source ?? { path: '' }, [column]);
    expectSame(found, reference, column);
  }
  await files.close();
});

test('versions and digests follow the object and read nothing; nothing shows a signature', async () => {
  const files = await openFiles();
  const source: DataSource = { path: `${server.url('table.parquet')}?sig=SECRET`, missingTexts: ['-1'] };
  const version = await files.version(source);
  expect(await files.version(source)).toBe(version);
  expect(server.asked.every((line) => line === 'HEAD')).toBe(true);
  const sparse = await files.acquire(source, { columns: ['c0'] });
  const whole = await files.acquire(source);
  expect(sparse.source).toEqual(whole.source);
  expect(sparse.source).toMatchObject({ path: server.url('table.parquet'), missingTexts: ['-1'] });
  expect(JSON.stringify(sparse.source)).not.toContain('SECRET');
  const digest = await digestOf(sparse.source);
  expect(await digestOf({ ...sparse.source, files: ['/elsewhere'] })).toBe(digest);
  expect(await digestOf({ ...sparse.source, missingTexts: [] })).not.toBe(digest);
  server.files.set('table.parquet', { bytes: other, etag: '"v2"' });
  expect(await files.version(source)).not.toBe(version);
  expect(await digestOf((await files.acquire(source)).source)).not.toBe(digest);
  // Another query may be another file.
  expect(await files.version({ path: `${server.url('table.parquet')}?id=2` })).not.toBe(await files.version(source));
  // A server that tells no version: the content has to.
  const untold = { path: server.url('untold.csv') };
  const digests: unknown[] = [];
  for (const text of ['a\n1\n', 'a\n1\n', 'a\n2\n']) {
    server.files.set('untold.csv', { bytes: Buffer.from(text), etag: '' });
    digests.push((await files.acquire(untold)).source.digest);
  }
  expect(digests[0]).toBe(digests[1]);
  expect(digests[0]).not.toBe(digests[2]);
  expect(await files.version(untold)).not.toBe(await files.version(untold));
  await files.close();
});

test('files of this machine and of others make one table; those of this machine are left where they are', async () => {
  const files = await openFiles();
  const local = join(folder, 'local.csv');
  await writeFile(local, 'a,b\n1,2\n');
  expect(isRemoteSource({ path: local })).toBe(false);
  expect(isRemoteSource({ path: `file://${local}` })).toBe(false);
  expect(isRemoteSource({ path: 'both', files: [local, 's3://bucket/key.csv'] })).toBe(true);
  expect((await files.acquire({ path: local, delimiter: ',' })).source).toEqual({ path: local, delimiter: ',' });
  expect((await files.acquire({ path: `file://${local}` })).source).toEqual({ path: local });
  const version = await files.version({ path: local });
  server.files.set('remote.csv', { bytes: Buffer.from('a,b\n3,4\n'), etag: '"v"' });
  const both: DataSource = { path: 'both', files: [local, server.url('remote.csv')] };
  const { source } = await files.acquire(both);
  expect(source).toMatchObject({ path: 'both', fileNames: [local, server.url('remote.csv')] });
  expect([...((await readColumns(source, ['a'])).get('a') ?? [])]).toHaveLength(2);
  const reader = await openTable(source);
  const values: number[] = [];
  for await (const { columns } of reader.stream([{ column: 'b', as: 'number' }])) values.push(...(columns[0] ?? []));
  expect(values).toEqual([2, 4]);
  reader.close();
  await writeFile(local, 'a,b\n1,20\n');
  expect(await files.version({ path: local })).not.toBe(version);
  expect((await files.acquire(both)).source.digest).not.toBe(source.digest);
  await files.close();
});

test('messages about the content name the place, not the copy', async () => {
  const files = await openFiles();
  server.files.set('ragged.csv', { bytes: Buffer.from('a,b\n1,2\n1,2,3\n'), etag: '"r"' });
  const { source } = await files.acquire({ path: `${server.url('ragged.csv')}?sig=SECRET` });
  const reading = readColumns(source, ['a']);
  await expect(reading).rejects.toMatchObject({
    code: 'data_unreadable',
    reason: expect.stringContaining(server.url('ragged.csv')),
  });
  await expect(reading).rejects.toMatchObject({ reason: expect.not.stringContaining('copies-') });
  // A bomb is found by its own words before it is unpacked.
  server.files.set('bomb.csv.gz', { bytes: gzipSync(Buffer.alloc(20_000_000, 'a,b\n')), etag: '"z"' });
  const bomb = await files.acquire({ path: server.url('bomb.csv.gz'), maxUnpackedBytes: 1_000_000 });
  await expect(openTable(bomb.source)).rejects.toMatchObject({
    code: 'too_large',
    reason: expect.stringContaining(server.url('bomb.csv.gz')),
  });
  // A download by query has no ending: the format says it.
  server.files.set('download', { bytes: Buffer.from('a,b\n1,2\n'), etag: '"d"' });
  const named = await files.acquire({ path: `${server.url('download')}?id=3`, format: 'csv' });
  expect((await readColumns(named.source, ['a'])).get('a')).toHaveLength(1);
  await files.close();
});

test('who opens a URL as a table is told who makes files of it', async () => {
  for (const path of ['https://host.example/a.csv?sig=SECRET', 's3://bucket/a.parquet', 'ftp://host/a.csv']) {
    const opening = openTable({ path });
    await expect(opening).rejects.toMatchObject({
      code: 'invalid_input',
      reason: expect.stringMatching(/SourceFiles/),
    });
    await expect(opening).rejects.toMatchObject({ reason: expect.not.stringContaining('SECRET') });
  }
  const files = await openFiles();
  await expect(files.acquire({ path: 'ftp://host/a.csv' })).rejects.toMatchObject({ code: 'invalid_input' });
  await files.close();
});
