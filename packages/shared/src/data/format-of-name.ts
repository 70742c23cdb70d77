import type { TableFormat } from './source.js';

/** What a file's name says of its format, also without the file. */
export function formatOfName(name: string): TableFormat | undefined {
  if (/\.(parquet|pq)$/i.test(name)) return 'parquet';
  if (/\.(csv|tsv|txt)(\.gz)?$/i.test(name)) return 'csv';
  if (/\.(jsonl|ndjson)(\.gz)?$/i.test(name)) return 'jsonl';
  return undefined;
}
