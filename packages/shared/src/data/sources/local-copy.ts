import { createHash, randomUUID } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import {
  type BucketObject,
  type ByteRange,
  requireFreeSpace,
  resumingStream,
  type SourceClient,
} from '@octomil/shared/storage';
import { joinRanges, missingRanges, rangesToFetch, totalBytes } from './byte-ranges.js';
import { columnRanges, metadataStart, type ParquetLayout, parquetLayout, TRAILER_BYTES } from './parquet-layout.js';

export interface CopyWish {
  readonly client: SourceClient;
  /** As it may be shown. */
  readonly place: string;
  /** Keys of the columns that will be read, where the object is a Parquet file. Default the whole object. */
  readonly columns?: readonly string[] | undefined;
  /** With `columns`: no more than so many rows from the first will be read. */
  readonly maxRows?: number | undefined;
  readonly clock: Clock;
  readonly signal?: AbortSignal | undefined;
  /** Makes room for so many bytes more. @throws `too_large` */
  claim(bytes: number): Promise<void>;
}

/** Smaller objects come whole: one request, and hardly more bytes. */
const MIN_SPARSE_BYTES = 1024 * 1024;
/** Of this share of the file and more, the rest is not worth its requests. */
const WHOLE_SHARE = 0.7;
/** Fetched with the trailer; holds the metadata of most files. */
const FOOTER_GUESS_BYTES = 64 * 1024;
/** Bytes that cost less than one more request. */
const GAP_BYTES = 512 * 1024;
const REQUESTS_AT_ONCE = 4;

/**
 * A local file of the same length as one version of a remote object, that holds all of it or, of a Parquet file, the
 * columns that were asked for, at their places; the rest are holes, which take no room on disk.
 */
