import type { Bucket, File, Storage, StorageOptions } from '@google-cloud/storage';
import { OctomilError } from '../../errors/index.js';
import type { ByteRange } from '../object-store.js';
import { answeredWithin } from './answered-within.js';
import type {
  BucketClient,
  BucketObject,
  PartUpload,
  PartUploads,
  PresignedRequest,
  ReadOptions,
  ReceivedPart,
  UploadPart,
} from './bucket-client.js';
import { BucketErrors, type BucketPurpose, type Failure, problemOf, problemOfStatus } from './bucket-problem.js';
import { multipartUpload } from './gcs-multipart.js';
import { gcsFailure, refusalOf } from './gcs-problem.js';
import { inPieces } from './in-pieces.js';
import { type Environment, proxyOf } from './proxies.js';
import { openWebTransport, SILENCE_TIMEOUT_MS, type WebTransport } from './web-transport.js';

export interface GcsClientOptions {
  readonly bucket: string;
  readonly environment: Environment;
  readonly purpose: BucketPurpose;
  /** No answer and no byte for so long ends a request. Default 60 s. */
  readonly silenceMs?: number;
}

type Interceptor = Storage['interceptors'][number];

const CONTENT_TYPE = 'application/octet-stream';
const CREDENTIALS =
  'set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account, run `gcloud auth application-default login`, or run where a service account is attached';
/** Chunks of a resumable session are multiples of it (https://cloud.google.com/storage/docs/resumable-uploads). */
const CHUNK_MULTIPLE_BYTES = 256 * 1024;
const PAGE_KEYS = 1000;
/**
 * A bucket on Google Cloud Storage, or on the server that STORAGE_EMULATOR_HOST names. Credentials are found as for
 * every Google tool.
 */
export async function openGcsClient({
  bucket,
  environment,
  purpose,
  silenceMs = SILENCE_TIMEOUT_MS,
}: GcsClientOptions): Promise<BucketClient> {
  const { Storage } = await import('@google-cloud/storage');
  const emulator = emulatorUrl(environment['STORAGE_EMULATOR_HOST']);
  const keyFilename = environment['GOOGLE_APPLICATION_CREDENTIALS'] || undefined;
  const projectId = environment['GOOGLE_CLOUD_PROJECT'] || undefined;
  const proxy = proxyOf(environment, emulator ?? 'https://storage.googleapis.com')?.href;
  const signInProxy = proxyOf(environment, 'https://oauth2.googleapis.com')?.href;
  const options: StorageOptions = {
    retryOptions: { autoRetry: true, maxRetries: 3, maxRetryDelay: 2, totalTimeout: 60 },
    ...(emulator === undefined ? {} : { apiEndpoint: emulator }),
    // Where it is this process's own variable the library finds it, and does not warn of an old option.
    ...(keyFilename === undefined || keyFilename === process.env['GOOGLE_APPLICATION_CREDENTIALS']
      ? {}
      : { keyFilename }),
    ...(projectId === undefined ? {} : { projectId }),
    ...(signInProxy === undefined ? {} : { clientOptions: { transporterOptions: { proxy: signInProxy } } }),
  };
  const storage = new Storage(options);
  // Where `environment` names none, the SDK looks at the variables of this process.
  if (proxy !== undefined) {
    storage.interceptors.push({ request: (asked) => ({ ...asked, proxy }) as ReturnType<Interceptor['request']> });
  }
  // The SDK leaves the path out when it reads the variable itself, and other servers want it as Google's do.
  if (emulator !== undefined) storage.baseUrl = `${emulator}/storage/v1`;
  const errors = new BucketErrors(
    {
      name: 'Google Cloud Storage',
      credentials: CREDENTIALS,
      permissions:
        'the account needs storage.objects.get and storage.objects.list (role Storage Object Viewer; Storage Object User to write)',
      endpoint: emulator === undefined ? 'storage.googleapis.com' : 'STORAGE_EMULATOR_HOST',
    },
    `gs://${bucket}/`,
    purpose,
  );
  const transport = await openWebTransport(environment, undefined, silenceMs);
  return new GcsBucket({ storage, transport, bucket: storage.bucket(bucket), errors, silenceMs });
}

