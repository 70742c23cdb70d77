import type { DuckDBConnection } from '@duckdb/node-api';
import { OctomilError } from '@octomil/shared/errors';
import { MISSING_TEXTS } from './cells.js';
import { type CsvDialect, detectDialect } from './csv-dialect.js';
import type { CellRules } from './duckdb-cells.js';
import { readError } from './duckdb-errors.js';
import type { ProfiledColumn } from './duckdb-profile.js';
import { quoteName, quoteText } from './duckdb-session.js';
import type { LocatedFile, LocatedTable } from './locate.js';
import type { DataSource } from './source.js';
import { checkSameColumns, type FileColumns, nameColumns } from './table-columns.js';
import type { ColumnFamily } from './table-reader.js';
import { isGzip } from './unpacked-size.js';

/** A table as queries name it. */
export interface SqlTable {
  /** What follows FROM. */
  readonly from: string;
  readonly columns: readonly ProfiledColumn[];
  readonly rules: CellRules;
}

/** One file as DuckDB can read it. */
interface SqlFile extends FileColumns {
  /** SQL of each column, in the order of `columns`. */
  readonly cells: readonly string[];
  /** Files of equal calls are read by one. */
  call(paths: string): string;
}

/** @throws `data_unreadable`, `corrupt_file`, `invalid_input` as `openTable` */
export async function sqlTable(
  connection: DuckDBConnection,
  source: DataSource,
  { format, files }: LocatedTable,
): Promise<SqlTable> {
  const missingTexts = source.missingTexts ?? [];
  const { thousandsSeparator } = source;
  if (format === 'csv') {
    const dialects = files.map((file) => detectDialect({ ...source, path: file.path }, file.shown));
    const sqlFiles = files.map((file, i) => csvFile(source, file, dialects[i] ?? detectDialect(source)));
    // A file without decimals seems to have the point; the comma is the rarer and so the surer finding.
    const decimalSeparator = dialects.some((dialect) => dialect.decimalSeparator === ',') ? ',' : '.';
    return { ...unite(sqlFiles), rules: { decimalSeparator, thousandsSeparator, missingTexts } };
  }
  const rules: CellRules = { decimalSeparator: '.', thousandsSeparator, missingTexts };
  if (format === 'jsonl') return { ...unite([await jsonlFile(connection, source, files)]), rules };
  const sqlFiles: SqlFile[] = [];
  for (const file of files) {
    try {
      sqlFiles.push(await parquetFile(connection, file));
    } catch (thrown) {
      throw readError(file.shown, format, thrown);
    }
  }
  return { ...unite(sqlFiles), rules: { ...rules, thousandsSeparator: undefined } };
}

function csvFile(source: DataSource, file: LocatedFile, dialect: CsvDialect): SqlFile {
  const { path, shown } = file;
  const columns = nameColumns(
    shown,
    dialect.names.map((name) => ({ name, family: 'text' as const })),
  );
  const options = [
    `auto_detect=false, header=${source.header !== false}, quote='"', escape='"', strict_mode=true`,
    `delim=${quoteText(dialect.delimiter)}`,
    `encoding=${quoteText(dialect.encoding)}`,
    `nullstr=[${[...MISSING_TEXTS, ...(source.missingTexts ?? [])].map(quoteText).join(', ')}]`,
    // Own names, so that no header can clash with SQL; the header line is skipped.
    `columns={${columns.map((_, i) => `'c${i}': 'VARCHAR'`).join(', ')}}`,
    ...(source.comment === undefined ? [] : [`comment=${quoteText(source.comment)}`]),
    `compression=${isGzip(path) ? "'gzip'" : "'none'"}`,
  ];
  return {
    file,
    columns,
    cells: columns.map((_, i) => `c${i}`),
    call: (paths) => `read_csv(${paths}, ${options.join(', ')})`,
  };
}

async function parquetFile(connection: DuckDBConnection, file: LocatedFile): Promise<SqlFile> {
  const call = (paths: string) => `read_parquet(${paths})`;
  const found = await describe(connection, call(quoteText(file.path)));
  const columns = nameColumns(
    file.shown,
    found.map(({ name, type }) => ({ name, family: familyOf(type) })),
  );
  const cells = columns.map(({ family }, i) => {
    const { name, type } = found[i] ?? { name: '', type: '' };
    return family !== 'text' || type === 'VARCHAR' ? quoteName(name) : `CAST(${quoteName(name)} AS VARCHAR)`;
  });
  return { file, columns, cells, call };
}

