import type { ByteRange } from '../object-store.js';

/** One object of a bucket. */
export interface BucketObject {
  readonly key: string;
  readonly sizeBytes: number;
  readonly modifiedAtMs: number;
  /** Changes with every write: the ETag, or the generation on GCS. */
  readonly tag: string;
}

export interface ReadOptions {
  /** Fails with `changed` in the details where the object is no longer the one with this tag. */
  readonly tag?: string;
  readonly signal?: AbortSignal | undefined;
}

/** What reading needs of any place where objects lie. One adapter per provider; its SDK is loaded with it. */
export interface SourceClient {
  /** `undefined` where there is no such object. */
  stat(key: string, signal?: AbortSignal): Promise<BucketObject | undefined>;
  /** Whole or by range, as it arrives; one attempt. @see resumingStream */
  stream(key: string, options?: ReadOptions & { readonly range?: ByteRange }): AsyncIterable<Uint8Array>;
  /** In pages, never all at once: a bucket may hold millions. In no particular order. */
  list(prefix: string, signal?: AbortSignal): AsyncIterable<BucketObject>;
  /** That the bucket is there and may be listed. @throws what is wrong with it */
  check(signal?: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

/** One request that whoever holds it may make, without credentials of its own. A secret until it expires. */
export interface PresignedRequest {
  readonly method: 'GET' | 'PUT';
  readonly url: string;
  /** To be sent exactly so. */
  readonly headers: Readonly<Record<string, string>>;
}

/** An upload in parts that has begun. JSON, so that another process can go on with it. */
export interface PartUpload {
  readonly key: string;
  /** S3: upload id; GCS: session URI, a secret; Azure: start of the block names. */
  readonly uploadId: string;
}

/** Parts are counted from 0 and lie end to end. */
export interface UploadPart {
  readonly number: number;
  readonly offset: number;
  readonly sizeBytes: number;
  /** Of the whole object, where it is known; needed for the last part. */
  readonly totalBytes?: number;
}

export interface ReceivedPart {
  readonly number: number;
  readonly sizeBytes: number;
}

/** Uploads in parts: multipart on S3, a resumable session on GCS, blocks on Azure. Nothing is there until `complete`. */
export interface PartUploads {
  /** Parts other than the last are a multiple of this. */
  readonly partMultipleBytes: number;
  /** Parts must be sent one after the other. */
  readonly inOrder: boolean;
  begin(key: string): Promise<PartUpload>;
  putPart(upload: PartUpload, part: UploadPart, bytes: Uint8Array): Promise<void>;
  /** The request by which somebody else sends the part. */
  presignPart(upload: PartUpload, part: UploadPart, lifetimeMs: number): Promise<PresignedRequest>;
  /** What has arrived; cheap enough to ask before a resume. */
  received(upload: PartUpload, partSizeBytes: number): Promise<ReceivedPart[]>;
  /**
   * Makes the object of its parts, at a key that was free when the upload began. The bytes are not checked: whoever
   * sent them may have sent anything.
   *
   * @throws `transfer_incomplete` when the parts are not all there or their sizes do not add up to `totalBytes`
   */
  complete(upload: PartUpload, partCount: number, totalBytes: number): Promise<void>;
  /** Safe to repeat. */
  abort(upload: PartUpload): Promise<void>;
}

/** Everything an object store needs of a bucket. Keys are whole: a prefix is the store's affair. */
export interface BucketClient extends SourceClient {
  /** In one request; replaces what was there, or changes nothing. */
  put(key: string, bytes: Uint8Array): Promise<void>;
  /** Safe to repeat. */
  delete(key: string): Promise<void>;
  /** @param disposition of the answer, in place of what is stored */
  presignGet(key: string, lifetimeMs: number, disposition?: string): Promise<PresignedRequest>;
  readonly parts: PartUploads;
}
