import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { basename } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { OctomilError } from '@octomil/shared/errors';
import { inOrder } from '../in-order.js';
import { unreadable } from '../locate.js';
import type { LocatedPictures } from './locate-pictures.js';
import { namedPicture } from './picture-names.js';

/** Digests by the names, sizes and times of all files: those alone are looked at until one changes. */
const known = new Map<string, string>();
const MAX_KNOWN = 100;
const READS_AT_ONCE = 8;

/** SHA-256 (hex) of the files' names and bytes. @throws `data_unreadable`, `cancelled` */
export async function picturesDigest({ files, labels }: LocatedPictures, signal?: AbortSignal): Promise<string> {
  const all = [...(labels === undefined ? [] : [labels]), ...files];
  const mark = createHash('sha256');
  for (const { path, sizeBytes, modifiedMs } of all) mark.update(JSON.stringify([path, sizeBytes, modifiedMs]));
  const key = mark.digest('hex');
  const found = known.get(key);
  if (found !== undefined) return found;
  const hash = createHash('sha256');
  const read = async ({ path, shown }: (typeof all)[number]): Promise<[string, string]> => {
    try {
      const content = createHash('sha256');
      // What is no picture but called like one may be of any size.
      await pipeline(createReadStream(path), content, signal === undefined ? {} : { signal });
      return [shown, content.digest('hex')];
    } catch (cause) {
      if (signal?.aborted === true) throw cancelled();
      throw unreadable(path === labels?.path ? shown : namedPicture(basename(shown)), cause);
    }
  };
  for await (const [name, digest] of inOrder(all, READS_AT_ONCE, read)) {
    if (signal?.aborted === true) throw cancelled();
    hash.update(JSON.stringify([name, digest]));
  }
  const digest = hash.digest('hex');
  if (known.size >= MAX_KNOWN) known.clear();
  known.set(key, digest);
  return digest;
}

const cancelled = (): OctomilError => new OctomilError('cancelled', 'reading the pictures was cancelled');
