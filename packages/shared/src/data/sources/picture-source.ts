import type { BucketObject } from '@octomil/shared/storage';
import { formatOfName } from '../format-of-name.js';
import { DEFAULT_LABELS, isPictureName, MAX_PICTURES } from '../pictures/locate-pictures.js';
import type { DataSource } from '../source.js';
import { parseGlob } from './glob.js';
import { isDataName, type ListLimits } from './list-source.js';
import type { OpenSourceOptions, SourceFile } from './open-source.js';
import { parseSourceUrl } from './source-url.js';

const FILES_AT_ONCE = 8;

/** How a source of pictures is listed and fetched: pictures with their table of labels, or Parquet files alone. */
export function pictureOptions(
  { images }: DataSource,
  url: string,
  { maxFiles = MAX_PICTURES }: ListLimits,
): Pick<OpenSourceOptions, 'accepts' | 'select' | 'filesAtOnce' | 'maxFiles'> {
  if (images === undefined) return {};
  const { labels } = images;
  const root = rootOf(url);
  const nameOf = (key: string): string => key.slice(root.length);
  const isParquet = (key: string): boolean => formatOfName(key) === 'parquet' && isDataName(key);
  return {
    maxFiles,
    filesAtOnce: FILES_AT_ONCE,
    accepts: (key) => isPictureName(nameOf(key)) || isDataName(key),
    select: (objects) => {
      const parquet = labels === undefined ? objects.filter(({ key }) => isParquet(key)) : [];
      if (parquet.length > 0) return parquet;
      const wanted = ({ key }: BucketObject) =>
        isPictureName(nameOf(key)) || nameOf(key) === (labels ?? DEFAULT_LABELS);
      return objects.filter(wanted);
    },
  };
}

/** Of a picture its name in the data set's folder, by which labels are found; of a Parquet file what people see. */
export function pictureName(url: string, { key, place }: SourceFile): string {
  return formatOfName(key) === 'parquet' ? place : key.slice(rootOf(url).length);
}

/** The part of all keys that is the folder, with the slash at its end. */
function rootOf(url: string): string {
  const { key, selects } = parseSourceUrl(url);
  const prefix = selects === 'glob' ? parseGlob(key).prefix : key;
  return prefix.slice(0, prefix.lastIndexOf('/') + 1);
}
