import { stat } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import type { BucketObject, SourceClient } from '@octomil/shared/storage';
import { parseGlob } from './glob.js';
import { missingObject, statObject } from './source-client.js';
import type { SourceUrl } from './source-url.js';

export interface ListLimits {
  /** Objects of one source. Default 10,000. */
  readonly maxFiles?: number;
  /** Keys that are looked at to find them. Default 1,000,000. */
  readonly maxListedKeys?: number;
  /** Names that are taken, where no pattern says it. Default {@link isDataName}. */
  readonly accepts?: (key: string) => boolean;
}

/** Names that a table or a list of examples has; everything else below a prefix is left alone. */
const DATA_NAME = /\.(?:(?:csv|tsv|txt|jsonl|ndjson)(?:\.gz)?|parquet|pq)$/i;

/** Whether a file of this name is data: `.csv`, `.tsv`, `.txt`, `.jsonl` (also `.gz`), `.parquet`. */
export function isDataName(name: string): boolean {
  const last = name.slice(name.lastIndexOf('/') + 1);
  // Writers put markers and work in progress beside their files.
  return DATA_NAME.test(last) && !/^[._]/.test(last);
}

/**
 * The objects of a source, by key. Listings come in pages and only what matches is kept, so that a bucket with millions
 * of keys costs time and not memory.
 *
 * @throws OctomilError `data_unreadable` when there is no such object, nothing matches or too much does; what the
 * client throws
 */
export async function listSource(
  source: SourceUrl,
  client: SourceClient,
  { maxFiles = 10_000, maxListedKeys = 1_000_000, accepts: wanted = isDataName }: ListLimits = {},
  signal?: AbortSignal,
): Promise<BucketObject[]> {
  let prefix = source.key;
  let accepts = wanted;
  if (source.selects === 'object') {
    const found = await statObject(client, source.key, signal);
    if (found !== undefined) return [found];
    const folder =
      source.place.kind === 'file' && (await stat(source.key).catch(() => undefined))?.isDirectory() === true;
    if (!folder) throw await missingObject(client, source.display, signal);
    prefix = `${source.key}/`;
  } else if (source.selects === 'glob') {
    const glob = parseGlob(source.key);
    prefix = glob.prefix;
    // Who writes a pattern says what they want, folders that consoles make apart.
    accepts = (key) => !key.endsWith('/') && glob.matches(key);
  }
  const found: BucketObject[] = [];
  let listed = 0;
  for await (const object of client.list(prefix, signal)) {
    listed += 1;
    if (listed > maxListedKeys) {
      throw tooMany(source, `more than ${maxListedKeys} keys lie below "${prefix}" (maxListedKeys)`, listed);
    }
    if (!accepts(object.key)) continue;
    found.push(object);
    if (found.length > maxFiles) throw tooMany(source, `more than ${maxFiles} objects match (maxFiles)`, found.length);
  }
  if (found.length === 0) {
    const hint =
      source.selects === 'glob'
        ? 'no object matches; ** goes across folders, and [[] stands for the character ['
        : 'no file with data lies there (.csv, .tsv, .jsonl, .csv.gz or .parquet)';
    throw new OctomilError('data_unreadable', `${source.display}: ${hint}; ${listed} keys were looked at`, {
      details: { problem: 'missing_object', location: source.display, listed_keys: listed },
    });
  }
  return found.sort((a, b) => (a.key < b.key ? -1 : 1));
}

function tooMany(source: SourceUrl, why: string, count: number): OctomilError {
  return new OctomilError('data_unreadable', `${source.display}: ${why}; narrow the pattern or name a longer prefix`, {
    details: { problem: 'too_many', location: source.display, count },
  });
}
