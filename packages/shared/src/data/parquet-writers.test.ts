import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import type * as Arrow from 'apache-arrow';
import { openTable } from './open-table.js';
import type { CellRequest, TableReader } from './table-reader.js';

const folder = mkdtempSync(join(tmpdir(), 'octomil-writers-'));
afterAll(() => rmSync(folder, { recursive: true }));

const ROWS = 5_000;
const BIG = 9_007_199_254_740_993n;
const CATEGORIES = ['a', 'b', 'c', 'd'];
const dayOf = (i: number) => new Date(Date.UTC(2020, 0, 1) + (i % 1_000) * 86_400_000);

/** What every writer was given, as the reader must hand it over. NaN is a missing cell. */
const EXPECTED: Readonly<Record<string, (i: number) => number>> = {
  big: (i) => Number(BIG + BigInt(i)),
  code: (i) => i % 7,
  value: (i) => (i % 11 === 0 ? Number.NaN : i * 0.25),
  f: (i) => i * 0.5,
  flag: (i) => (i % 3 === 0 ? 1 : 0),
  cat: (i) => (i % 5 === 4 ? Number.NaN : i % 5),
  name: (i) => textContent(`patient-${i}`),
  day: (i) => textContent(dayOf(i).toISOString().slice(0, 10)),
  price: (i) => i / 100,
  small: (i) => i % 256,
};

/** As `content` cells are defined: 52 bits of the MD5. */
function textContent(text: string): number {
  return Number(createHash('md5').update(text).digest().readBigUInt64LE(8) % (1n << 52n));
}

function request(column: string): CellRequest {
  if (column === 'cat') return { column, as: 'level', levels: CATEGORIES };
  if (column === 'flag') return { column, as: 'boolean' };
  return { column, as: column === 'name' || column === 'day' ? 'content' : 'number' };
}

async function expectValues(reader: TableReader, columns = Object.keys(EXPECTED)): Promise<void> {
  try {
    const found = columns.map((): number[] => []);
    for await (const chunk of reader.stream(columns.map(request))) {
      for (const [i, cells] of found.entries()) cells.push(...(chunk.columns[i] ?? []));
    }
    for (const [i, column] of columns.entries()) {
      const expected = Array.from({ length: ROWS }, (_, row) => EXPECTED[column]?.(row));
      expect({ column, cells: found[i] }).toEqual({ column, cells: expected });
    }
    expect(await reader.countRows()).toBe(ROWS);
  } finally {
    reader.close();
  }
}

const DUCKDB_ROWS = `SELECT ${BIG}::BIGINT + i AS big, (i % 7)::INTEGER AS code,
  CASE WHEN i % 11 = 0 THEN NULL ELSE i * 0.25::DOUBLE END AS value, (i * 0.5)::FLOAT AS f, i % 3 = 0 AS flag,
  CASE i % 5 WHEN 0 THEN 'a' WHEN 1 THEN 'b' WHEN 2 THEN 'c' WHEN 3 THEN 'd' END AS cat, 'patient-' || i AS name,
  (DATE '2020-01-01' + (i % 1000)::INTEGER) AS day, (i / 100)::DECIMAL(18,2) AS price, (i % 256)::UTINYINT AS small,
  [i, NULL] AS list, {'x': i} AS nested FROM range(${ROWS}) t(i)`;

async function writeDuckDb(path: string, options: string): Promise<void> {
  const { DuckDBInstance } = await import('@duckdb/node-api');
  const connection = await (await DuckDBInstance.create(':memory:')).connect();
  await connection.run(`COPY (${DUCKDB_ROWS}) TO '${path}' (FORMAT parquet, ${options})`);
  connection.closeSync();
}

const CODECS = ['uncompressed', 'snappy', 'gzip', 'brotli', 'zstd', 'lz4_raw'];

test.each(CODECS.flatMap((codec) => [1, 2].map((version) => [codec, version] as const)))(
  'written by DuckDB: %s, version %i, several row groups',
  async (codec, version) => {
    const path = join(folder, `duckdb-${codec}-${version}.parquet`);
    await writeDuckDb(path, `COMPRESSION ${codec}, PARQUET_VERSION V${version}, ROW_GROUP_SIZE 2048`);
    const reader = await openTable({ path });
    expect(reader.columns.filter(({ family }) => family === 'unsupported').map(({ key }) => key)).toEqual([
      'list',
      'nested',
    ]);
    await expectValues(reader);
  },
);

interface LiteWriter {
  appendRow(row: object): Promise<void>;
  close(): Promise<void>;
}
interface Lite {
  ParquetSchema: new (fields: object) => object;
  ParquetWriter: { openFile(schema: object, path: string, options: object): Promise<LiteWriter> };
}

/** The columns that this writer has types for; its integers end at 2^53. */
const LITE_COLUMNS = ['code', 'value', 'f', 'flag', 'cat', 'name', 'day', 'small'];

