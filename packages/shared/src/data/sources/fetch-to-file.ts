import { createHash, randomUUID } from 'node:crypto';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import {
  type BucketObject,
  problemOf,
  requireFreeSpace,
  resumingStream,
  type SourceClient,
} from '@octomil/shared/storage';
import { missingObject } from './source-client.js';

export interface FetchOptions {
  readonly client: SourceClient;
  /** As listed or asked for; `version` decides whether it is still that. */
  readonly key: string;
  /** As it may be shown. */
  readonly place: string;
  readonly folder: string;
  /** Larger objects are refused before a byte is read. */
  readonly maxBytes: number;
  /** The version that is already here: nothing is read when it is still the newest. */
  readonly version?: string;
  readonly clock: Clock;
  readonly signal?: AbortSignal | undefined;
}

export interface FetchedFile {
  readonly path: string;
  readonly sizeBytes: number;
  /** SHA-256 of the bytes, hex. */
  readonly digest: string;
  /** Equal versions are equal bytes. */
  readonly version: string;
}

/** An object that is rewritten again and again is given up. */
const MAX_VERSIONS = 3;

/**
 * Copies one object to a file of its own in `folder`, checking its version with every request. What changes meanwhile is
 * read again from the start. Nothing stays behind after a failure.
 *
 * @returns `'unchanged'` where the object still has `version`
 * @throws OctomilError `data_unreadable`, `too_large`, `insufficient_storage`, `network_unavailable`, `request_timeout`,
 * `transfer_incomplete`, `cancelled`
 */
export async function fetchToFile(options: FetchOptions): Promise<FetchedFile | 'unchanged'> {
  const { client, key, place, maxBytes, signal } = options;
  for (let attempt = 1; ; attempt++) {
    try {
      const object = await client.stat(key, signal);
      if (object === undefined) throw await missingObject(client, place, signal);
      const version = versionOf(object);
      if (version !== undefined && version === options.version) return 'unchanged';
      if (object.sizeBytes > maxBytes) throw tooLarge(place, object.sizeBytes, maxBytes);
      await requireFreeSpace(options.folder, object.sizeBytes);
      return await copy(object, version ?? randomUUID(), options);
    } catch (error) {
      if (signal?.aborted === true) throw toOctomilError(signal.reason, 'cancelled');
      if (problemOf(error) !== 'changed' || attempt >= MAX_VERSIONS) throw error;
    }
  }
}

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

async function copy(object: BucketObject, version: string, options: FetchOptions): Promise<FetchedFile> {
  const { client, folder, clock, signal } = options;
  const path = join(folder, `${randomUUID()}${endingOf(object.key)}`);
  const hash = createHash('sha256');
  try {
    const file = await open(path, 'wx', 0o600);
    try {
      for await (const chunk of resumingStream(client, object, { clock, signal })) {
        hash.update(chunk);
        for (let written = 0; written < chunk.length; ) {
          written += (await file.write(chunk, written, chunk.length - written)).bytesWritten;
        }
      }
    } finally {
      await file.close();
    }
  } catch (error) {
    await rm(path, { force: true });
    throw error instanceof OctomilError ? error : toOctomilError(error, 'data_unreadable');
  }
  return { path, sizeBytes: object.sizeBytes, digest: hash.digest('hex'), version };
}

/** Readers go by it. A URL may have a query behind it. */
function endingOf(key: string): string {
  const name = key.split(/[?#]/, 1)[0] ?? '';
  return /\.[A-Za-z0-9]{1,10}(?:\.gz)?$/.exec(name)?.[0].toLowerCase() ?? '';
}

function tooLarge(place: string, sizeBytes: number, maxBytes: number): OctomilError {
  return new OctomilError(
    'too_large',
    `${place} has ${sizeBytes} bytes, more than the ${maxBytes} that temporary copies may take; raise that limit, or keep the data as Parquet, of which only the columns in use are read`,
    { details: { size_bytes: sizeBytes, limit_bytes: maxBytes } },
  );
}
