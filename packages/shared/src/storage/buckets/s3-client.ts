import type { Readable } from 'node:stream';
import type { GetObjectCommandOutput, S3Client, S3ClientConfig } from '@aws-sdk/client-s3';
import { OctomilError } from '../../errors/index.js';
import type { ByteRange } from '../object-store.js';
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
import { BucketErrors, type BucketPurpose, type Failure } from './bucket-problem.js';
import type { Environment } from './proxies.js';
import { requireParts } from './received-parts.js';
import { s3Failure } from './s3-problem.js';
import { s3RequestHandler } from './s3-request-handler.js';
import { openWebTransport, type WebTransport } from './web-transport.js';

export interface S3ClientOptions {
  readonly bucket: string;
  readonly environment: Environment;
  readonly purpose: BucketPurpose;
}

const ATTEMPTS = 3;

const CREDENTIALS =
  'set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN where they are temporary), or AWS_PROFILE, or run where a role is attached';

/**
 * A bucket on S3 or on a server that speaks its protocol (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL). Credentials come from
 * the environment, the AWS files or the machine's role, as for every AWS tool; AWS_DEFAULT_REGION and AWS_CA_BUNDLE
 * count too, which the SDK does not read.
 */
export async function openS3Client(options: S3ClientOptions): Promise<BucketClient> {
  const { bucket, environment, purpose } = options;
  const sdk = await import('@aws-sdk/client-s3');
  const transport = await openWebTransport(environment, environment['AWS_CA_BUNDLE'] || undefined);
  const config = s3Config(environment, transport);
  const errors = new BucketErrors(
    {
      name: 'S3',
      credentials: CREDENTIALS,
      permissions: 'these credentials need s3:GetObject and s3:ListBucket (and s3:PutObject to write)',
      endpoint: config.endpoint === undefined ? 'the AWS endpoint' : `AWS_ENDPOINT_URL_S3`,
    },
    `s3://${bucket}/`,
    purpose,
  );
  return new S3Bucket(sdk, new sdk.S3Client(config), transport, bucket, errors);
}

/** Only what the SDK would not find by itself, or would look for in another environment than the one given. */
function s3Config(environment: Environment, transport: WebTransport): S3ClientConfig {
  const endpoint = environment['AWS_ENDPOINT_URL_S3'] || environment['AWS_ENDPOINT_URL'] || undefined;
  const region = environment['AWS_REGION'] || environment['AWS_DEFAULT_REGION'] || undefined;
  const accessKeyId = environment['AWS_ACCESS_KEY_ID'] || undefined;
  const secretAccessKey = environment['AWS_SECRET_ACCESS_KEY'] || undefined;
  const sessionToken = environment['AWS_SESSION_TOKEN'] || undefined;
  const profile = environment['AWS_PROFILE'] || undefined;
  const given =
    accessKeyId === undefined || secretAccessKey === undefined
      ? undefined
      : { accessKeyId, secretAccessKey, ...(sessionToken === undefined ? {} : { sessionToken }) };
  return {
    requestHandler: s3RequestHandler(transport),
    maxAttempts: ATTEMPTS,
    followRegionRedirects: true,
    // Servers other than AWS know neither the newer checksums nor buckets as host names.
    ...(endpoint === undefined
      ? {}
      : {
          endpoint,
          forcePathStyle: true,
          requestChecksumCalculation: 'WHEN_REQUIRED' as const,
          responseChecksumValidation: 'WHEN_REQUIRED' as const,
        }),
    ...(region === undefined ? (endpoint === undefined ? {} : { region: 'us-east-1' }) : { region }),
    ...(given === undefined ? {} : { credentials: given }),
    ...(profile === undefined ? {} : { profile }),
  };
}

type Sdk = typeof import('@aws-sdk/client-s3');

class S3Bucket implements BucketClient, PartUploads {
  readonly partMultipleBytes = 1;
  readonly inOrder = false;
  readonly #sdk: Sdk;
  readonly #client: S3Client;
  readonly #transport: WebTransport;
  readonly #bucket: string;
  readonly #errors: BucketErrors;

  constructor(sdk: Sdk, client: S3Client, transport: WebTransport, bucket: string, errors: BucketErrors) {
    this.#sdk = sdk;
    this.#client = client;
    this.#transport = transport;
    this.#bucket = bucket;
    this.#errors = errors;
  }

  get parts(): PartUploads {
    return this;
  }

