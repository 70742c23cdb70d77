import { createHash } from 'node:crypto';
import type { BucketObject } from '@octomil/shared/storage';

/** What tells one version of an object from the next; undefined where the server gives nothing to tell it by. */
export function versionOf({ tag, modifiedAtMs, sizeBytes }: BucketObject): string | undefined {
  if (tag !== '') return tag;
  return modifiedAtMs > 0 ? `${modifiedAtMs}-${sizeBytes}` : undefined;
}

/** The key tells web files apart that differ in their query; it may be a secret and is hashed. */
export function identityOf(place: string, key: string, version: string): string {
  return createHash('sha256')
    .update(JSON.stringify([place, key, version]))
    .digest('hex');
}
