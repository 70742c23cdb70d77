import { OctomilError } from '@octomil/shared/errors';
import { openDuckDbTable } from './duckdb-reader.js';
import { openParquetjsLite } from './parquetjs-lite-reader.js';
import { type DataSource, READERS } from './source.js';
import type { TableReader } from './table-reader.js';

/**
 * Opens the local files of a table with the reader that the source names. Close it when done.
 *
 * @throws `data_unreadable`, `corrupt_file`, `too_large` and `invalid_input` as `openDuckDbTable` and `openParquetjsLite`.
 */
export async function openTable(source: DataSource): Promise<TableReader> {
  const { reader = 'duckdb' } = source;
  if (!READERS.includes(reader)) {
    throw new OctomilError('invalid_input', `reader "${String(reader)}" is unknown; use ${READERS.join(' or ')}`);
  }
  return reader === 'duckdb' ? await openDuckDbTable(source) : await openParquetjsLite(source);
}