/** With a scheme, without the path that some tools want in the variable. */
function emulatorUrl(text: string | undefined): string | undefined {
  if (text === undefined || text === '') return undefined;
  return (/^https?:/.test(text) ? text : `http://${text}`).replace(/\/+$/, '').replace(/\/storage\/v1$/, '');
}

interface GcsParts {
  readonly storage: Storage;
  readonly transport: WebTransport;
  readonly bucket: Bucket;
  readonly errors: BucketErrors;
  readonly silenceMs: number;
}

class GcsBucket implements BucketClient, PartUploads {
  readonly partMultipleBytes = CHUNK_MULTIPLE_BYTES;
  readonly inOrder = true;
  readonly #storage: Storage;
  readonly #transport: WebTransport;
  readonly #bucket: Bucket;
  readonly #errors: BucketErrors;
  readonly #silenceMs: number;

  constructor({ storage, transport, bucket, errors, silenceMs }: GcsParts) {
    this.#storage = storage;
    this.#transport = transport;
    this.#bucket = bucket;
    this.#errors = errors;
    this.#silenceMs = silenceMs;
  }

  get parts(): PartUploads {
    return this;
  }

  async stat(key: string, signal?: AbortSignal): Promise<BucketObject | undefined> {
    try {
      const [metadata] = await this.#answer(this.#bucket.file(key).getMetadata(), signal);
      return toObject(key, metadata);
    } catch (error) {
      const failure = this.#failure(error, signal);
      if (failure.problem === 'missing_object') return undefined;
      throw this.#errors.make(failure, key);
    }
  }

