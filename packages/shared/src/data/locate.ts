import { accessSync, constants, realpathSync, statSync } from 'node:fs';
import { OctomilError } from '@octomil/shared/errors';
import type { DataSource, TableFormat } from './source.js';

export interface LocatedFile {
  /** Real path, links followed. */
  readonly path: string;
  readonly format: TableFormat;
  readonly sizeBytes: number;
  readonly modifiedMs: number;
}

/**
 * Finds the file of a source.
 *
 * @throws `data_unreadable` for a missing file, a folder, a file that may not be read or a name that says no format.
 */
export function locate(source: DataSource): LocatedFile {
  const name = source.path.toLowerCase();
  const format = source.format ?? formatOfName(name);
  if (format === undefined) {
    throw new OctomilError(
      'data_unreadable',
      `${source.path}: the name says no format; use .csv, .tsv, .csv.gz or .parquet, or set "format"`,
    );
  }
  try {
    const path = realpathSync(source.path);
    const stat = statSync(path);
    if (!stat.isFile()) {
      throw new OctomilError('data_unreadable', `${source.path} is a folder, not a file; name one file of it`);
    }
    accessSync(path, constants.R_OK);
    if (/[*?]/.test(path)) {
      // The reader would take it for a pattern and read other files.
      throw new OctomilError('data_unreadable', `${path} has * or ? in its name; rename the file`);
    }
    return { path, format, sizeBytes: stat.size, modifiedMs: stat.mtimeMs };
  } catch (cause) {
    if (cause instanceof OctomilError) throw cause;
    const code = (cause as { code?: unknown }).code;
    const why =
      code === 'ENOENT' || code === 'ENOTDIR'
        ? 'there is no such file; check the path in the configuration'
        : code === 'EACCES' || code === 'EPERM'
          ? 'this process may not read it; check the permissions of the file and its folders'
          : `it cannot be opened (${String(code)})`;
    throw new OctomilError('data_unreadable', `${source.path}: ${why}`, { cause });
  }
}

function formatOfName(name: string): TableFormat | undefined {
  if (/\.(parquet|pq)$/.test(name)) return 'parquet';
  if (/\.(csv|tsv|txt)(\.gz)?$/.test(name)) return 'csv';
  return undefined;
}