async function writeLite(path: string, compression: string, useDataPageV2: boolean): Promise<void> {
  const lite = createRequire(import.meta.url)('parquetjs-lite') as Lite;
  const type = (name: string, optional = false) => ({ type: name, compression, optional });
  const schema = new lite.ParquetSchema({
    code: type('INT32'),
    value: type('DOUBLE', true),
    f: type('FLOAT'),
    flag: type('BOOLEAN'),
    cat: type('UTF8', true),
    name: type('UTF8'),
    day: type('DATE'),
    small: type('UINT_8'),
  });
  const writer = await lite.ParquetWriter.openFile(schema, path, { useDataPageV2, rowGroupSize: 2_048 });
  for (let i = 0; i < ROWS; i++) {
    await writer.appendRow({
      code: i % 7,
      ...(i % 11 === 0 ? {} : { value: i * 0.25 }),
      f: i * 0.5,
      flag: i % 3 === 0,
      ...(i % 5 === 4 ? {} : { cat: CATEGORIES[i % 5] }),
      name: `patient-${i}`,
      day: dayOf(i),
      small: i % 256,
    });
  }
  await writer.close();
}

test.each(['UNCOMPRESSED', 'GZIP', 'SNAPPY'].flatMap((codec) => [false, true].map((v2) => [codec, v2] as const)))(
  'written by parquetjs-lite: %s, data page v2: %s',
  async (codec, v2) => {
    const path = join(folder, `lite-${codec}-${v2}.parquet`);
    await writeLite(path, codec, v2);
    await expectValues(await openTable({ path }), LITE_COLUMNS);
    await expectValues(await openTable({ path, reader: 'parquetjs-lite' }), LITE_COLUMNS);
  },
);

const rows = <T>(of: (i: number) => T): T[] => Array.from({ length: ROWS }, (_, i) => of(i));
const nullable = <T>(of: (i: number) => T, isNull: (i: number) => boolean) => rows((i) => (isNull(i) ? null : of(i)));
const hasNoValue = (i: number) => i % 11 === 0;
const hasNoCategory = (i: number) => i % 5 === 4;

/** Hundredths as the two's complement that Arrow keeps: four words, the lowest first. */
function decimals(arrow: typeof Arrow): Arrow.Vector<Arrow.Decimal> {
  const words = new Uint32Array(ROWS * 4);
  for (let i = 0; i < ROWS; i++) words[i * 4] = i;
  return arrow.makeVector(arrow.makeData({ type: new arrow.Decimal(2, 18, 128), length: ROWS, data: words }));
}

async function arrowRows(): Promise<Uint8Array> {
  const arrow = await import('apache-arrow');
  const category = new arrow.Dictionary(new arrow.Utf8(), new arrow.Int32());
  const table = new arrow.Table({
    big: arrow.vectorFromArray(BigInt64Array.from(rows((i) => BIG + BigInt(i)))),
    code: arrow.vectorFromArray(Int32Array.from(rows((i) => i % 7))),
    value: arrow.vectorFromArray(
      nullable((i) => i * 0.25, hasNoValue),
      new arrow.Float64(),
    ),
    f: arrow.vectorFromArray(Float32Array.from(rows((i) => i * 0.5))),
    flag: arrow.vectorFromArray(
      rows((i) => i % 3 === 0),
      new arrow.Bool(),
    ),
    cat: arrow.vectorFromArray(
      nullable((i) => CATEGORIES[i % 5] ?? '', hasNoCategory),
      category,
    ),
    name: arrow.vectorFromArray(
      rows((i) => `patient-${i}`),
      new arrow.Utf8(),
    ),
    day: arrow.vectorFromArray(rows(dayOf), new arrow.DateDay()),
    price: decimals(arrow),
    small: arrow.vectorFromArray(Uint8Array.from(rows((i) => i % 256))),
  });
  return arrow.tableToIPC(table, 'stream');
}

const ARROW_CODECS = ['UNCOMPRESSED', 'SNAPPY', 'GZIP', 'BROTLI', 'ZSTD', 'LZ4_RAW'] as const;

test.each(ARROW_CODECS.flatMap((codec) => (['V1', 'V2'] as const).map((version) => [codec, version] as const)))(
  'written by arrow-rs: %s, data page %s, several row groups',
  async (codec, version) => {
    const { Compression, Table, WriterPropertiesBuilder, WriterVersion, writeParquet } = await import('parquet-wasm');
    const options = new WriterPropertiesBuilder()
      .setCompression(Compression[codec])
      .setWriterVersion(WriterVersion[version])
      .setMaxRowGroupSize(2_048)
      .build();
    const path = join(folder, `arrow-${codec}-${version}.parquet`);
    writeFileSync(path, writeParquet(Table.fromIPCStream(await arrowRows()), options));
    await expectValues(await openTable({ path }));
  },
);