  async *stream(key: string, options: ReadOptions & { readonly range?: ByteRange } = {}): AsyncGenerator<Uint8Array> {
    const { range, tag, signal } = options;
    signal?.throwIfAborted();
    // Not through the SDK's stream: it adds a listener for every piece of its pipeline until Node warns, and has no
    // time limit for a silent connection.
    const parameters = `alt=media${tag === undefined ? '' : `&generation=${encodeURIComponent(tag)}`}`;
    try {
      const { request, dispatcher } = this.#transport;
      const response = await request(`${this.#objectUrl(key)}?${parameters}`, {
        dispatcher,
        headers: {
          ...(await this.#authorization()),
          // As stored: a `Content-Encoding: gzip` is not undone, or sizes and ranges would be another file's.
          'accept-encoding': 'gzip',
          ...(range === undefined ? {} : { range: `bytes=${range.start}-${range.end - 1}` }),
        },
        ...(signal === undefined ? {} : { signal }),
      });
      const { statusCode } = response;
      if (statusCode >= 300) {
        await response.body.dump();
        const problem = problemOfStatus(statusCode) ?? 'refused';
        throw this.#errors.make({ problem, status: statusCode }, key);
      }
      yield* response.body as AsyncIterable<Uint8Array>;
    } catch (error) {
      // A generation that is gone is a 404, like an object that never was.
      if (problemOf(error) === 'missing_object' && tag !== undefined)
        throw this.#errors.make({ problem: 'changed' }, key);
      if (error instanceof OctomilError) throw error;
      throw this.#errors.make(this.#failure(error, signal), key);
    }
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<BucketObject> {
    let pageToken: string | undefined;
    do {
      signal?.throwIfAborted();
      const page = this.#bucket.getFiles({
        prefix,
        autoPaginate: false,
        maxResults: PAGE_KEYS,
        ...(pageToken === undefined ? {} : { pageToken }),
      });
      const [files, next] = await this.#answer(page, signal).catch((error: unknown) => {
        throw this.#bucketError(error, signal);
      });
      for (const file of files as File[]) yield toObject(file.name, file.metadata);
      pageToken = (next as { pageToken?: string } | null)?.pageToken;
    } while (pageToken !== undefined);
  }

  async check(signal?: AbortSignal): Promise<void> {
    try {
      await this.#answer(this.#bucket.getFiles({ autoPaginate: false, maxResults: 1 }), signal);
    } catch (error) {
      throw this.#bucketError(error, signal);
    }
  }

  async put(key: string, bytes: Uint8Array): Promise<void> {
    await this.#send(key, async () => {
      const crc32c = this.#storage.crc32cGenerator();
      crc32c.update(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
      // With the digest Google refuses what arrives otherwise than it left.
      const metadata = { name: key, contentType: CONTENT_TYPE, crc32c: crc32c.toString() };
      const upload = multipartUpload(metadata, bytes);
      const { request, dispatcher } = this.#transport;
      // As downloads, not through the SDK: it limits neither a silent connection nor ends the upload that is given up.
      const response = await request(this.#uploadUrl, {
        dispatcher,
        method: 'POST',
        headers: {
          ...(await this.#authorization()),
          'content-type': upload.contentType,
          'content-length': String(upload.sizeBytes),
        },
        body: upload.body,
      });
      if (response.statusCode >= 300) throw await refusalOf(response);
      await response.body.dump();
    });
  }

  async delete(key: string): Promise<void> {
    await this.#send(key, () => this.#answer(this.#bucket.file(key).delete({ ignoreNotFound: true })));
  }

  async presignGet(key: string, lifetimeMs: number, disposition?: string): Promise<PresignedRequest> {
    const signed = this.#bucket.file(key).getSignedUrl({
      version: 'v4',
      action: 'read',
      expires: Date.now() + lifetimeMs,
      ...(disposition === undefined ? {} : { responseDisposition: disposition }),
      // Without it the URL would name Google also where another server is used.
      ...(this.#storage.customEndpoint ? { host: this.#storage.apiEndpoint } : {}),
    });
    // Without a key of its own it asks Google to sign.
    const [url] = await this.#send(key, () => this.#answer(signed));
    return { method: 'GET', url, headers: {} };
  }

  async begin(key: string): Promise<PartUpload> {
    const begun = this.#bucket.file(key).createResumableUpload({ metadata: { contentType: CONTENT_TYPE } });
    const [uploadId] = await this.#send(key, () => this.#answer(begun));
    return { key, uploadId };
  }

  async presignPart({ uploadId }: PartUpload, part: UploadPart): Promise<PresignedRequest> {
    return { method: 'PUT', url: uploadId, headers: { 'content-range': contentRange(part) } };
  }

  async putPart({ key, uploadId }: PartUpload, part: UploadPart, bytes: Uint8Array): Promise<void> {
    const { status } = await this.#session(key, uploadId, contentRange(part), bytes);
    // 308: more is expected; 200 or 201: that was the last one.
    if (status !== 308 && status !== 200 && status !== 201) {
      throw this.#errors.make({ problem: problemOfStatus(status) ?? 'refused', status }, key);
    }
  }

  async received({ key, uploadId }: PartUpload, partSizeBytes: number): Promise<ReceivedPart[]> {
    const { status, range } = await this.#session(key, uploadId, 'bytes */*');
    const arrived = status === 308 ? arrivedBytes(range) : undefined;
    const sizeBytes = arrived ?? (status === 200 || status === 201 ? ((await this.stat(key))?.sizeBytes ?? 0) : 0);
    const parts: ReceivedPart[] = [];
    for (let offset = 0; offset < sizeBytes; offset += partSizeBytes) {
      const length = Math.min(partSizeBytes, sizeBytes - offset);
      // While the session is open an uneven end is a part that was cut.
      if (length === partSizeBytes || arrived === undefined)
        parts.push({ number: offset / partSizeBytes, sizeBytes: length });
    }
    return parts;
  }

  async complete({ key, uploadId }: PartUpload, partCount: number, totalBytes: number): Promise<void> {
    // The session makes the object with its last chunk: what is left is to see that it did.
    const made = await this.stat(key);
    if (made?.sizeBytes === totalBytes) return;
    const { status, range } = await this.#session(key, uploadId, `bytes */${totalBytes}`);
    if (status !== 200 && status !== 201) {
      const arrived = arrivedBytes(range);
      throw new OctomilError(
        'transfer_incomplete',
        `${arrived} of ${totalBytes} bytes in ${partCount} parts have arrived; send the rest`,
        { details: { receivedBytes: arrived, expectedBytes: totalBytes } },
      );
    }
    const found = await this.stat(key);
    if (found?.sizeBytes !== totalBytes) {
      throw new OctomilError(
        'transfer_incomplete',
        `the upload has ${found?.sizeBytes ?? 0} bytes, and ${totalBytes} were announced; begin another`,
        { details: { receivedBytes: found?.sizeBytes ?? 0, expectedBytes: totalBytes } },
      );
    }
  }

  async abort({ key, uploadId }: PartUpload): Promise<void> {
    await this.#send(key, async () => {
      const response = await this.#transport.request(uploadId, {
        dispatcher: this.#transport.dispatcher,
        method: 'DELETE',
      });
      await response.body.dump();
    });
  }

  async close(): Promise<void> {
    await this.#transport.dispatcher.destroy();
  }

  #objectUrl(key: string): string {
    const { baseUrl } = this.#storage;
    return `${baseUrl}/b/${encodeURIComponent(this.#bucket.name)}/o/${encodeURIComponent(key)}`;
  }

  get #uploadUrl(): string {
    return `${this.#storage.apiEndpoint}/upload/storage/v1/b/${encodeURIComponent(this.#bucket.name)}/o?uploadType=multipart`;
  }

  /** Of the SDK, its further attempts with it. */
  #answer<T>(asked: Promise<T>, signal?: AbortSignal): Promise<T> {
    return answeredWithin(asked, this.#silenceMs, signal);
  }

  async #authorization(): Promise<Record<string, string>> {
    if (this.#storage.customEndpoint) return {};
    const headers = await this.#answer(this.#storage.authClient.getRequestHeaders());
    return Object.fromEntries(headers.entries());
  }

  async #session(
    key: string,
    uri: string,
    range: string,
    bytes: Uint8Array = new Uint8Array(),
  ): Promise<{ status: number; range: string | undefined }> {
    return this.#send(key, async () => {
      const { request, dispatcher } = this.#transport;
      const response = await request(uri, {
        dispatcher,
        method: 'PUT',
        headers: { 'content-range': range, 'content-length': String(bytes.length) },
        body: inPieces(bytes),
      });
      await response.body.dump();
      const found = response.headers['range'];
      return { status: response.statusCode, range: Array.isArray(found) ? found[0] : found };
    });
  }

  async #send<T>(key: string, send: () => Promise<T>): Promise<T> {
    try {
      return await send();
    } catch (error) {
      if (error instanceof OctomilError) throw error;
      throw this.#errors.make(this.#failure(error), key);
    }
  }

  #bucketError(error: unknown, signal?: AbortSignal): OctomilError {
    const failure = this.#failure(error, signal);
    return this.#errors.make(
      failure.problem === 'missing_object' ? { ...failure, problem: 'missing_bucket' } : failure,
    );
  }

  #failure(error: unknown, signal?: AbortSignal): Failure {
    if (signal?.aborted === true) throw signal.reason;
    return gcsFailure(error);
  }
}

/** What a session says has arrived, such as `bytes=0-262143`; nothing is said of nothing. */
function arrivedBytes(range: string | undefined): number {
  return Number(/-(\d+)$/.exec(range ?? '')?.[1] ?? -1) + 1;
}

function contentRange({ offset, sizeBytes, totalBytes }: UploadPart): string {
  const last = totalBytes !== undefined && offset + sizeBytes === totalBytes;
  return `bytes ${offset}-${offset + sizeBytes - 1}/${last ? totalBytes : '*'}`;
}

function toObject(
  key: string,
  metadata: { size?: string | number; updated?: string; generation?: string | number },
): BucketObject {
  return {
    key,
    sizeBytes: Number(metadata.size ?? 0),
    modifiedAtMs: Date.parse(metadata.updated ?? '') || 0,
    tag: String(metadata.generation ?? ''),
  };
}
