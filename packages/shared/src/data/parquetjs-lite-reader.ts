import { closeSync, openSync, readSync } from 'node:fs';
import { createRequire } from 'node:module';
import { OctomilError } from '@octomil/shared/errors';
import { trimCell } from './cells.js';
import { type LocatedFile, locate } from './locate.js';
import type { DataSource } from './source.js';
import { nameColumns } from './table-columns.js';
import type {
  CellChunk,
  CellRequest,
  ColumnFamily,
  ColumnProfile,
  ProfileRequest,
  TableColumn,
  TableReader,
} from './table-reader.js';
import { type CellValue, cellOfValue } from './value-cells.js';
import { ValueProfile } from './value-profile.js';

const CHUNK_ROWS = 2_048;

/** What is used of the library, which has no types of its own. */
interface LiteField {
  readonly primitiveType?: string;
  readonly originalType?: string;
  readonly rLevelMax: number;
  readonly isNested?: boolean;
}
type LiteRow = Readonly<Record<string, CellValue>>;
interface LiteFile {
  getSchema(): { readonly fields: Readonly<Record<string, LiteField>> };
  getRowCount(): unknown;
  getCursor(columns: string[]): { next(): Promise<LiteRow | null | undefined> };
  close(): Promise<void>;
}
interface LiteModule {
  readonly ParquetReader: { openFile(path: string): Promise<LiteFile> };
}

/**
 * Opens a single Parquet file with parquetjs-lite, for machines on which DuckDB cannot be. The library is installed by
 * who wants it. It reads version 1 files of plain and dictionary pages, uncompressed, gzip or snappy, without decimals, and
 * a row group at a time is held in memory. 64-bit integers beyond 2^53 are rounded.
 *
 * @throws `data_unreadable` where the library is not installed or does not know the file's kind; `corrupt_file`;
 * `invalid_input` for a source that is no Parquet.
 */
export async function openParquetjsLite(source: DataSource): Promise<TableReader> {
  const { format, files } = locate(source);
  const [file, ...others] = files;
  if (format !== 'parquet' || others.length > 0) {
    throw new OctomilError(
      'invalid_input',
      `${source.path}: the reader parquetjs-lite reads a single Parquet file; use the reader duckdb`,
    );
  }
  const { ParquetReader } = load();
  checkFrame(file);
  try {
    const lite = await ParquetReader.openFile(file.path);
    return new LiteReader(source, lite);
  } catch (thrown) {
    throw liteError(source.path, thrown);
  }
}

function load(): LiteModule {
  try {
    return createRequire(import.meta.url)('parquetjs-lite') as LiteModule;
  } catch (cause) {
    throw new OctomilError(
      'data_unreadable',
      'the reader parquetjs-lite is not installed; run "npm install parquetjs-lite", or use the reader duckdb',
      { cause },
    );
  }
}

/** The library trusts the length of the footer. */
function checkFrame({ path, shown, sizeBytes }: LocatedFile): void {
  const end = Buffer.alloc(8);
  const file = openSync(path, 'r');
  try {
    readSync(file, end, 0, 8, Math.max(0, sizeBytes - 8));
  } finally {
    closeSync(file);
  }
  if (sizeBytes < 12 || end.toString('latin1', 4) !== 'PAR1' || end.readUInt32LE(0) > sizeBytes - 12) {
    throw new OctomilError(
      'corrupt_file',
      `${shown} is not a whole Parquet file (cut short or damaged); copy or export it again`,
    );
  }
}

/** The library throws texts, and its own limits read like damage. */
function liteError(path: string, thrown: unknown): OctomilError {
  if (thrown instanceof OctomilError) return thrown;
  const text = thrown instanceof Error ? thrown.message : String(thrown);
  // Its own words only: anything longer might quote the file.
  const known = /^(?:invalid|unsupported|unknown) [a-z ]+(?:: ?[A-Z0-9_]+)?/i.exec(text)?.[0];
  return new OctomilError(
    'data_unreadable',
    `${path} cannot be read by parquetjs-lite (${known ?? 'damaged, or of a kind that it does not know'}); use the reader duckdb`,
  );
}

interface LiteColumn {
  readonly column: TableColumn;
  /** As the file spells it. */
  readonly field: string;
  readonly isDate: boolean;
}

class LiteReader implements TableReader {
  readonly source: DataSource;
  readonly columns: readonly TableColumn[];
  readonly #lite: LiteFile;
  readonly #bound: ReadonlyMap<string, LiteColumn>;
  readonly #missingTexts: ReadonlySet<string>;

