import { randomBytes } from 'node:crypto';
import type { Readable } from 'node:stream';
import type { ContainerClient } from '@azure/storage-blob';
import { OctomilError } from '../../errors/index.js';
import type { ByteRange } from '../object-store.js';
import { type AzureAccess, openAzureAccess } from './azure-access.js';
import { type BucketAddress, describeBucket } from './bucket-address.js';
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
import { BucketErrors, type BucketPurpose, type Failure, networkProblem, problemOfStatus } from './bucket-problem.js';
import type { Environment } from './proxies.js';
import { requireParts } from './received-parts.js';
import { unlessSilent } from './unless-silent.js';
import { SILENCE_TIMEOUT_MS } from './web-transport.js';

export interface AzureClientOptions {
  readonly address: Extract<BucketAddress, { provider: 'az' }>;
  readonly environment: Environment;
  readonly purpose: BucketPurpose;
}

const CREDENTIALS =
  'set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, of the account that the URL names; to sign in with Microsoft Entra, install @azure/identity and name the account';

/** A container of Azure Blob Storage. @see openAzureAccess for where credentials come from */
export async function openAzureClient({ address, environment, purpose }: AzureClientOptions): Promise<BucketClient> {
  const errors = new BucketErrors(
    {
      name: 'Azure Blob Storage',
      credentials: CREDENTIALS,
      permissions:
        'the key, signature or role must allow reading and listing blobs (role Storage Blob Data Reader; Contributor to write)',
      endpoint: 'the account that the URL or the credentials name',
    },
    describeBucket(address),
    purpose,
  );
  return new AzureContainer(await openAzureAccess(address, environment, errors), errors);
}

class AzureContainer implements BucketClient, PartUploads {
  readonly partMultipleBytes = 1;
  readonly inOrder = false;
  readonly #access: AzureAccess;
  readonly #container: ContainerClient;
  readonly #errors: BucketErrors;

  constructor(access: AzureAccess, errors: BucketErrors) {
    this.#access = access;
    this.#container = access.container;
    this.#errors = errors;
  }

  get parts(): PartUploads {
    return this;
  }

  async stat(key: string, signal?: AbortSignal): Promise<BucketObject | undefined> {
    try {
      const found = await this.#container.getBlobClient(key).getProperties(sending(signal));
      return {
        key,
        sizeBytes: found.contentLength ?? 0,
        modifiedAtMs: found.lastModified?.getTime() ?? 0,
        tag: found.etag ?? '',
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
      const found = await this.#container
        .getBlobClient(key)
        .download(range?.start ?? 0, range === undefined ? undefined : range.end - range.start, {
          ...sending(signal),
          // Resuming is done above this port, the same for every provider.
          maxRetryRequests: 0,
          ...(tag === undefined ? {} : { conditions: { ifMatch: tag } }),
        });
      // The SDK's own limits end with the headers.
      if (found.readableStreamBody !== undefined)
        yield* unlessSilent(found.readableStreamBody as Readable, SILENCE_TIMEOUT_MS);
    } catch (error) {
      throw this.#error(error, key, signal);
    }
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<BucketObject> {
    try {
      for await (const { name, properties } of this.#container.listBlobsFlat({ prefix, ...sending(signal) })) {
        yield {
          key: name,
          sizeBytes: properties.contentLength ?? 0,
          modifiedAtMs: properties.lastModified?.getTime() ?? 0,
          // Headers have it in quotes, lists do not.
          tag: properties.etag === undefined ? '' : `"${properties.etag.replaceAll('"', '')}"`,
        };
      }
    } catch (error) {
      throw this.#error(error, undefined, signal);
    }
  }

  async check(signal?: AbortSignal): Promise<void> {
    try {
      await this.#container.listBlobsFlat(sending(signal)).byPage({ maxPageSize: 1 }).next();
    } catch (error) {
      throw this.#error(error, undefined, signal);
    }
  }

  async put(key: string, bytes: Uint8Array): Promise<void> {
    await this.#send(key, () =>
      this.#container
        .getBlockBlobClient(key)
        .upload(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), bytes.length, {
          blobHTTPHeaders: { blobContentType: 'application/octet-stream' },
        }),
    );
  }

