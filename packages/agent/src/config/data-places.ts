import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type DataSource, isRemoteSource, parseSourceUrl } from '@octomil/shared/data';
import { toOctomilError } from '@octomil/shared/errors';

/** Where data lies: a URL as it stands, anything else relative to the configuration's folder. */
export function placeOfData(text: string, folder: string): string {
  if (isRemoteSource({ path: text })) return text;
  if (!/^file:/i.test(text)) return resolve(folder, text);
  return text.startsWith('file:/') ? parseSourceUrl(text).key : resolve(folder, text.slice('file:'.length));
}

/** What is wrong with a data set's URLs; never the URLs themselves, which may hold a signature. */
export function placeProblems(
  name: string,
  set: { readonly path?: unknown; readonly files?: unknown },
): { readonly path: string; readonly message: string }[] {
  // Where files are listed the path is only what they are called together.
  const places = Array.isArray(set.files)
    ? (set.files as unknown[]).map((file, index) => [`files.${index}`, file] as const)
    : [['path', set.path] as const];
  return places.flatMap(([field, place]) => {
    if (typeof place !== 'string' || place === '') return [];
    try {
      if (/^file:\//i.test(place)) fileURLToPath(place.replaceAll('?', '%3F').replaceAll('#', '%23'));
      else if (isRemoteSource({ path: place })) parseSourceUrl(place);
      return [];
    } catch (error) {
      return [{ path: `data_sets.${name}.${field}`, message: toOctomilError(error, 'invalid_input').reason }];
    }
  });
}

/** A data set as it may be shown. */
export function withoutSignatures(source: DataSource): DataSource {
  const shown = (path: string): string => (isRemoteSource({ path }) ? parseSourceUrl(path).display : path);
  const { path, files } = source;
  return { ...source, path: shown(path), ...(files === undefined ? {} : { files: files.map(shown) }) };
}