export class LocalCopy {
  readonly path: string;
  readonly object: BucketObject;
  readonly version: string;
  /** SHA-256 (hex) of the bytes, where they came whole and in one piece. */
  digest: string | undefined;
  #held: readonly ByteRange[] = [];
  #layout: ParquetLayout | undefined;
  #created = false;
  /** One at a time: what the one before fetched is then not fetched again. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(folder: string, object: BucketObject, version: string) {
    this.path = join(folder, `${randomUUID()}${endingOf(object.key)}`);
    this.object = object;
    this.version = version;
  }

  get heldBytes(): number {
    return totalBytes(this.#held);
  }

  /** Fetches what the wish needs and is not here. @throws `changed` in the details where the object has a new version */
  async fill(wish: CopyWish): Promise<void> {
    const turn = this.#turn.then(
      () => this.#fill(wish),
      () => this.#fill(wish),
    );
    this.#turn = turn.catch(() => undefined);
    await turn;
  }

  async #fill(wish: CopyWish): Promise<void> {
    const { sizeBytes } = this.object;
    if (this.#created && missingRanges([{ start: 0, end: sizeBytes }], this.#held).length === 0) return;
    if (wish.signal?.aborted === true) throw toOctomilError(wish.signal.reason, 'cancelled');
    try {
      const ranges = await this.#needed(wish);
      if (ranges !== undefined) return await this.#fetch(ranges, wish);
    } catch (error) {
      // A server without ranges gives the whole.
      if (!(error instanceof OctomilError) || error.details?.['problem'] !== 'no_ranges') throw error;
    }
    await this.#fetch([{ start: 0, end: sizeBytes }], wish);
  }

  /** Ranges of the columns; undefined where the whole file is the better choice. */
  async #needed(wish: CopyWish): Promise<ByteRange[] | undefined> {
    const { columns, maxRows, place } = wish;
    const { sizeBytes, tag } = this.object;
    // Without a tag, ranges might be of different versions.
    if (columns === undefined || tag === '' || sizeBytes < MIN_SPARSE_BYTES) return undefined;
    if (this.#layout === undefined) {
      const guess = Math.max(0, sizeBytes - FOOTER_GUESS_BYTES);
      await this.#fetch([{ start: guess, end: sizeBytes }], wish);
      const start = metadataStart(await this.#read(sizeBytes - TRAILER_BYTES, sizeBytes), sizeBytes, place);
      if (start === undefined) return undefined;
      await this.#fetch([{ start, end: sizeBytes }], wish);
      this.#layout = await parquetLayout(await this.#read(start, sizeBytes), sizeBytes, place);
      if (this.#layout === undefined) return undefined;
    }
    const ranges = columnRanges(this.#layout, columns, maxRows);
    return totalBytes(joinRanges(ranges, GAP_BYTES)) > WHOLE_SHARE * sizeBytes ? undefined : ranges;
  }

  async #fetch(wanted: readonly ByteRange[], wish: CopyWish): Promise<void> {
    const missing = rangesToFetch(wanted, this.#held, GAP_BYTES);
    const bytes = totalBytes(missing);
    if (bytes === 0 && this.#created) return;
    await wish.claim(bytes);
    await requireFreeSpace(join(this.path, '..'), bytes);
    const file = await open(this.path, this.#created ? 'r+' : 'wx', 0o600);
    try {
      if (!this.#created) await file.truncate(this.object.sizeBytes);
      this.#created = true;
      await this.#fetchRanges(file, missing, wish);
    } catch (error) {
      throw error instanceof OctomilError ? error : toOctomilError(error, 'data_unreadable');
    } finally {
      await file.close();
    }
  }

  async #fetchRanges(file: FileHandle, ranges: readonly ByteRange[], wish: CopyWish): Promise<void> {
    // Whoever fails ends the others.
    const failing = new AbortController();
    const signal = wish.signal === undefined ? failing.signal : AbortSignal.any([wish.signal, failing.signal]);
    const waiting = [...ranges];
    const work = async (): Promise<void> => {
      for (let range = waiting.shift(); range !== undefined; range = waiting.shift()) {
        await this.#fetchRange(file, range, { ...wish, signal });
        this.#held = joinRanges([...this.#held, range]);
      }
    };
    const workers = Array.from({ length: Math.min(REQUESTS_AT_ONCE, ranges.length) }, async () => {
      try {
        await work();
      } catch (error) {
        waiting.length = 0;
        if (!failing.signal.aborted) failing.abort(error);
        throw error;
      }
    });
    await Promise.allSettled(workers);
    if (wish.signal?.aborted === true) throw toOctomilError(wish.signal.reason, 'cancelled');
    if (failing.signal.aborted) throw failing.signal.reason;
  }

  async #fetchRange(file: FileHandle, range: ByteRange, { client, clock, signal }: CopyWish): Promise<void> {
    const whole = range.start === 0 && range.end === this.object.sizeBytes;
    const hash = whole ? createHash('sha256') : undefined;
    let position = range.start;
    for await (const chunk of resumingStream(client, this.object, { clock, range, signal })) {
      hash?.update(chunk);
      for (let written = 0; written < chunk.length; ) {
        const { bytesWritten } = await file.write(chunk, written, chunk.length - written, position);
        written += bytesWritten;
        position += bytesWritten;
      }
    }
    if (hash !== undefined) this.digest = hash.digest('hex');
  }

  async #read(start: number, end: number): Promise<Buffer> {
    const file = await open(this.path, 'r');
    try {
      const bytes = Buffer.alloc(end - start);
      for (let read = 0; read < bytes.length; ) {
        const { bytesRead } = await file.read(bytes, read, bytes.length - read, start + read);
        if (bytesRead === 0) throw new OctomilError('internal', 'a temporary copy is shorter than its object');
        read += bytesRead;
      }
      return bytes;
    } finally {
      await file.close();
    }
  }
}

/** Readers go by it. A URL may have a query behind it. */
function endingOf(key: string): string {
  const name = key.split(/[?#]/, 1)[0] ?? '';
  return /\.[A-Za-z0-9]{1,10}(?:\.gz)?$/.exec(name)?.[0].toLowerCase() ?? '';
}
