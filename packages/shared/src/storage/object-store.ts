import type { PartUpload, PartUploads, PresignedRequest } from './buckets/bucket-client.js';

/** One stored object. */
export interface ObjectStat {
  readonly key: string;
  readonly sizeBytes: number;
  /** When it was put, also for a file that was taken over. */
  readonly modifiedAtMs: number;
}

export interface ByteRange {
  readonly start: number;
  /** Exclusive. */
  readonly end: number;
}

/** Bytes in order. Chunks may be reused by nobody: a consumer may keep them. */
export type ByteSource = Uint8Array | AsyncIterable<Uint8Array>;

/**
 * Where objects live: a folder, or a bucket. Keys are `/`-separated words of `[A-Za-z0-9._-]`.
 *
 * A put is all or nothing: a reader sees the whole object or none, also after the writer was killed.
 */
export interface ObjectStore {
  /** `undefined` when there is none. */
  stat(key: string): Promise<ObjectStat | undefined>;
  /** @throws `not_found` */
  read(key: string, range?: ByteRange): AsyncIterable<Uint8Array>;
  /** Whole object in memory, for small ones. @throws `not_found`, `too_large` beyond `maxBytes` */
  readAll(key: string, maxBytes: number): Promise<Uint8Array>;
  /** Replaces what was there. @throws `insufficient_storage` when the disk is full; nothing half-written stays */
  put(key: string, source: ByteSource): Promise<ObjectStat>;
  /** Moves a finished local file into the store without copying it where that can be done. */
  putFile(key: string, path: string): Promise<ObjectStat>;
  /** Safe to repeat. */
  delete(key: string): Promise<void>;
  list(prefix: string): AsyncIterable<ObjectStat>;
  /**
   * The object as a local file: itself where the store is a folder, otherwise a temporary copy. Call `release` when done.
   *
   * @throws `not_found`; `too_large` beyond `maxBytes`, before anything is copied. Default: any size
   */
  localFile(key: string, maxBytes?: number): Promise<{ path: string; release(): Promise<void> }>;
  /** Where the store is a bucket: what lets others send and fetch bytes without passing them through this process. */
  readonly direct?: DirectTransfers;
}

/**
 * Uploads in parts and downloads by requests that this store signs and others make. Bytes that came so are not to be
 * trusted before they were read and checked, and not at the key they were sent to: on Azure whoever held a part's request
 * may replace them until it expires.
 */
export interface DirectTransfers extends Omit<PartUploads, 'putPart'> {
  /** @param disposition what the bucket says in `content-disposition`, so that a browser saves it under its own name */
  presignGet(key: string, lifetimeMs: number, disposition?: string): Promise<PresignedRequest>;
}

export type { PartUpload, PresignedRequest };