/**
 * An object a line. Keys that an object lacks are missing cells, and so all files are read as one; numbers become the
 * text they were written as, so that the same rules hold as for CSV.
 */
async function jsonlFile(
  connection: DuckDBConnection,
  source: DataSource,
  files: LocatedTable['files'],
): Promise<SqlFile> {
  const [file] = files;
  const packed = isGzip(file.path);
  const odd = files.find(({ path }) => isGzip(path) !== packed);
  if (odd !== undefined) {
    throw new OctomilError(
      'data_unreadable',
      `${source.path}: ${odd.shown} and ${file.shown} are not compressed alike`,
    );
  }
  const paths = `[${files.map(({ path }) => quoteText(path)).join(', ')}]`;
  const options = `format='newline_delimited', compression=${packed ? "'gzip'" : "'uncompressed'"}`;
  // Every line is looked at, for its names only: a key may first appear in the last.
  const scan = `read_json(${paths}, ${options}, maximum_depth=1, sample_size=-1, maximum_sample_files=${files.length}, union_by_name=true)`;
  const found = await describe(connection, scan);
  if (found.length === 0 || found.some(({ type }) => type !== 'JSON')) {
    throw new OctomilError(
      'data_unreadable',
      `${source.path}: every line must be one JSON object, such as {"age": 63, "sex": "f"}`,
    );
  }
  const columns = nameColumns(
    source.path,
    found.map(({ name }) => ({ name, family: 'text' as const })),
  );
  const types = found.map(({ name }) => `${quoteText(name)}: 'VARCHAR'`).join(', ');
  return {
    file,
    columns,
    cells: found.map(({ name }) => quoteName(name)),
    call: () => `read_json(${paths}, ${options}, columns={${types}})`,
  };
}

async function describe(connection: DuckDBConnection, from: string): Promise<{ name: string; type: string }[]> {
  const rows = await (await connection.run(`DESCRIBE SELECT * FROM ${from}`)).getRows();
  return rows.map(([name, type]) => ({ name: String(name), type: String(type) }));
}

/** One table of files, in their order: neighbours that are read alike by one call. */
function unite(files: readonly SqlFile[]): Omit<SqlTable, 'rules'> {
  const [first, ...others] = files;
  if (first === undefined) throw new OctomilError('internal', 'a table of no files');
  for (const other of others) checkSameColumns(first, other);
  const runs: { file: SqlFile; mark: string; paths: string[] }[] = [];
  for (const file of files) {
    const mark = JSON.stringify([file.call(''), file.columns, file.cells]);
    const last = runs.at(-1);
    const path = quoteText(file.file.path);
    if (last?.mark === mark) last.paths.push(path);
    else runs.push({ file, mark, paths: [path] });
  }
  const call = ({ file, paths }: (typeof runs)[number]) => file.call(`[${paths.join(', ')}]`);
  const [only] = runs;
  if (only !== undefined && runs.length === 1) {
    const columns = first.columns.map((column, i) => ({
      column,
      sql: { sql: first.cells[i] ?? '', family: column.family },
    }));
    return { from: call(only), columns };
  }
  const selects = runs.map((run) => {
    const cellOf = new Map(run.file.columns.map(({ key }, i) => [key, run.file.cells[i] ?? '']));
    const selected = first.columns.map(({ key }, i) => `${cellOf.get(key) ?? 'NULL'} AS c${i}`);
    return `SELECT ${selected.join(', ')} FROM ${call(run)}`;
  });
  return {
    from: `(${selects.join(' UNION ALL ')})`,
    columns: first.columns.map((column, i) => ({ column, sql: { sql: `c${i}`, family: column.family } })),
  };
}

function familyOf(type: string): ColumnFamily {
  if (/^ENUM/.test(type)) return 'text';
  if (/\[|^(STRUCT|MAP|UNION)/.test(type)) return 'unsupported';
  if (/^(U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL)/.test(type)) return 'number';
  if (type === 'BOOLEAN') return 'boolean';
  if (/^(VARCHAR|UUID)/.test(type)) return 'text';
  if (/^(DATE|TIME|INTERVAL)/.test(type)) return 'time';
  return 'unsupported';
}
