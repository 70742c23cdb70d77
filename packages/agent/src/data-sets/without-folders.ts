import { realpathSync } from 'node:fs';
import { basename } from 'node:path';
import { withoutPictureNames } from '@octomil/shared/data';

/**
 * A text as it may leave the site: files under the name that the configuration gives them, without their folders, and
 * pictures without a name. A link is followed when a file is read, so what it leads to is hidden as well.
 */
export function withoutFolders(text: string, paths: readonly string[]): string {
  const names = new Map(paths.flatMap((path) => [path, realPathOf(path)].map((spelled) => [spelled, nameOf(path)])));
  // The longest first: one path may be the beginning of another.
  const spelled = [...names].sort(([a], [b]) => b.length - a.length);
  return spelled.reduce((told, [path, name]) => told.replaceAll(path, () => name), withoutPictureNames(text));
}

/** Of a bucket alone nothing is left, and of a URL neither host nor query. */
function nameOf(path: string): string {
  const url = /^[a-z][a-z0-9+.-]+:\/\/[^/]*(?:\/([^?#]*))?/i.exec(path);
  return url === null ? basename(path) : basename(url[1] ?? '') || 'its files';
}

function realPathOf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}