  async delete(key: string): Promise<void> {
    await this.#send(key, () => this.#container.getBlobClient(key).deleteIfExists());
  }

  async presignGet(key: string, lifetimeMs: number, disposition?: string): Promise<PresignedRequest> {
    return { method: 'GET', url: await this.#sign(key, 'r', lifetimeMs, disposition), headers: {} };
  }

  async begin(key: string): Promise<PartUpload> {
    // Blocks need no beginning. All names of a blob's blocks have the same length.
    return { key, uploadId: randomBytes(8).toString('hex') };
  }

  async putPart({ key, uploadId }: PartUpload, { number }: UploadPart, bytes: Uint8Array): Promise<void> {
    await this.#send(key, () =>
      this.#container
        .getBlockBlobClient(key)
        .stageBlock(
          blockName(uploadId, number),
          Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength),
          bytes.length,
        ),
    );
  }

  async presignPart(
    { key, uploadId }: PartUpload,
    { number }: UploadPart,
    lifetimeMs: number,
  ): Promise<PresignedRequest> {
    // Also lets its holder replace the whole blob until it ends: nothing may be trusted that lies at this key.
    const url = new URL(await this.#sign(key, 'w', lifetimeMs));
    url.searchParams.set('comp', 'block');
    url.searchParams.set('blockid', blockName(uploadId, number));
    return { method: 'PUT', url: url.href, headers: {} };
  }

  async received({ key, uploadId }: PartUpload): Promise<ReceivedPart[]> {
    try {
      const list = await this.#container.getBlockBlobClient(key).getBlockList('uncommitted');
      return (list.uncommittedBlocks ?? []).flatMap(({ name, size }) => {
        const number = partOfBlock(uploadId, name);
        return number === undefined ? [] : [{ number, sizeBytes: Number(size) }];
      });
    } catch (error) {
      const failure = this.#failure(error);
      if (failure.problem === 'missing_object') return [];
      throw this.#errors.make(failure, key);
    }
  }

  async complete(upload: PartUpload, partCount: number, totalBytes: number): Promise<void> {
    requireParts(await this.received(upload), partCount, totalBytes);
    const names = Array.from({ length: partCount }, (_, number) => blockName(upload.uploadId, number));
    await this.#send(upload.key, () =>
      this.#container.getBlockBlobClient(upload.key).commitBlockList(names, {
        blobHTTPHeaders: { blobContentType: 'application/octet-stream' },
      }),
    );
  }

  /**
   * There is nothing that ends an upload of blocks: an empty blob at their key does, where there is none yet. Under a blob
   * that is being replaced they vanish after a week.
   */
  async abort(upload: PartUpload): Promise<void> {
    const { key } = upload;
    if ((await this.received(upload)).length === 0 || (await this.stat(key)) !== undefined) return;
    await this.put(key, new Uint8Array());
    await this.delete(key);
  }

  async close(): Promise<void> {}

  async #sign(key: string, permissions: 'r' | 'w', lifetimeMs: number, disposition?: string): Promise<string> {
    const sdk = await import('@azure/storage-blob');
    const blob = this.#container.getBlobClient(key);
    const expiresOn = new Date(Date.now() + lifetimeMs);
    const scope = {
      permissions: sdk.BlobSASPermissions.parse(permissions),
      expiresOn,
      ...(disposition === undefined ? {} : { contentDisposition: disposition }),
    };
    return this.#send(key, async () => {
      switch (this.#access.signing) {
        case 'account_key':
          return blob.generateSasUrl(scope);
        case 'user_delegation': {
          const service = serviceOf(sdk, this.#container);
          // Clocks differ by minutes; a signature that begins now may not have begun there.
          const delegation = await service.getUserDelegationKey(new Date(Date.now() - 300_000), expiresOn);
          return blob.generateUserDelegationSasUrl(scope, delegation);
        }
        case undefined:
          throw new OctomilError(
            'config_invalid',
            'URLs for others cannot be signed with a shared access signature; give the account key or a role instead',
          );
      }
    });
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
    if (key === undefined && failure.problem === 'missing_object') {
      return this.#errors.make({ ...failure, problem: 'missing_bucket' });
    }
    return this.#errors.make(failure, key);
  }

  #failure(error: unknown, signal?: AbortSignal): Failure {
    if (signal?.aborted === true) throw signal.reason;
    const { code, statusCode, details, name } = error as {
      code?: unknown;
      statusCode?: number;
      details?: { errorCode?: string };
      name?: string;
    };
    const providerCode = details?.errorCode ?? (typeof code === 'string' ? code : undefined);
    const problem = azureProblem(error, providerCode, statusCode, name);
    // What a signature past its end is refused with differs from server to server.
    const expired = (problem === 'denied' || problem === 'bad_credentials') && hasExpired(this.#container.url);
    return { problem: expired ? 'expired_credentials' : problem, providerCode, status: statusCode };
  }
}

