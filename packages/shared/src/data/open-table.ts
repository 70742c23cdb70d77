import { OctomilError } from '@octomil/shared/errors';
import { openDuckDbTable } from './duckdb-reader.js';
import { type MemoryBudget, memoryBudget } from './memory-budget.js';
import { openParquetjsLite } from './parquetjs-lite-reader.js';
import { openPictures } from './pictures/picture-reader.js';
import { type DataSource, READERS } from './source.js';
import type { TableReader } from './table-reader.js';

/**
 * Opens the local files of a table with the reader that the source names, or of pictures (`openPictures`). Close it when
 * done.
 *
 * @param memory default: by the memory that is free
 * @throws `data_unreadable`, `corrupt_file`, `too_large` and `invalid_input` as `openDuckDbTable` and `openParquetjsLite`.
 */
export async function openTable(source: DataSource, memory: MemoryBudget = memoryBudget()): Promise<TableReader> {
  const { reader = 'duckdb' } = source;
  if (!READERS.includes(reader)) {
    throw new OctomilError('invalid_input', `reader "${String(reader)}" is unknown; use ${READERS.join(' or ')}`);
  }
  if (source.images !== undefined) return await openPictures(source, memory);
  return reader === 'duckdb' ? await openDuckDbTable(source, memory) : await openParquetjsLite(source);
}
