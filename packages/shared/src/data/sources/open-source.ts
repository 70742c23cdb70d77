import type { Clock } from '@octomil/shared/runtime';
import type { BucketObject, Environment } from '@octomil/shared/storage';
import { formatOfName } from '../format-of-name.js';
import { inOrder } from '../in-order.js';
import type { TableFormat } from '../source.js';
import { type ListLimits, listSource } from './list-source.js';
import { identityOf, versionOf } from './object-version.js';
import { type Pace, pacedClient } from './paced-client.js';
import { describeObject, openSourceClient } from './source-client.js';
import { parseSourceUrl } from './source-url.js';
import type { TemporaryCopies } from './temporary-copies.js';

export interface OpenSourceOptions extends ListLimits {
  /** Where credentials, endpoints and proxies are read. */
  readonly environment: Environment;
  readonly clock: Clock;
  readonly signal?: AbortSignal | undefined;
  /** Keys of the columns that will be read, of which Parquet files need no more. Default all. */
  readonly columns?: readonly string[] | undefined;
  /** With `columns`: no more than so many rows from the first of each file will be read. */
  readonly maxRows?: number | undefined;
  /** Default: by the objects' names. */
  readonly format?: TableFormat | undefined;
  /** Default: as fast as it comes. */
  readonly pace?: Pace | undefined;
  /** Which of the objects found are wanted. Default all. */
  readonly select?: (objects: readonly BucketObject[]) => readonly BucketObject[];
  /** Small objects, of which this many are fetched at once. Default 1. */
  readonly filesAtOnce?: number;
}

/** One file of a source, on this machine. */
export interface SourceFile {
  readonly path: string;
  /** Within its bucket; of this machine's files the path. */
  readonly key: string;
  /** Where it came from, as it may be shown. */
  readonly place: string;
  readonly sizeBytes: number;
  /** Equal versions are equal bytes: what was computed from the file holds as long as it is the same. */
  readonly version: string;
  /** Place and version, or content: equal identities are equal bytes wherever the file lies on this machine. */
  readonly identity: string;
}

export interface OpenedSource {
  /** By key. */
  readonly files: readonly SourceFile[];
  /** Lets go of temporary copies; safe to repeat. */
  release(): Promise<void>;
}

/**
 * Makes every file of a source readable on this machine: files of this machine where they are, others as temporary
 * copies, which the next round uses again where the object has not changed.
 *
 * @throws OctomilError `invalid_input` for the URL; `data_unreadable`, `too_large`, `insufficient_storage`,
 * `network_unavailable`, `request_timeout`, `transfer_incomplete`, `cancelled`
 */
export async function openSource(
  url: string,
  copies: TemporaryCopies,
  options: OpenSourceOptions,
): Promise<OpenedSource> {
  const source = parseSourceUrl(url);
  const client = pacedClient(await openSourceClient(source, options.environment), options.pace);
  const releases: (() => Promise<void>)[] = [];
  const release = async (): Promise<void> => {
    for (const one of releases) await one();
  };
  const fetched: Promise<SourceFile>[] = [];
  const fetchOne = async (object: BucketObject): Promise<SourceFile> => {
    const place = describeObject(source, object.key);
    if (source.place.kind === 'file') {
      const { key, sizeBytes, tag } = object;
      return { path: key, key, place, sizeBytes, version: tag, identity: identityOf(place, key, tag) };
    }
    const { maxRows, signal } = options;
    const isParquet = (options.format ?? formatOfName(object.key.split(/[?#]/, 1)[0] ?? '')) === 'parquet';
    const columns = isParquet ? options.columns : undefined;
    const copy = await copies.acquire({ client, object, place, columns, maxRows, signal });
    releases.push(copy.release);
    // Without a version that the server tells, the content has to say it.
    const identity = versionOf(object) === undefined ? copy.digest : undefined;
    return {
      path: copy.path,
      key: object.key,
      place,
      sizeBytes: copy.sizeBytes,
      version: copy.version,
      identity: identity ?? identityOf(place, object.key, copy.version),
    };
  };
  try {
    const listed = await listSource(source, client, options, options.signal);
    const files: SourceFile[] = [];
    const begin = (object: BucketObject): Promise<SourceFile> => {
      const begun = fetchOne(object);
      fetched.push(begun);
      return begun;
    };
    for await (const file of inOrder(options.select?.(listed) ?? listed, options.filesAtOnce ?? 1, begin))
      files.push(file);
    return { files, release };
  } catch (error) {
    // What is still under way has to be let go of as well.
    await Promise.allSettled(fetched);
    await release();
    throw error;
  } finally {
    await client.close();
  }
}
