import { accessSync, constants, readdirSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve, sep } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { formatOfName } from './format-of-name.js';
import type { DataSource, TableFormat } from './source.js';
import { isGlob, parseGlob } from './sources/glob.js';
import { isDataName } from './sources/list-source.js';
import { isRemoteUrl } from './sources/source-scheme.js';

export interface LocatedFile {
  /** Real path, links followed. */
  readonly path: string;
  /** As the configuration or its folder spells it. */
  readonly shown: string;
  readonly sizeBytes: number;
  readonly modifiedMs: number;
}

export interface LocatedTable {
  readonly format: TableFormat;
  /** At least one. */
  readonly files: readonly [LocatedFile, ...LocatedFile[]];
}

/** Files of one table; more are a mistake in the path. */
const MAX_FILES = 10_000;

/**
 * Finds the files of a source: one, those listed, or those of a folder or pattern by name.
 *
 * @throws `data_unreadable` for a missing file, one that may not be read, a folder without data, a name that says no
 * format, and files of two formats.
 */
export function locate(source: DataSource): LocatedTable {
  const [first, ...others] = filesOf(source).map((path, i) => locateFile(path, source.fileNames?.[i] ?? path));
  if (first === undefined) throw new OctomilError('data_unreadable', `${source.path}: the list of files is empty`);
  const format = formatOfFile(source, first);
  for (const file of others) {
    const other = formatOfFile(source, file);
    if (other !== format) {
      throw new OctomilError(
        'data_unreadable',
        `${source.path} holds files of two formats: ${first.shown} is ${format}, ${file.shown} is ${other}; name those of one, such as *.${format}`,
      );
    }
  }
  return { format, files: [first, ...others] };
}

/** Every path that a message about the source may hold: what may leave the site names files without their folders. */
export function pathsOf(source: DataSource): string[] {
  let found: readonly string[] = [];
  if (source.images !== undefined) {
    const { labels = 'labels.csv' } = source.images;
    return [source.path, join(source.path, labels)];
  }
  try {
    found = filesOf(source);
  } catch {
    // Then no file of it was opened.
  }
  return [...new Set([source.path, ...(source.fileNames ?? []), ...(source.files ?? []), ...found])];
}

/** The format that a source seems to have, also when it cannot be found; empty where its names do not say. */
export function formatOf(source: DataSource): string {
  if (source.images !== undefined) return 'images';
  try {
    return locate(source).format;
  } catch {
    return source.format ?? formatOfName(source.path) ?? '';
  }
}

function filesOf(source: DataSource): readonly string[] {
  const remote = (source.files ?? [source.path]).find(isRemoteUrl);
  if (remote !== undefined) {
    // Its query may be a signature.
    const place = remote.split(/[?#]/, 1)[0] ?? '';
    throw new OctomilError(
      'invalid_input',
      `${place} is not on this machine; acquire the source from SourceFiles, which makes local files of URLs, and read what it gives`,
    );
  }
  if (source.files !== undefined) return source.files;
  const { path } = source;
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat?.isDirectory() === true) {
    const found = filesBelow(path, source.path, (name) => isDataName(name));
    if (found.length > 0) return found;
    throw new OctomilError(
      'data_unreadable',
      `${path} is a folder without data; it needs .csv, .tsv, .csv.gz, .parquet or .jsonl files`,
    );
  }
  if (stat !== undefined || !isGlob(path)) return [path];
  const glob = parseGlob(resolve(path));
  // The prefix may end within a name: `/data/part-`.
  const folder = glob.prefix.endsWith(sep) ? glob.prefix : dirname(glob.prefix);
  const found = statSync(folder, { throwIfNoEntry: false })?.isDirectory()
    ? filesBelow(folder, source.path, (file) => glob.matches(file))
    : [];
  if (found.length > 0) return found;
  throw new OctomilError('data_unreadable', `${path}: no file matches; ** goes across folders`);
}

/** Paths below a folder, links to folders not followed, in an order that is the same on every machine. */
function filesBelow(folder: string, shown: string, accepts: (path: string) => boolean): string[] {
  const found: string[] = [];
  let entries: ReturnType<typeof listFolder>;
  try {
    entries = listFolder(folder);
  } catch (cause) {
    throw unreadable(folder, cause);
  }
  for (const entry of entries) {
    if (entry.isDirectory()) continue;
    const path = join(entry.parentPath, entry.name);
    if (accepts(path)) found.push(path);
    if (found.length > MAX_FILES) {
      throw new OctomilError('data_unreadable', `${shown} has more than ${MAX_FILES} files; name fewer by a pattern`);
    }
  }
  return found.sort((a, b) => (a < b ? -1 : 1));
}

const listFolder = (folder: string) => readdirSync(folder, { recursive: true, withFileTypes: true });

/** @throws `data_unreadable` where it is no file that this process may read */
export function locateFile(given: string, shown: string): LocatedFile {
  try {
    const path = realpathSync(given);
    const stat = statSync(path);
    if (!stat.isFile()) {
      throw new OctomilError('data_unreadable', `${shown} is a folder, not a file; name the files in it`);
    }
    accessSync(path, constants.R_OK);
    if (/[*?]/.test(path)) {
      // The reader would take it for a pattern and read other files.
      throw new OctomilError('data_unreadable', `${path} has * or ? in its name; rename the file`);
    }
    return { path, shown, sizeBytes: stat.size, modifiedMs: stat.mtimeMs };
  } catch (cause) {
    throw unreadable(shown, cause);
  }
}

/** What to say of a path that cannot be opened. */
export function unreadable(path: string, cause: unknown): OctomilError {
  if (cause instanceof OctomilError) return cause;
  const code = (cause as { code?: unknown }).code;
  const why =
    code === 'ENOENT' || code === 'ENOTDIR'
      ? 'there is no such file; check the path in the configuration'
      : code === 'EACCES' || code === 'EPERM'
        ? 'this process may not read it; check the permissions of the file and its folders'
        : `it cannot be opened (${String(code)})`;
  return new OctomilError('data_unreadable', `${path}: ${why}`, { cause });
}

/** The format that the source says, or the names of the file: a link may be called otherwise than what it leads to. */
function formatOfFile(source: DataSource, { shown, path }: LocatedFile): TableFormat {
  const format = source.format ?? formatOfName(basename(shown)) ?? formatOfName(basename(path));
  if (format !== undefined) return format;
  throw new OctomilError(
    'data_unreadable',
    `${shown}: the name says no format; use .csv, .tsv, .csv.gz, .jsonl or .parquet, or set "format"`,
  );
}