  async stat(key: string, signal?: AbortSignal): Promise<BucketObject | undefined> {
    try {
      const head = await this.#client.send(
        new this.#sdk.HeadObjectCommand({ Bucket: this.#bucket, Key: key }),
        sending(signal),
      );
      return {
        key,
        sizeBytes: head.ContentLength ?? 0,
        modifiedAtMs: head.LastModified?.getTime() ?? 0,
        tag: head.ETag ?? '',
      };
    } catch (error) {
      const failure = this.#failure(error, signal);
      if (failure.problem === 'missing_object') return undefined;
      throw this.#errors.make(failure, key);
    }
  }

  async *stream(key: string, options: ReadOptions & { readonly range?: ByteRange } = {}): AsyncGenerator<Uint8Array> {
    const { range, tag, signal } = options;
    try {
      const found: GetObjectCommandOutput = await this.#client.send(
        new this.#sdk.GetObjectCommand({
          Bucket: this.#bucket,
          Key: key,
          ...(tag === undefined ? {} : { IfMatch: tag }),
          ...(range === undefined ? {} : { Range: `bytes=${range.start}-${range.end - 1}` }),
        }),
        sending(signal),
      );
      // Some servers ignore If-Match.
      if (tag !== undefined && found.ETag !== undefined && found.ETag !== tag) {
        dropBody(found.Body);
        throw this.#errors.make({ problem: 'changed' }, key);
      }
      yield* found.Body as unknown as AsyncIterable<Uint8Array>;
    } catch (error) {
      throw this.#error(error, key, signal);
    }
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<BucketObject> {
    let after: string | undefined;
    do {
      const page = await this.#client
        .send(
          new this.#sdk.ListObjectsV2Command({
            Bucket: this.#bucket,
            Prefix: prefix,
            ...(after === undefined ? {} : { ContinuationToken: after }),
          }),
          sending(signal),
        )
        .catch((error: unknown) => {
          throw this.#error(error, undefined, signal);
        });
      for (const { Key, Size, LastModified, ETag } of page.Contents ?? []) {
        if (Key === undefined) continue;
        yield { key: Key, sizeBytes: Size ?? 0, modifiedAtMs: LastModified?.getTime() ?? 0, tag: ETag ?? '' };
      }
      after = page.IsTruncated === true ? page.NextContinuationToken : undefined;
    } while (after !== undefined);
  }

  async check(signal?: AbortSignal): Promise<void> {
    try {
      await this.#client.send(new this.#sdk.HeadBucketCommand({ Bucket: this.#bucket }), sending(signal));
    } catch (error) {
      const failure = this.#failure(error, signal);
      throw this.#errors.make(
        failure.problem === 'missing_object' ? { ...failure, problem: 'missing_bucket' } : failure,
      );
    }
  }

  async put(key: string, bytes: Uint8Array): Promise<void> {
    await this.#send(key, () =>
      this.#client.send(
        new this.#sdk.PutObjectCommand({
          Bucket: this.#bucket,
          Key: key,
          Body: bytes,
          ContentLength: bytes.length,
          ContentType: 'application/octet-stream',
        }),
      ),
    );
  }

  async delete(key: string): Promise<void> {
    try {
      await this.#client.send(new this.#sdk.DeleteObjectCommand({ Bucket: this.#bucket, Key: key }));
    } catch (error) {
      const failure = this.#failure(error);
      if (failure.problem !== 'missing_object') throw this.#errors.make(failure, key);
    }
  }

  async presignGet(key: string, lifetimeMs: number, disposition?: string): Promise<PresignedRequest> {
    const url = await this.#presign(
      key,
      new this.#sdk.GetObjectCommand({
        Bucket: this.#bucket,
        Key: key,
        ...(disposition === undefined ? {} : { ResponseContentDisposition: disposition }),
      }),
      lifetimeMs,
    );
    return { method: 'GET', url, headers: {} };
  }

  async begin(key: string): Promise<PartUpload> {
    const begun = await this.#send(key, () =>
      this.#client.send(
        new this.#sdk.CreateMultipartUploadCommand({
          Bucket: this.#bucket,
          Key: key,
          ContentType: 'application/octet-stream',
        }),
      ),
    );
    if (begun.UploadId === undefined) throw this.#errors.make({ problem: 'refused' }, key);
    return { key, uploadId: begun.UploadId };
  }

  async putPart({ key, uploadId }: PartUpload, { number }: UploadPart, bytes: Uint8Array): Promise<void> {
    await this.#send(key, () =>
      this.#client.send(
        new this.#sdk.UploadPartCommand({
          Bucket: this.#bucket,
          Key: key,
          UploadId: uploadId,
          PartNumber: number + 1,
          Body: bytes,
          ContentLength: bytes.length,
        }),
      ),
    );
  }

  async presignPart(
    { key, uploadId }: PartUpload,
    { number }: UploadPart,
    lifetimeMs: number,
  ): Promise<PresignedRequest> {
    const command = new this.#sdk.UploadPartCommand({
      Bucket: this.#bucket,
      Key: key,
      UploadId: uploadId,
      PartNumber: number + 1,
    });
    return { method: 'PUT', url: await this.#presign(key, command, lifetimeMs), headers: {} };
  }

  async received({ key, uploadId }: PartUpload): Promise<ReceivedPart[]> {
    return (await this.#listParts(key, uploadId)).map(({ number, sizeBytes }) => ({ number, sizeBytes }));
  }

  async complete({ key, uploadId }: PartUpload, partCount: number, totalBytes: number): Promise<void> {
    const parts = await this.#listParts(key, uploadId);
    requireParts(parts, partCount, totalBytes);
    await this.#send(key, () =>
      this.#client.send(
        new this.#sdk.CompleteMultipartUploadCommand({
          Bucket: this.#bucket,
          Key: key,
          UploadId: uploadId,
          MultipartUpload: { Parts: parts.map(({ number, tag }) => ({ PartNumber: number + 1, ETag: tag })) },
        }),
      ),
    );
  }

  async abort({ key, uploadId }: PartUpload): Promise<void> {
    try {
      await this.#client.send(
        new this.#sdk.AbortMultipartUploadCommand({ Bucket: this.#bucket, Key: key, UploadId: uploadId }),
      );
    } catch (error) {
      const failure = this.#failure(error);
      if (failure.problem !== 'missing_object') throw this.#errors.make(failure, key);
    }
  }

  async close(): Promise<void> {
    this.#client.destroy();
    await this.#transport.dispatcher.destroy();
  }

  async #listParts(key: string, uploadId: string): Promise<(ReceivedPart & { readonly tag: string })[]> {
    const parts: (ReceivedPart & { readonly tag: string })[] = [];
    let after: string | undefined;
    do {
      const marker = after;
      const page = await this.#send(key, () =>
        this.#client.send(
          new this.#sdk.ListPartsCommand({
            Bucket: this.#bucket,
            Key: key,
            UploadId: uploadId,
            ...(marker === undefined ? {} : { PartNumberMarker: marker }),
          }),
        ),
      );
      for (const { PartNumber, Size, ETag } of page.Parts ?? []) {
        if (PartNumber !== undefined) parts.push({ number: PartNumber - 1, sizeBytes: Size ?? 0, tag: ETag ?? '' });
      }
      after = page.IsTruncated === true ? page.NextPartNumberMarker : undefined;
    } while (after !== undefined);
    return parts;
  }

  async #presign(
    key: string,
    command: InstanceType<Sdk['GetObjectCommand']> | InstanceType<Sdk['UploadPartCommand']>,
    lifetimeMs: number,
  ): Promise<string> {
    const { getSignedUrl } = await import('@aws-sdk/s3-request-presigner');
    return this.#send(key, () =>
      // Its types do not go with exact optional properties.
      getSignedUrl(this.#client, command as unknown as Parameters<typeof getSignedUrl>[1], {
        expiresIn: Math.max(1, Math.floor(lifetimeMs / 1000)),
        // By the bucket's clock, as far as its answers told it: what is sent from here is signed so already.
        signingDate: new Date(Date.now() + this.#client.config.systemClockOffset),
        // The checksum would be that of the empty body that is signed here.
        unsignableHeaders: new Set(['x-amz-checksum-crc32', 'x-amz-sdk-checksum-algorithm']),
      }),
    );
  }

  async #send<T>(key: string, send: () => Promise<T>): Promise<T> {
    try {
      return await send();
    } catch (error) {
      throw this.#error(error, key);
    }
  }

  #error(error: unknown, key: string | undefined, signal?: AbortSignal): unknown {
    if (error instanceof OctomilError) return error;
    if (signal?.aborted === true) return signal.reason;
    const failure = this.#failure(error, signal);
    // A list is about the bucket.
    if (key === undefined && failure.problem === 'missing_object')
      return this.#errors.make({ ...failure, problem: 'missing_bucket' });
    return this.#errors.make(failure, key);
  }

  #failure(error: unknown, signal?: AbortSignal): Failure {
    if (signal?.aborted === true) throw signal.reason;
    return s3Failure(error);
  }
}

/** Lets go of bytes that nobody reads. What the stream says of that is nobody's error. */
function dropBody(body: unknown): void {
  const stream = body as Readable | undefined;
  stream?.on('error', () => undefined);
  stream?.destroy();
}

function sending(signal: AbortSignal | undefined): { abortSignal?: AbortSignal } {
  return signal === undefined ? {} : { abortSignal: signal };
}
