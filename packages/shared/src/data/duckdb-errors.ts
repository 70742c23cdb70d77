import { OctomilError } from '@octomil/shared/errors';
import type { TableFormat } from './source.js';

/**
 * Turns DuckDB's error into ours. Its messages quote the offending row, and rows stay at the site: only the line
 * number and the counts are taken over, and the original is dropped rather than kept as the cause.
 */
export function readError(path: string, format: TableFormat, thrown: unknown): OctomilError {
  if (thrown instanceof OctomilError) return thrown;
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  const line = /CSV Error on Line: (\d+)/.exec(message)?.[1];
  const at = line === undefined ? path : `${path}, line ${line}`;
  const widths = /Expected Number of Columns: (\d+) Found: (\d+)/.exec(message);
  if (widths !== null) {
    return new OctomilError(
      'data_unreadable',
      `${at}: ${widths[2]} cells where the header has ${widths[1]} columns; mend the row, or set "delimiter" if cells are split wrongly`,
    );
  }
  if (/Invalid unicode|not utf-8|encod/i.test(message)) {
    return new OctomilError(
      'data_unreadable',
      `${at}: text that the chosen encoding does not have; set "encoding" to "latin-1" or "utf-16"`,
    );
  }
  if (/unterminated quote/i.test(message)) {
    return new OctomilError('data_unreadable', `${at}: a quoted cell does not end; close its quotes`);
  }
  if (/maximum line size/i.test(message)) {
    return new OctomilError('data_unreadable', `${at}: the line is longer than 2 MB; look for an unclosed quote`);
  }
  if (/Out of Memory/i.test(message)) {
    const how = format === 'parquet' ? 'allow more, or write it with smaller row groups' : 'allow more';
    return new OctomilError(
      'insufficient_memory',
      `${path} needs more memory to read than this process may use; ${how}`,
    );
  }
  if (format === 'parquet') {
    return new OctomilError(
      'corrupt_file',
      `${path} is not a whole Parquet file (cut short or damaged); copy or export it again`,
    );
  }
  if (line === undefined && /gzip|GZIP|decompress/i.test(message)) {
    return new OctomilError('corrupt_file', `${path} is not a whole gzip file; copy it again`);
  }
  if (format === 'jsonl') {
    // The line that DuckDB gives may be the one after.
    const near = /in line (\d+)|in record\/value (\d+)/.exec(message);
    const where = near === null ? path : `${path}, near line ${near[1] ?? near[2]}`;
    return new OctomilError('data_unreadable', `${where}: not one whole JSON object a line; mend that line`);
  }
  return new OctomilError('data_unreadable', `${at}: the file cannot be read as CSV; open it and look at that place`);
}