test.each(['UNCOMPRESSED', 'SNAPPY'] as const)('written by hyparquet-writer: %s', async (codec) => {
  const { parquetWriteBuffer } = await import('hyparquet-writer');
  const path = join(folder, `hyparquet-${codec}.parquet`);
  const bytes = parquetWriteBuffer({
    codec,
    rowGroupSize: 2_048,
    columnData: [
      { name: 'big', type: 'INT64', data: rows((i) => BIG + BigInt(i)) },
      { name: 'code', type: 'INT32', data: rows((i) => i % 7) },
      { name: 'value', type: 'DOUBLE', data: nullable((i) => i * 0.25, hasNoValue), nullable: true },
      { name: 'f', type: 'FLOAT', data: rows((i) => i * 0.5) },
      { name: 'flag', type: 'BOOLEAN', data: rows((i) => i % 3 === 0) },
      { name: 'cat', type: 'STRING', data: nullable((i) => CATEGORIES[i % 5], hasNoCategory), nullable: true },
      { name: 'name', type: 'STRING', data: rows((i) => `patient-${i}`) },
      { name: 'small', type: 'INT32', data: rows((i) => i % 256) },
    ],
  });
  writeFileSync(path, new Uint8Array(bytes));
  await expectValues(await openTable({ path }), ['big', 'code', 'value', 'f', 'flag', 'cat', 'name', 'small']);
});

const PYARROW = `
import sys, datetime, decimal, pyarrow as pa, pyarrow.parquet as pq
n = ${ROWS}
table = pa.table({
  'big': pa.array([${BIG} + i for i in range(n)], pa.int64()),
  'code': pa.array([i % 7 for i in range(n)], pa.int32()).dictionary_encode(),
  'value': pa.array([None if i % 11 == 0 else i * 0.25 for i in range(n)], pa.float64()),
  'f': pa.array([i * 0.5 for i in range(n)], pa.float32()),
  'flag': pa.array([i % 3 == 0 for i in range(n)]),
  'cat': pa.array([None if i % 5 == 4 else 'abcd'[i % 5] for i in range(n)]),
  'name': pa.array(['patient-%d' % i for i in range(n)]),
  'day': pa.array([datetime.date(2020, 1, 1) + datetime.timedelta(days=i % 1000) for i in range(n)]),
  'price': pa.array([decimal.Decimal(i) / 100 for i in range(n)], pa.decimal128(18, 2)),
  'small': pa.array([i % 256 for i in range(n)], pa.uint8()),
})
for codec in ['none', 'snappy', 'gzip', 'brotli', 'zstd', 'lz4']:
  for page in ['1.0', '2.0']:
    pq.write_table(table, sys.argv[1] + '/pyarrow-%s-%s.parquet' % (codec, page), compression=codec, data_page_version=page, row_group_size=2048)
`;
const hasPyarrow = spawnSync('python3', ['-c', 'import pyarrow.parquet']).status === 0;

(hasPyarrow ? test : test.skip)(
  'written by pyarrow: six codecs, both page versions (where Python has it)',
  async () => {
    expect(spawnSync('python3', ['-c', PYARROW, folder], { encoding: 'utf8' }).stderr).toBe('');
    for (const codec of ['none', 'snappy', 'gzip', 'brotli', 'zstd', 'lz4']) {
      for (const page of ['1.0', '2.0']) {
        await expectValues(await openTable({ path: join(folder, `pyarrow-${codec}-${page}.parquet`) }));
      }
    }
  },
);

test('a footer written in half, a footer longer than the file, and bytes that were zeroed are corrupt, and no crash', async () => {
  const whole = join(folder, 'whole.parquet');
  await writeDuckDb(whole, 'COMPRESSION snappy');
  const bytes = readFileSync(whole);
  const footerBytes = bytes.readUInt32LE(bytes.length - 8);
  const halfFooter = bytes.subarray(0, bytes.length - 8 - Math.floor(footerBytes / 2));
  const longFooter = Buffer.from(bytes);
  longFooter.writeUInt32LE(0x7fffffff, bytes.length - 8);
  const zeroedFooter = Buffer.from(bytes);
  zeroedFooter.fill(0, bytes.length - 8 - footerBytes, bytes.length - 8);
  const zeroedPages = Buffer.from(bytes);
  zeroedPages.fill(0, 4, bytes.length - 8 - footerBytes);
  const ended = Buffer.concat([halfFooter, bytes.subarray(bytes.length - 8)]);
  for (const [i, broken] of [halfFooter, ended, longFooter, zeroedFooter, zeroedPages].entries()) {
    const path = join(folder, `broken-${i}.parquet`);
    writeFileSync(path, broken);
    await expect(openTable({ path }).then((reader) => expectValues(reader))).rejects.toMatchObject({
      code: 'corrupt_file',
      reason: expect.stringContaining(path),
    });
  }
});

test('a file cut short while it is open is corrupt, and the next can be read', async () => {
  const path = join(folder, 'shrinks.parquet');
  await writeDuckDb(path, 'COMPRESSION uncompressed');
  const reader = await openTable({ path });
  truncateSync(path, 1_000);
  await expect(expectValues(reader)).rejects.toMatchObject({ code: 'corrupt_file' });
  await writeDuckDb(path, 'COMPRESSION uncompressed');
  await expectValues(await openTable({ path }));
});
