import type { DataSource } from '../source.js';

/** Whether a text is a URL of something that is not on this machine, or of a kind that nobody knows. */
export function isRemoteUrl(text: string): boolean {
  // Two letters at least: `C:` is a drive.
  const scheme = /^([A-Za-z][A-Za-z0-9+.-]+):\/\//.exec(text)?.[1]?.toLowerCase();
  return scheme !== undefined && scheme !== 'file';
}

/** Whether reading the source needs the network: `SourceFiles` then makes local files of it. Never throws. */
export function isRemoteSource({ path, files }: Pick<DataSource, 'path' | 'files'>): boolean {
  return (files ?? [path]).some(isRemoteUrl);
}