/** Whether the signature of the URL (`se`: signed expiry) has come to its end. */
function hasExpired(url: string): boolean {
  const end = Date.parse(new URL(url).searchParams.get('se') ?? '');
  return end < Date.now();
}

/** Its second sentence is in the details only; answers to HEAD have neither. */
function saidBy(error: unknown): string {
  const { message, details } = error as { message?: string; details?: { authenticationErrorDetail?: string } };
  return `${message ?? ''} ${details?.authenticationErrorDetail ?? ''}`;
}

function azureProblem(
  error: unknown,
  code: string | undefined,
  status: number | undefined,
  name: string | undefined,
): Failure['problem'] {
  switch (code ?? '') {
    case 'ContainerNotFound':
    case 'ContainerBeingDeleted':
    case 'InvalidResourceName':
      return 'missing_bucket';
    case 'BlobNotFound':
    case 'ResourceNotFound':
      return 'missing_object';
    case 'InvalidAuthenticationInfo':
    case 'NoAuthenticationInformation':
      return 'bad_credentials';
    case 'AuthenticationFailed':
      // The same code stands for a wrong key and for a signature past its end.
      return /expir|not valid in the specified time/i.test(saidBy(error)) ? 'expired_credentials' : 'bad_credentials';
    case 'AuthorizationFailure':
    case 'AuthorizationPermissionMismatch':
    case 'InsufficientAccountPermissions':
    case 'PublicAccessNotPermitted':
      return 'denied';
    case 'ConditionNotMet':
      return 'changed';
  }
  if (name === 'CredentialUnavailableError' || name === 'AuthenticationRequiredError') return 'no_credentials';
  if (name === 'AggregateAuthenticationError' || name === 'AuthenticationError') return 'bad_credentials';
  return networkProblem(error) ?? problemOfStatus(status) ?? 'refused';
}

function serviceOf(sdk: typeof import('@azure/storage-blob'), container: ContainerClient) {
  const { origin, pathname } = new URL(container.url);
  return new sdk.BlobServiceClient(`${origin}${pathname.slice(0, pathname.lastIndexOf('/'))}`, container.credential);
}

function blockName(uploadId: string, number: number): string {
  return Buffer.from(`${uploadId}-${String(number).padStart(6, '0')}`).toString('base64');
}

function partOfBlock(uploadId: string, name: string): number | undefined {
  const text = Buffer.from(name, 'base64').toString();
  return text.startsWith(`${uploadId}-`) ? Number(text.slice(uploadId.length + 1)) : undefined;
}

function sending(signal: AbortSignal | undefined): { abortSignal?: AbortSignal } {
  return signal === undefined ? {} : { abortSignal: signal };
}
