import { randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError } from '../../errors/index.js';
import type { Clock } from '../../runtime/index.js';
import { ABANDONED_AFTER_MS, removeOldEntries } from '../abandoned-files.js';
import { requireFreeSpace } from '../free-space.js';
import { checkObjectKey } from '../object-key.js';
import type { ByteRange, ByteSource, DirectTransfers, ObjectStat, ObjectStore } from '../object-store.js';
import { requireAtMost } from '../require-at-most.js';
import type { BucketClient, BucketObject, PartUpload } from './bucket-client.js';
import { partsOf } from './part-chunks.js';
import { resumingStream } from './resuming-stream.js';

export interface BucketObjectStoreOptions {
  readonly client: BucketClient;
  /** In front of every key; empty or ending in a slash. */
  readonly prefix: string;
  /** For temporary copies of objects that are needed as files. What a killed process left in it goes after a day. */
  readonly temporaryFolder: string;
  readonly clock: Clock;
  /** Size of the parts of a large put. Default 8 MiB, the smallest that S3 allows is 5 MiB. */
  readonly partSizeBytes?: number;
}

const PART_SIZE_BYTES = 8 * 1024 * 1024;

/**
 * Objects in a bucket. Several coordinators may share one: a put replaces the whole object in one step on every
 * provider, so there is nothing to lock. What a killed writer had sent is never seen; the provider keeps its parts until
 * a lifecycle rule of the bucket removes them (docs/storage.md).
 */
export class BucketObjectStore implements ObjectStore {
  readonly direct: DirectTransfers;
  readonly #client: BucketClient;
  readonly #prefix: string;
  readonly #folder: string;
  readonly #clock: Clock;
  readonly #partSizeBytes: number;

