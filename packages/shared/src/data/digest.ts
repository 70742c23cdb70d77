import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import type { LocatedFile } from './locate.js';
import { locateData } from './pictures/locate-data.js';
import { picturesDigest } from './pictures/pictures-digest.js';
import type { DataSource } from './source.js';

interface Known {
  readonly sizeBytes: number;
  readonly modifiedMs: number;
  readonly digest: string;
}

/** Digests by real path; a file is read again only when its size or modification time has changed. */
const known = new Map<string, Known>();
const MAX_KNOWN = 1000;

/**
 * SHA-256 (hex) of the files' bytes, or of the versions of what they are copies of, and of how they are to be read: equal
 * digests mean equal statistics.
 *
 * @throws `data_unreadable` where the file cannot be read.
 */
export async function digestOf(source: DataSource, signal?: AbortSignal): Promise<string> {
  const { path: _, files: __, fileNames: ___, digest, ...reading } = source;
  const content = digest ?? (await contentsDigest(source, signal));
  return createHash('sha256')
    .update(JSON.stringify([content, Object.entries(reading).sort(([a], [b]) => (a < b ? -1 : 1))]))
    .digest('hex');
}

async function contentsDigest(source: DataSource, signal?: AbortSignal): Promise<string | string[]> {
  const contents: string[] = [];
  const { files, pictures } = locateData(source);
  if (pictures !== undefined) return await picturesDigest(pictures, signal);
  for (const file of files) contents.push(await contentDigest(file, signal));
  const [only] = contents;
  return only !== undefined && contents.length === 1 ? only : contents;
}

async function contentDigest(file: LocatedFile, signal?: AbortSignal): Promise<string> {
  const found = known.get(file.path);
  if (found !== undefined && found.sizeBytes === file.sizeBytes && found.modifiedMs === file.modifiedMs) {
    return found.digest;
  }
  const hash = createHash('sha256');
  await pipeline(createReadStream(file.path, { highWaterMark: 1 << 20 }), hash, signal === undefined ? {} : { signal });
  const digest = hash.digest('hex');
  if (known.size >= MAX_KNOWN) known.clear();
  known.set(file.path, { sizeBytes: file.sizeBytes, modifiedMs: file.modifiedMs, digest });
  return digest;
}
