import { createWriteStream } from 'node:fs';
import { open, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import type { DataSource } from '@octomil/shared/data';
import { OctomilClientError } from '../client-error.js';

/** One row by column name. Null, undefined and NaN are missing values. */
export type ClientRow = Readonly<Record<string, string | number | boolean | bigint | Date | null | undefined>>;

/** A table: a path or URL of a file, or rows. */
export type TrainingData = string | URL | readonly ClientRow[];

export interface OpenDataOptions {
  /** Where copies go; the caller removes it. */
  readonly folder: string;
  /** Largest download, in bytes; more is refused. */
  readonly maxDownloadBytes: number;
  readonly fetch: typeof fetch;
  readonly signal: AbortSignal | undefined;
}

/** A JSON file is read whole. */
const MAX_JSON_BYTES = 256 * 1024 * 1024;
const BUCKETS = ['s3:', 'gs:', 'az:', 'abfs:', 'abfss:'];

/**
 * Makes a local file of whatever the caller has. A path is used as it is, but for JSON; all else is copied to `folder`.
 *
 * @throws OctomilClientError `data_unreadable` for what cannot be read, `too_large`, `cancelled`; `invalid_input` for
 * rows that hold something other than values
 */
export async function openData(data: TrainingData, options: OpenDataOptions): Promise<DataSource> {
  if (typeof data !== 'string' && !(data instanceof URL)) return rowsFile(data, options.folder);
  const url = urlOf(data);
  if (url === undefined) return localFile(String(data), options);
  if (url.protocol === 'file:') return localFile(fileURLToPath(url), options);
  if (BUCKETS.includes(url.protocol)) {
    throw new OctomilClientError(
      'data_unreadable',
      `${url.protocol}// data is not supported by this version; download the file and give its path, or an https:// URL that may be read`,
    );
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new OctomilClientError(
      'data_unreadable',
      `${url.protocol}// is not a kind of data; give a path, an https:// URL or rows`,
    );
  }
  return localFile(await download(url, options), options);
}

function urlOf(data: string | URL): URL | undefined {
  if (data instanceof URL) return data;
  // One letter before the colon is a drive of Windows.
  return /^[a-z][a-z0-9+.-]+:\/\//i.test(data) && URL.canParse(data) ? new URL(data) : undefined;
}

async function localFile(path: string, { folder }: OpenDataOptions): Promise<DataSource> {
  if (!/\.jsonl?$/i.test(path)) {
    // The ending decides, and what has none that is known is read as CSV.
    return /\.(parquet|pq|csv|tsv|txt)(\.gz)?$/i.test(path) ? { path } : { path, format: 'csv' };
  }
  const { size } = await stat(path).catch((cause: unknown) => {
    throw new OctomilClientError('data_unreadable', `${path}: there is no such file; check the path`, { cause });
  });
  if (size > MAX_JSON_BYTES) {
    throw new OctomilClientError(
      'too_large',
      `${path} has ${size} bytes; JSON is read up to ${MAX_JSON_BYTES}: convert it to CSV or Parquet`,
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

async function download(url: URL, options: OpenDataOptions): Promise<string> {
  const { folder, maxDownloadBytes, signal } = options;
  const ending = /\.(parquet|pq|csv|tsv|txt|jsonl?)(\.gz)?$/i.exec(url.pathname)?.[0].toLowerCase() ?? '.csv';
  const path = join(folder, `download${ending}`);
  const shown = `${url.origin}${url.pathname}`;
  const refuse = (bytes: number): OctomilClientError =>
    new OctomilClientError('too_large', `${shown} has ${bytes} bytes or more; maxDownloadBytes is ${maxDownloadBytes}`);
  try {
    const response = await options.fetch(url, signal === undefined ? {} : { signal });
    if (!response.ok || response.body === null) {
      throw new OctomilClientError('data_unreadable', `${shown} was answered with HTTP ${response.status}`, {
        status: response.status,
      });
    }
    const announced = Number(response.headers.get('content-length') ?? 0);
    if (announced > maxDownloadBytes) {
      await response.body.cancel();
      throw refuse(announced);
    }
    let bytes = 0;
    const counted = async function* (chunks: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
      for await (const chunk of chunks) {
        bytes += chunk.length;
        if (bytes > maxDownloadBytes) throw refuse(bytes);
        yield chunk;
      }
    };
    const body = Readable.fromWeb(response.body as Parameters<typeof Readable.fromWeb>[0]);
    await pipeline(body, counted, createWriteStream(path, { mode: 0o600 }), signal === undefined ? {} : { signal });
    return path;
  } catch (cause) {
    if (cause instanceof OctomilClientError) throw cause;
    if (signal?.aborted === true)
      throw new OctomilClientError('cancelled', `reading ${shown} was cancelled`, { cause });
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new OctomilClientError('data_unreadable', `${shown} cannot be read: ${why}`, { cause });
  }
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
    await file.write(`${names.map((name) => quoted(name)).join(',')}\n`);
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
