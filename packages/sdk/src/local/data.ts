import { open, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type DataSource,
  formatOfName,
  isPictureFolder,
  isRemoteSource,
  parseSourceUrl,
  SourceFiles,
} from '@octomil/shared/data';
import { systemClock } from '@octomil/shared/runtime';
import { OctomilClientError } from '../client-error.js';

/** One row by column name. Null, undefined and NaN are missing values. */
export type ClientRow = Readonly<Record<string, string | number | boolean | bigint | Date | null | undefined>>;

/**
 * A table: rows, or where it lies: a path, folder or pattern, `file:`, `s3://`, `gs://`, `az://`, `abfss://` or `https://`.
 * Credentials are each provider's usual ones. A folder on this machine may hold pictures in a folder for each class, or with
 * a `labels.csv`.
 */
export type TrainingData = string | URL | readonly ClientRow[];

export interface OpenDataOptions {
  /** Where copies go; the caller removes it. */
  readonly folder: string;
  /** Largest download, in bytes; more is refused. */
  readonly maxDownloadBytes: number;
  readonly signal: AbortSignal | undefined;
}

/** A JSON file is read whole. */
const MAX_JSON_BYTES = 256 * 1024 * 1024;

/**
 * Lends a local table of whatever the caller has. Paths are used as they are, but for JSON; all else is copied to `folder`.
 *
 * @throws OctomilError `data_unreadable` and others as `SourceFiles.acquire`; `too_large`, `cancelled`; `invalid_input` for
 * URLs of no kind, and rows that hold something other than values; as `work`
 */
export async function withData<T>(
  data: TrainingData,
  options: OpenDataOptions,
  work: (source: DataSource) => Promise<T>,
): Promise<T> {
  if (typeof data !== 'string' && !(data instanceof URL)) return work(await rowsFile(data, options.folder));
  const { folder, maxDownloadBytes, signal } = options;
  const source = { path: data instanceof URL ? data.href : data };
  if (!isRemoteSource(source)) return work(await localTable(localPath(source.path), options));
  // Says what is wrong with a URL before anything is opened.
  parseSourceUrl(source.path);
  const files = await SourceFiles.open({
    folder,
    maxBytes: maxDownloadBytes,
    environment: process.env,
    clock: systemClock,
  });
  try {
    const acquired = await files.acquire(source, { signal });
    const [copy, ...others] = acquired.source.files ?? [];
    // One that calls itself nothing known is JSON or CSV, as on this machine.
    const unknown = copy !== undefined && others.length === 0 && formatOfName(copy) === undefined;
    return await work(unknown ? await localTable(copy, options) : acquired.source);
  } finally {
    await files.close();
  }
}

const localPath = (path: string): string => (/^file:/i.test(path) ? parseSourceUrl(path).key : path);

async function localTable(path: string, { folder }: OpenDataOptions): Promise<DataSource> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isDirectory() === true) return isPictureFolder(path) ? { path, images: {} } : { path };
  if (found === undefined || formatOfName(path) !== undefined) return { path };
  // The ending decides, and what has none that is known is read as CSV.
  if (!/\.json$/i.test(path)) return { path, format: 'csv' };
  if (found.size > MAX_JSON_BYTES) {
    throw new OctomilClientError(
      'too_large',
      `${path} has ${found.size} bytes; JSON is read up to ${MAX_JSON_BYTES}: convert it to JSON lines, CSV or Parquet`,
    );
  }
  return rowsFile(parseRows(await readFile(path, 'utf8'), path), folder);
}

/** One object a line; or a whole array of them. */
function parseRows(text: string, path: string): ClientRow[] {
  for (const read of [
    () =>
      text
        .split('\n')
        .filter((line) => line.trim() !== '')
        .map((line): unknown => JSON.parse(line)),
    (): unknown => JSON.parse(text),
  ]) {
    try {
      const rows = read();
      const inner = Array.isArray(rows) && rows.length === 1 && Array.isArray(rows[0]) ? (rows[0] as unknown[]) : rows;
      if (
        Array.isArray(inner) &&
        inner.every((row) => typeof row === 'object' && row !== null && !Array.isArray(row))
      ) {
        return inner as ClientRow[];
      }
    } catch {
      // The other way of reading it follows.
    }
  }
  throw new OctomilClientError('data_unreadable', `${path} is neither an object a line nor an array of objects`);
}

/** Rows as a CSV file: RFC 4180, columns in the order in which they first appear. */
async function rowsFile(rows: readonly ClientRow[], folder: string): Promise<DataSource> {
  if (!Array.isArray(rows) || rows.length === 0) {
    throw new OctomilClientError(
      'invalid_input',
      'data holds no rows; give a path, a URL, an array of objects, or weights as { name: { shape, data } }',
    );
  }
  const columns = new Set<string>();
  for (const row of rows) {
    if (typeof row !== 'object' || row === null || Array.isArray(row)) {
      throw new OctomilClientError('invalid_input', 'each row of data must be an object of values by column name');
    }
    for (const name of Object.keys(row)) columns.add(name);
  }
  const names = [...columns];
  if (names.length === 0) throw new OctomilClientError('invalid_input', 'the rows of data have no columns');
  const path = join(folder, 'rows.csv');
  const file = await open(path, 'wx', 0o600);
  try {
    await writeFile(file, `${names.map((name) => quoted(name)).join(',')}\n`);
    for (let start = 0; start < rows.length; start += 1_000) {
      const lines = rows.slice(start, start + 1_000).map((row) => names.map((name) => cell(row[name], name)).join(','));
      await writeFile(file, `${lines.join('\n')}\n`);
    }
  } finally {
    await file.close();
  }
  return { path, format: 'csv', delimiter: ',', decimalSeparator: '.', encoding: 'utf-8' };
}

function cell(value: unknown, column: string): string {
  if (value === undefined || value === null || Number.isNaN(value)) return '';
  if (typeof value === 'string') return quoted(value);
  if (typeof value === 'number' || typeof value === 'boolean' || typeof value === 'bigint') return String(value);
  if (value instanceof Date) return value.toISOString();
  throw new OctomilClientError(
    'invalid_input',
    `column "${column}" holds a ${typeof value}; a cell is a text, number, boolean or date`,
  );
}

function quoted(text: string): string {
  return /[",\r\n]/.test(text) || text.trim() !== text ? `"${text.replaceAll('"', '""')}"` : text;
}