  private constructor(options: BucketObjectStoreOptions) {
    this.#client = options.client;
    this.#prefix = options.prefix;
    this.#folder = options.temporaryFolder;
    this.#clock = options.clock;
    this.#partSizeBytes = options.partSizeBytes ?? PART_SIZE_BYTES;
    const { parts } = options.client;
    const keyed = <T extends { key: string }>(upload: T): T => ({ ...upload, key: this.#whole(upload.key) });
    this.direct = {
      partMultipleBytes: parts.partMultipleBytes,
      inOrder: parts.inOrder,
      begin: async (key) => ({ ...(await parts.begin(this.#whole(key))), key }),
      presignPart: (upload, part, lifetimeMs) => parts.presignPart(keyed(upload), part, lifetimeMs),
      received: (upload, partSizeBytes) => parts.received(keyed(upload), partSizeBytes),
      complete: (upload, partCount, totalBytes) => parts.complete(keyed(upload), partCount, totalBytes),
      abort: (upload) => parts.abort(keyed(upload)),
      presignGet: (key, lifetimeMs, disposition) => this.#client.presignGet(this.#whole(key), lifetimeMs, disposition),
    };
  }

  /** @throws OctomilError `config_invalid` when the bucket is missing or may not be used; `network_unavailable` */
  static async open(options: BucketObjectStoreOptions): Promise<BucketObjectStore> {
    await options.client.check();
    await mkdir(options.temporaryFolder, { recursive: true });
    await removeOldEntries(options.temporaryFolder, options.clock.now() - ABANDONED_AFTER_MS);
    return new BucketObjectStore(options);
  }

  async stat(key: string): Promise<ObjectStat | undefined> {
    const found = await this.#find(key);
    return found === undefined ? undefined : toStat(key, found);
  }

  async *read(key: string, range?: ByteRange): AsyncGenerator<Uint8Array> {
    const object = await this.#require(key);
    const end = Math.min(range?.end ?? object.sizeBytes, object.sizeBytes);
    const start = range?.start ?? 0;
    if (start >= end) return;
    yield* resumingStream(this.#client, object, { clock: this.#clock, range: { start, end } });
  }

  async readAll(key: string, maxBytes: number): Promise<Uint8Array> {
    const object = await this.#require(key);
    requireAtMost(maxBytes, key, object.sizeBytes);
    const bytes = new Uint8Array(object.sizeBytes);
    let filled = 0;
    for await (const chunk of resumingStream(this.#client, object, { clock: this.#clock })) {
      bytes.set(chunk, filled);
      filled += chunk.length;
    }
    return bytes;
  }

  async put(key: string, source: ByteSource): Promise<ObjectStat> {
    const whole = this.#whole(key);
    if (source instanceof Uint8Array && source.length <= this.#partSizeBytes) await this.#client.put(whole, source);
    else await this.#putInParts(whole, source instanceof Uint8Array ? onePiece(source) : source);
    return toStat(key, await this.#require(key));
  }

  async putFile(key: string, path: string): Promise<ObjectStat> {
    const stat = await this.put(key, createReadStream(path, { highWaterMark: 1 << 20 }) as AsyncIterable<Uint8Array>);
    await rm(path, { force: true });
    return stat;
  }

  async delete(key: string): Promise<void> {
    await this.#client.delete(this.#whole(key));
  }

  async *list(prefix: string): AsyncGenerator<ObjectStat> {
    const words = prefix.split('/').slice(0, -1);
    if (words.length > 0) checkObjectKey(words.join('/'));
    for await (const object of this.#client.list(this.#prefix + prefix)) {
      // Consoles make empty objects for folders; they are none of ours.
      if (object.key.endsWith('/')) continue;
      yield toStat(object.key.slice(this.#prefix.length), object);
    }
  }

  async localFile(
    key: string,
    maxBytes = Number.POSITIVE_INFINITY,
  ): Promise<{ path: string; release(): Promise<void> }> {
    const object = await this.#require(key);
    requireAtMost(maxBytes, key, object.sizeBytes);
    await requireFreeSpace(this.#folder, object.sizeBytes);
    const path = join(this.#folder, randomUUID());
    const release = (): Promise<void> => rm(path, { force: true });
    try {
      const file = await open(path, 'wx', 0o600);
      try {
        for await (const chunk of resumingStream(this.#client, object, { clock: this.#clock }))
          await file.writeFile(chunk);
      } finally {
        await file.close();
      }
    } catch (error) {
      await release();
      throw error;
    }
    return { path, release };
  }

  /** Lets go of connections. Safe to repeat. */
  async close(): Promise<void> {
    await this.#client.close();
  }

  async #putInParts(key: string, source: AsyncIterable<Uint8Array>): Promise<void> {
    const { parts } = this.#client;
    let upload: PartUpload | undefined;
    let offset = 0;
    let number = 0;
    try {
      for await (const { bytes, last } of partsOf(source, this.#partSizeBytes)) {
        // What fits into one part is put at once.
        if (upload === undefined && last) {
          await this.#client.put(key, bytes);
          return;
        }
        upload ??= await parts.begin(key);
        const part = { number, offset, sizeBytes: bytes.length };
        await parts.putPart(upload, last ? { ...part, totalBytes: offset + bytes.length } : part, bytes);
        offset += bytes.length;
        number += 1;
      }
      if (upload !== undefined) await parts.complete(upload, number, offset);
    } catch (error) {
      // The first failure is the one to report.
      if (upload !== undefined) await parts.abort(upload).catch(() => undefined);
      throw error;
    }
  }

  #whole(key: string): string {
    checkObjectKey(key);
    return this.#prefix + key;
  }

  async #find(key: string): Promise<BucketObject | undefined> {
    return this.#client.stat(this.#whole(key));
  }

  async #require(key: string): Promise<BucketObject> {
    const found = await this.#find(key);
    if (found === undefined) throw new OctomilError('not_found', `there is no object ${key}`, { details: { key } });
    return found;
  }
}

function toStat(key: string, { sizeBytes, modifiedAtMs }: BucketObject): ObjectStat {
  return { key, sizeBytes, modifiedAtMs };
}

async function* onePiece(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}
