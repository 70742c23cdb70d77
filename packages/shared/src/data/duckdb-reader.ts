import { OctomilError } from '@octomil/shared/errors';
import { foldName, MISSING_TEXTS } from './cells.js';
import { detectDialect } from './csv-dialect.js';
import type { CellRules } from './duckdb-cells.js';
import { readError } from './duckdb-errors.js';
import { type ProfiledColumn, profileColumns } from './duckdb-profile.js';
import { type DuckDbSession, openDuckDb, quoteName, quoteText } from './duckdb-session.js';
import { planStream } from './duckdb-stream.js';
import { type LocatedFile, locate } from './locate.js';
import type { DataSource } from './source.js';
import type {
  CellChunk,
  CellRequest,
  ColumnFamily,
  ColumnProfile,
  ProfileRequest,
  TableColumn,
  TableReader,
} from './table-reader.js';

/** More columns than this are refused: a wide table is a mistake (rows and columns swapped) more often than not. */
export const MAX_COLUMNS = 10_001;

/**
 * Opens a local CSV or Parquet file with DuckDB. Close it when done.
 *
 * A CSV file is read as text and typed by our own rules over all rows, never by a sample: a letter in row 30,001
 * or a code such as `01234` is then seen for what it is.
 *
 * @throws `data_unreadable` where there is no such file, it may not be read, is empty, has no header, two columns of
 * the same name or too many; `corrupt_file` for a Parquet file cut short.
 */
export async function openTable(source: DataSource): Promise<TableReader> {
  const file = locate(source);
  if (file.format === 'csv' && file.sizeBytes === 0) {
    throw new OctomilError('data_unreadable', `${source.path} is empty; it needs a header line and rows`);
  }
  const session = await openDuckDb(file.path);
  try {
    return file.format === 'csv' ? openCsv(session, source, file) : await openParquet(session, source, file);
  } catch (thrown) {
    session.close();
    throw readError(source.path, file.format, thrown);
  }
}

function openCsv(session: DuckDbSession, source: DataSource, file: LocatedFile): TableReader {
  const dialect = detectDialect({ ...source, path: file.path });
  const columns = nameColumns(
    source.path,
    dialect.names.map((name) => ({ name, family: 'text' as const })),
  );
  const missingTexts = source.missingTexts ?? [];
  const options = [
    `auto_detect=false, header=true, quote='"', escape='"', strict_mode=true`,
    `delim=${quoteText(dialect.delimiter)}`,
    `encoding=${quoteText(dialect.encoding)}`,
    `nullstr=[${[...MISSING_TEXTS, ...missingTexts].map(quoteText).join(', ')}]`,
    // Own names, so that no header can clash with SQL; the header line is skipped.
    `columns={${columns.map((_, i) => `'c${i}': 'VARCHAR'`).join(', ')}}`,
    ...(/\.gz$/i.test(source.path) ? ["compression='gzip'"] : []),
  ];
  return new DuckDbReader(
    session,
    source,
    `read_csv(${quoteText(file.path)}, ${options.join(', ')})`,
    columns.map((column, i) => ({ column, sql: { sql: `c${i}`, family: 'text' } })),
    { decimalSeparator: dialect.decimalSeparator, missingTexts },
    'csv',
  );
}

async function openParquet(session: DuckDbSession, source: DataSource, file: LocatedFile): Promise<TableReader> {
  const table = `read_parquet(${quoteText(file.path)})`;
  const described = await (await session.connection.run(`DESCRIBE SELECT * FROM ${table}`)).getRows();
  const found = described.map(([name, type]) => ({ name: String(name), type: String(type) }));
  const columns = nameColumns(
    source.path,
    found.map(({ name, type }) => ({ name, family: familyOf(type) })),
  );
  return new DuckDbReader(
    session,
    source,
    table,
    columns.map((column, i) => {
      const quoted = quoteName(found[i]?.name ?? column.name);
      const plain = column.family !== 'text' || found[i]?.type === 'VARCHAR';
      return { column, sql: { sql: plain ? quoted : `CAST(${quoted} AS VARCHAR)`, family: column.family } };
    }),
    { decimalSeparator: '.', missingTexts: source.missingTexts ?? [] },
    'parquet',
  );
}

function familyOf(type: string): ColumnFamily {
  if (/\[|^(STRUCT|MAP|UNION)/.test(type)) return 'unsupported';
  if (/^(U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL)/.test(type)) return 'number';
  if (type === 'BOOLEAN') return 'boolean';
  if (/^(VARCHAR|UUID|ENUM)/.test(type)) return 'text';
  if (/^(DATE|TIME|INTERVAL)/.test(type)) return 'time';
  return 'unsupported';
}

function nameColumns(path: string, found: readonly { name: string; family: ColumnFamily }[]): TableColumn[] {
  if (found.length > MAX_COLUMNS) {
    throw new OctomilError(
      'data_unreadable',
      `${path} has ${found.length} columns; at most ${MAX_COLUMNS} can be read. Are rows and columns swapped?`,
    );
  }
  const byKey = new Map<string, string>();
  return found.map(({ name: spelled, family }, index) => {
    // Spreadsheets and data frames write the row number under an empty name.
    const name = spelled.trim() === '' ? `unnamed_${index + 1}` : spelled.trim();
    const key = foldName(name);
    const other = byKey.get(key);
    if (other !== undefined) {
      throw new OctomilError(
        'data_unreadable',
        `${path} has two columns called "${name}"${other === name ? '' : ` ("${other}" counts as the same: case, spaces and - _ . make no difference)`}; rename or drop one`,
      );
    }
    byKey.set(key, name);
    return { name, key, family };
  });
}

class DuckDbReader implements TableReader {
  readonly columns: readonly TableColumn[];
  readonly source: DataSource;
  readonly #session: DuckDbSession;
  readonly #table: string;
  readonly #bound: ReadonlyMap<string, ProfiledColumn>;
  readonly #rules: CellRules;
  readonly #format: 'csv' | 'parquet';

  constructor(
    session: DuckDbSession,
    source: DataSource,
    table: string,
    bound: readonly ProfiledColumn[],
    rules: CellRules,
    format: 'csv' | 'parquet',
  ) {
    this.#session = session;
    this.source = source;
    this.#table = table;
    this.columns = bound.map(({ column }) => column);
    this.#bound = new Map(bound.map((entry) => [entry.column.key, entry]));
    this.#rules = rules;
    this.#format = format;
  }

  async countRows(): Promise<number> {
    return await this.#mapped(async () => {
      const result = await this.#session.connection.run(`SELECT count(*) FROM ${this.#table}`);
      return Number((await result.getRows())[0]?.[0] ?? 0);
    });
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
      throw readError(this.source.path, this.#format, thrown);
    }
  }
}
