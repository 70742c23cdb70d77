import { type Dirent, readdirSync, realpathSync, type Stats, statSync } from 'node:fs';
import { basename, dirname, join, relative, resolve, sep } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { formatOfName } from '../format-of-name.js';
import { type LocatedFile, locateFile, unreadable } from '../locate.js';
import type { DataSource } from '../source.js';
import { isDataName } from '../sources/list-source.js';
import { namedPicture } from './picture-names.js';

/** Pictures that are files of their own. */
export interface LocatedPictures {
  /** By name; `shown` is relative to the folder of the data set, with slashes. */
  readonly files: readonly LocatedFile[];
  /** The table of labels. Without one, each picture's first folder is its label. */
  readonly labels?: LocatedFile;
}

/** Pictures of one data set. */
export const MAX_PICTURES = 1_000_000;
const PICTURE_NAME = /\.(?:png|jpe?g)$/i;
/** The table of labels that need not be named. */
export const DEFAULT_LABELS = 'labels.csv';

/** Whether a name, relative to the data set's folder, is a picture's; what begins with `.` or `_` is left alone. */
export function isPictureName(name: string): boolean {
  return PICTURE_NAME.test(name) && !name.split('/').some((part) => /^[._]/.test(part));
}

/**
 * Finds the pictures of a source with `images`, each once, and the table of their labels; undefined where the pictures
 * are in Parquet files.
 *
 * @throws `data_unreadable` without a picture, for links that lead out of the folder, and as `locate`; `invalid_input`
 * for listed files outside of it
 */
export function locatePictures(source: DataSource): LocatedPictures | undefined {
  const { path, files, images = {} } = source;
  if (images.labels !== undefined) checkInside(images.labels, 'the table of labels');
  const stat = statSync(path, { throwIfNoEntry: false });
  if (files === undefined && stat?.isDirectory() !== true) return fromTable(source);
  const entries = files === undefined ? listFolder(path) : listed(source, files);
  if (images.labels === undefined && entries.some(({ name }) => formatOfName(name) === 'parquet' && isDataName(name))) {
    return undefined;
  }
  const wanted = images.labels ?? DEFAULT_LABELS;
  const labels = entries.find(({ name }) => name === wanted);
  if (labels === undefined && images.labels !== undefined) {
    throw new OctomilError('data_unreadable', `${path} has no table "${images.labels}"; check images.labels`);
  }
  const found = entries.filter(({ name }) => isPictureName(name));
  if (found.length === 0)
    throw new OctomilError('data_unreadable', `${path} has no pictures; it needs .png or .jpg files`);
  if (found.length > MAX_PICTURES) {
    throw new OctomilError('data_unreadable', `${path} has more than ${MAX_PICTURES} pictures; make several data sets`);
  }
  const root = files === undefined ? realpathSync.native(path) : undefined;
  const located = found.map((entry) => locatePicture(path, entry, root)).sort((a, b) => (a.shown < b.shown ? -1 : 1));
  return { files: located, ...(labels === undefined ? {} : { labels: locateFile(labels.path, labels.shown) }) };
}

/** Whether a folder is one of pictures where nobody says so: it has some, and no data but the usual table of labels. */
export function isPictureFolder(folder: string): boolean {
  const names = listFolder(folder).map(({ name }) => name);
  return names.some(isPictureName) && !names.some((name) => isDataName(name) && name !== DEFAULT_LABELS);
}

/** A relative path that stays in its folder, whatever the system. */
export function isInside(name: string): boolean {
  return !/^[/\\]|^[A-Za-z]:/.test(name) && !name.split(/[/\\]/).includes('..') && !name.includes('\0');
}

interface Entry {
  /** Relative, with slashes. */
  readonly name: string;
  readonly path: string;
  readonly shown: string;
  readonly isLink: boolean;
}

/** A table by itself stands for its folder. */
function fromTable(source: DataSource): LocatedPictures | undefined {
  const { path, images } = source;
  const format = source.format ?? formatOfName(path);
  if (format === undefined || format === 'parquet' || images?.labels !== undefined) return undefined;
  const labels = locateFile(path, path);
  return locatePictures({ ...source, path: dirname(path), images: { ...images, labels: basename(labels.shown) } });
}

function listFolder(folder: string): Entry[] {
  let entries: Dirent[];
  try {
    entries = readdirSync(folder, { recursive: true, withFileTypes: true });
  } catch (cause) {
    throw unreadable(folder, cause);
  }
  return entries.flatMap((entry) => {
    if (entry.isDirectory()) return [];
    const path = join(entry.parentPath, entry.name);
    const name = slashed(relative(folder, path));
    return [{ name, path, shown: path, isLink: entry.isSymbolicLink() }];
  });
}

/** Copies have names of their own; a list that somebody wrote is relative to the path. */
function listed({ path, fileNames }: DataSource, files: readonly string[]): Entry[] {
  return files.map((file, i) => {
    const given = fileNames?.[i];
    const name = given ?? slashed(relative(resolve(path), resolve(file)));
    checkInside(name, 'a listed file');
    return { name, path: file, shown: name, isLink: false };
  });
}

function locatePicture(folder: string, { name, path, isLink }: Entry, root: string | undefined): LocatedFile {
  let stat: Stats;
  let real = path;
  const shown = namedPicture(basename(name));
  try {
    if (isLink) real = realpathSync.native(path);
    stat = statSync(real);
  } catch (cause) {
    throw unreadable(`${folder}: ${shown}`, cause);
  }
  if (isLink && (root === undefined || !real.startsWith(root + sep))) {
    throw new OctomilError(
      'data_unreadable',
      `${folder}: the ${shown} is a link that leads out of the folder; copy the picture, or name the folder it is in`,
    );
  }
  if (!stat.isFile()) throw new OctomilError('data_unreadable', `${folder}: the ${shown} is no file`);
  return { path: real, shown: name, sizeBytes: stat.size, modifiedMs: stat.mtimeMs };
}

function checkInside(name: string, what: string): void {
  if (isInside(name)) return;
  throw new OctomilError('invalid_input', `${what} is outside of the data set's folder; give a path relative to it`);
}

const slashed = (path: string): string => (sep === '/' ? path : path.replaceAll(sep, '/'));
