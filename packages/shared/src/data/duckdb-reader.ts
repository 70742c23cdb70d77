import { OctomilError } from '@octomil/shared/errors';
import type { CellRules } from './duckdb-cells.js';
import { readError } from './duckdb-errors.js';
import { type ProfiledColumn, profileColumns } from './duckdb-profile.js';
import { type DuckDbSession, openDuckDb } from './duckdb-session.js';
import { planStream } from './duckdb-stream.js';
import { type SqlTable, sqlTable } from './duckdb-tables.js';
import { type LocatedTable, locate } from './locate.js';
import type { MemoryBudget } from './memory-budget.js';
import type { DataSource } from './source.js';
import type {
  CellChunk,
  CellRequest,
  ColumnProfile,
  ProfileRequest,
  TableColumn,
  TableReader,
} from './table-reader.js';
import { checkGzip, DEFAULT_MAX_UNPACKED_BYTES, isGzip } from './unpacked-size.js';

/**
 * Opens the local files of a table with DuckDB. Close it when done.
 *
 * A CSV file is read as text and typed by our own rules over all rows, never by a sample: a letter in row 30,001
 * or a code such as `01234` is then seen for what it is.
 *
 * @throws `data_unreadable` where there is no such file, it may not be read, is empty, has no header, two columns of
 * the same name or too many, and for files of one table with different columns; `corrupt_file` for a Parquet or gzip
 * file cut short; `too_large` for a compressed file that unpacks to more than it may; `invalid_input` for options that
 * contradict each other.
 */
export async function openDuckDbTable(source: DataSource, { readerBytes }: MemoryBudget): Promise<TableReader> {
  const table = locate(source);
  const { format, files } = table;
  for (const file of files) {
    if (format === 'parquet') continue;
    if (file.sizeBytes === 0) {
      throw new OctomilError(
        'data_unreadable',
        `${file.shown} is empty; it needs ${format === 'csv' ? 'a header line and ' : ''}rows`,
      );
    }
    if (isGzip(file.path)) await checkGzip(file, source.maxUnpackedBytes ?? DEFAULT_MAX_UNPACKED_BYTES);
  }
  const session = await openDuckDb(
    files.map(({ path }) => path),
    readerBytes,
  );
  try {
    return new DuckDbReader(session, source, table, await sqlTable(session.connection, source, table));
  } catch (thrown) {
    session.close();
    throw readErrorOf(source, table, thrown);
  }
}

/** Names the file of a table of many, where DuckDB does. */
function readErrorOf({ path }: DataSource, { format, files }: LocatedTable, thrown: unknown): OctomilError {
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  const file = files.length === 1 ? undefined : files.find((one) => message.includes(one.path));
  return readError(file?.shown ?? path, format, thrown);
}

class DuckDbReader implements TableReader {
  readonly columns: readonly TableColumn[];
  readonly source: DataSource;
  readonly #session: DuckDbSession;
  readonly #table: string;
  readonly #bound: ReadonlyMap<string, ProfiledColumn>;
  readonly #rules: CellRules;
  readonly #files: LocatedTable;

  constructor(session: DuckDbSession, source: DataSource, files: LocatedTable, table: SqlTable) {
    this.#session = session;
    this.source = source;
    this.#files = files;
    this.#table = table.from;
    this.columns = table.columns.map(({ column }) => column);
    this.#bound = new Map(table.columns.map((entry) => [entry.column.key, entry]));
    this.#rules = table.rules;
  }

  async countRows(): Promise<number> {
    return await this.#mapped(async () => {
      const result = await this.#session.connection.run(`SELECT count(*) FROM ${this.#table}`);
      return Number((await result.getRows())[0]?.[0] ?? 0);
    });
  }

  async knownRows(): Promise<number | undefined> {
    return this.#files.format === 'parquet' ? await this.countRows() : undefined;
  }

  async profile(request: ProfileRequest): Promise<ColumnProfile[]> {
    const columns = request.columns.map((key) => this.#column(key));
    return await this.#mapped(() =>
      profileColumns(this.#session.connection, this.#table, columns, request, this.#rules),
    );
  }

  async *stream(cells: readonly CellRequest[]): AsyncGenerator<CellChunk> {
    const plan = planStream(cells, (key) => this.#column(key).sql, this.#rules);
    const sql = `SELECT ${plan.select} FROM ${this.#table}`;
    const result = await this.#mapped(() => this.#session.connection.stream(sql));
    for (;;) {
      const chunk = await this.#mapped(() => result.fetchChunk());
      if (chunk === null || chunk.rowCount === 0) return;
      yield { rows: chunk.rowCount, columns: plan.read(chunk) };
    }
  }

  close(): void {
    this.#session.close();
  }

  #column(key: string): ProfiledColumn {
    const found = this.#bound.get(key);
    if (found === undefined) {
      throw new OctomilError('data_mismatch', `${this.source.path} has no column "${key}"`);
    }
    return found;
  }

  async #mapped<T>(read: () => Promise<T>): Promise<T> {
    try {
      return await read();
    } catch (thrown) {
      throw readErrorOf(this.source, this.#files, thrown);
    }
  }
}