  constructor(source: DataSource, lite: LiteFile) {
    const fields = Object.entries(lite.getSchema().fields);
    this.source = source;
    this.#lite = lite;
    this.columns = nameColumns(
      source.path,
      fields.map(([name, field]) => ({ name, family: familyOf(field) })),
    );
    this.#bound = new Map(
      this.columns.map((column, i) => {
        const [field = '', { originalType } = { originalType: '' }] = fields[i] ?? [];
        return [column.key, { column, field, isDate: originalType === 'DATE' }];
      }),
    );
    this.#missingTexts = new Set((source.missingTexts ?? []).map(trimCell));
  }

  countRows(): Promise<number> {
    return Promise.resolve(Number(this.#lite.getRowCount()));
  }

  knownRows(): Promise<number> {
    return this.countRows();
  }

  async profile(request: ProfileRequest): Promise<ColumnProfile[]> {
    const columns = request.columns.map((key) => this.#column(key));
    const profiles = columns.map(
      ({ column }) =>
        new ValueProfile(column, request.maxLevels, request.missingMarkers.get(column.key) ?? [], this.#missingTexts),
    );
    for await (const row of this.#rows(columns)) {
      for (const [i, column] of columns.entries()) profiles[i]?.add(valueIn(row, column));
    }
    return profiles.map((profile) => profile.take());
  }

  async *stream(cells: readonly CellRequest[]): AsyncGenerator<CellChunk> {
    const columns = cells.map(({ column }) => this.#column(column));
    const chunk = cells.map(() => new Float64Array(CHUNK_ROWS));
    let rows = 0;
    for await (const row of this.#rows(columns)) {
      for (const [i, request] of cells.entries()) {
        const column = columns[i];
        const to = chunk[i];
        if (column === undefined || to === undefined) continue;
        to[rows] = cellOfValue(valueIn(row, column), column.column.family, request, this.#missingTexts);
      }
      rows++;
      if (rows < CHUNK_ROWS) continue;
      yield { rows, columns: chunk };
      rows = 0;
    }
    if (rows > 0) yield { rows, columns: chunk.map((column) => column.subarray(0, rows)) };
  }

  close(): void {
    this.#lite.close().catch(() => undefined);
  }

  async *#rows(columns: readonly LiteColumn[]): AsyncGenerator<LiteRow> {
    // No column at all would mean every column.
    const fields = [...new Set(columns.map(({ field }) => field))];
    const cursor = this.#lite.getCursor(fields);
    for (;;) {
      let row: LiteRow | null | undefined;
      try {
        row = await cursor.next();
      } catch (thrown) {
        throw liteError(this.source.path, thrown);
      }
      if (row === null || row === undefined) return;
      yield row;
    }
  }

  #column(key: string): LiteColumn {
    const found = this.#bound.get(key);
    if (found === undefined) throw new OctomilError('data_mismatch', `${this.source.path} has no column "${key}"`);
    return found;
  }
}

function familyOf({ primitiveType, originalType, rLevelMax, isNested }: LiteField): ColumnFamily {
  if (isNested === true || rLevelMax > 0 || primitiveType === 'INT96') return 'unsupported';
  if (originalType === 'UTF8' || originalType === 'ENUM') return 'text';
  if (originalType === 'DATE' || originalType?.startsWith('TIMESTAMP') === true) return 'time';
  if (primitiveType === 'BOOLEAN') return 'boolean';
  const isNumber = /^(INT32|INT64|FLOAT|DOUBLE)$/.test(primitiveType ?? '');
  return isNumber && !/^(TIME_|INTERVAL|DECIMAL)/.test(originalType ?? '') ? 'number' : 'unsupported';
}

/** Times in DuckDB's spelling, so that equal cells have equal content whatever reads them. */
function valueIn(row: LiteRow, { field, isDate }: LiteColumn): CellValue {
  const value = row[field];
  if (!(value instanceof Date)) return value;
  if (Number.isNaN(value.getTime())) return null;
  const text = value.toISOString();
  // "2020-01-01 12:00:00.5": no zeros at the end of the fraction, and no fraction of zero.
  return isDate
    ? text.slice(0, 10)
    : text
        .slice(0, -1)
        .replace('T', ' ')
        .replace(/\.?0{1,3}$/, '');
}
