import { type LocatedFile, type LocatedTable, locate } from '../locate.js';
import type { DataSource } from '../source.js';
import { type LocatedPictures, locatePictures } from './locate-pictures.js';

/** All files of a source, whatever it holds. */
export interface LocatedData {
  readonly format: LocatedTable['format'] | 'images';
  readonly files: readonly LocatedFile[];
  /** Where the pictures are files of their own. */
  readonly pictures?: LocatedPictures;
}

/** @throws `data_unreadable` as `locate` and `locatePictures` */
export function locateData(source: DataSource): LocatedData {
  const pictures = source.images === undefined ? undefined : locatePictures(source);
  if (pictures === undefined) return locate(source);
  const { labels } = pictures;
  return { format: 'images', files: [...(labels === undefined ? [] : [labels]), ...pictures.files], pictures };
}
