import { createHash, type Hash, randomBytes, randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import { type Clock, noteNetworkGarbage } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import type { JsonObject } from '../database/tables.js';
import type { DirectRequests } from '../transfers/direct-uploads.js';
import { type ArtifactObjects, artifactKey, moveObject, UPLOADS } from './artifact-objects.js';
import type { ArtifactUpload } from './artifact-upload-store.js';
import { checkModelFile, isOurs, requireContent } from './check-model-file.js';
import { requestFormats, type VersionConversions } from './conversion-port.js';
import type { DirectArtifacts } from './direct-artifacts.js';
import { formatOf, keyWord, plainFileName } from './file-formats.js';
import type { Registry } from './registry.js';
import type { SignedAddresses } from './signed-address.js';
import { unstalled } from './unstalled.js';
import { layoutOf, parsePlan, UploadParts, type UploadPlan } from './upload-parts.js';
import { parseVersion } from './version-number.js';
import type { Version } from './version-store.js';
import { wrongDigest } from './wrong-digest.js';

export interface UploadTarget {
  readonly storageKey: string;
  /** Goes into the upload address: whoever holds it may write this one object until it expires. */
  readonly token: string;
  readonly expiresAt: Date;
  readonly plan: UploadPlan;
  /** Its parts may go straight to a bucket. */
  readonly direct: boolean;
}

/** Where an upload stands. */
export interface UploadProgress {
  readonly plan: UploadPlan;
  readonly receivedBytes: number;
  readonly parts: readonly number[];
  readonly expiresAt: Date;
  /** `validating`: it is in the bucket, and being checked. */
  readonly state: 'open' | 'validating' | 'completed' | 'rejected';
  /** Of the version that it became or will become. */
  readonly versionId: string | null;
  /** Why it was rejected. */
  readonly problem: OctomilError | undefined;
}

export interface VersionUploadsOptions {
  readonly registry: Registry;
  readonly objects: ObjectStore;
  readonly artifacts: ArtifactObjects;
  readonly addresses: SignedAddresses;
  readonly clock: Clock;
  /** Without it, a version has the formats that are uploaded. */
  readonly conversions?: VersionConversions;
  /** Uploads that go past this process. */
  readonly direct?: DirectArtifacts;
}

/** A file in the store that is out of reach of everybody else, and not part of a version yet. */
export interface ReceivedFile {
  readonly key: string;
  readonly fileName: string;
  readonly format: string;
  readonly sha256: string;
  readonly sizeBytes: number;
}

export interface VersionFields {
  /** null: the minor after the highest. */
  readonly version: string | null;
  readonly description: string;
  /** Formats that shall exist before it can be published, beside those of the files. */
  readonly formats: readonly string[];
  readonly createdBy: string;
  readonly metrics?: JsonObject;
}

export interface Confirmation extends VersionFields {
  readonly storageKey: string;
  readonly sizeBytes: number;
  readonly format?: string;
  /** Hexadecimal, when the sender knows it. */
  readonly sha256?: string;
}

export const UPLOAD_VALID_MS = 24 * 3_600_000;
/** 64 GiB: beyond any model that could be trained here, so that a mistake cannot fill the disk. */
export const MAX_UPLOAD_BYTES = 64 * 1024 ** 3;
/** An upload that sends nothing for so long is given up. */
const IDLE_MS = 60_000;
const RECEIVED = `${UPLOADS}received`;
/** As others see them. */
const STATES = { arrived: 'validating', completed: 'completed', abandoned: 'rejected' } as const;
/** Where a version's own word stands in a key, when it is numbered at the end. */
const NEXT = 'next';

/** Files that people bring, and the versions they become. */
export class VersionUploads {
  readonly #on: VersionUploadsOptions;
  readonly #parts: UploadParts;

  constructor(options: VersionUploadsOptions) {
    this.#on = options;
    this.#parts = new UploadParts(options.objects);
  }

  /**
   * An address to PUT to without further credentials; a confirmation then makes the version.
   *
   * @throws OctomilError `invalid_input` for a version that is none or a plan out of bounds, `conflict` for one that is
   * published, `ticket_invalid` for a key revoked just now
   */
  async begin(
    keyId: string,
    modelId: string,
    request: { version: string | null; fileName: string; sizeBytes?: number; partSizeBytes?: number },
  ): Promise<UploadTarget> {
    const plan = parsePlan(request, plainFileName(request.fileName), MAX_UPLOAD_BYTES);
    // Said before a large file is on its way for nothing.
    if (request.version !== null) await this.#on.registry.versions.refuseClosed(modelId, parseVersion(request.version));
    const folder = `${folderOf(modelId, request.version)}/${randomBytes(24).toString('base64url')}`;
    const storageKey = `${folder}/${keyWord(plan.fileName)}`;
    const { token, expiresAt } = await this.#on.addresses.sign(keyId, storageKey, UPLOAD_VALID_MS);
    await this.#parts.keepPlan(storageKey, plan);
    const direct = this.#on.direct?.offered === true && plan.sizeBytes !== undefined && plan.sizeBytes > 0;
    return { storageKey, token, expiresAt, plan, direct };
  }

  /**
   * Takes the bytes, whole. Repeating it replaces them, until they are confirmed.
   *
   * @throws OctomilError `ticket_invalid`, `ticket_expired`, `too_large`, `insufficient_storage`, `transfer_incomplete`,
   * `request_timeout` when nothing comes for a minute
   */
  async receive(token: string, source: AsyncIterable<Uint8Array>): Promise<number> {
    const { subject } = await this.#on.addresses.verify(token);
    const plan = await this.#parts.planOf(subject);
    const stored = await this.#on.objects.put(subject, this.#received(source, plan.sizeBytes ?? MAX_UPLOAD_BYTES));
    return stored.sizeBytes;
  }

  /** Takes one part; numbers begin at 1. Repeating it replaces it. @throws OctomilError as `receive`, and `invalid_input` */
  async receivePart(token: string, number: number, source: AsyncIterable<Uint8Array>): Promise<number> {
    const { subject } = await this.#on.addresses.verify(token);
    return this.#parts.put(subject, number, (limitBytes) => this.#received(source, limitBytes));
  }

  /** What has arrived, so that an upload can go on where it was cut off. @throws OctomilError as `receive` */
  async progress(token: string): Promise<UploadProgress> {
    const { subject, expiresAtMs } = await this.#on.addresses.verify(token);
    const expiresAt = new Date(expiresAtMs);
    const row = await this.#on.direct?.find(subject);
    if (row !== undefined && (row.state !== 'abandoned' || row.problem !== undefined) && row.state !== 'open') {
      const { layout, fileName, problem, versionId } = row;
      const plan = { fileName, sizeBytes: layout.sizeBytes, partSizeBytes: layout.partSizeBytes };
      const parts = Array.from({ length: layout.partCount }, (_, index) => index + 1);
      const state = STATES[row.state];
      return { plan, receivedBytes: layout.sizeBytes, parts, expiresAt, state, versionId, problem };
    }
    const plan = await this.#parts.planOf(subject);
    const whole = await this.#on.objects.stat(subject);
    const parts = await this.#parts.arrived(subject);
    const receivedBytes = whole?.sizeBytes ?? parts.reduce((sum, part) => sum + part.sizeBytes, 0);
    const numbers = parts.map(({ number }) => number);
    return { plan, receivedBytes, parts: numbers, expiresAt, state: 'open', versionId: null, problem: undefined };
  }

  /**
   * Requests that send missing parts straight to the bucket. What began here goes on here.
   *
   * @throws OctomilError as `receive`
   */
  async requests(token: string): Promise<DirectRequests & { readonly inOrder: boolean }> {
    const { subject, expiresAtMs } = await this.#on.addresses.verify(token);
    const { direct } = this.#on;
    const none = { parts: [], received: [], more: false, arrived: false, inOrder: false };
    if (direct?.offered !== true) return none;
    const known = await direct.find(subject);
    if (known?.state === 'arrived' || known?.state === 'completed') return { ...none, arrived: true };
    if (known?.state === 'abandoned') return none;
    const plan = await this.#parts.planOf(subject);
    const { sizeBytes, partSizeBytes } = plan;
    if (sizeBytes === undefined || sizeBytes === 0 || partSizeBytes === undefined) return none;
    if ((await this.#parts.arrived(subject)).length > 0) return none;
    const layout = { sizeBytes, partSizeBytes, partCount: layoutOf(plan).partCount };
    const modelId = subject.slice(UPLOADS.length).split('/')[0] ?? '';
    const { fileName } = plan;
    const upload = { storageKey: subject, modelId, fileName, layout, expiresAt: new Date(expiresAtMs) };
    return { ...(await direct.requests(upload)), inOrder: direct.inOrder };
  }

  /** Whether an upload was begun for this version and not confirmed. */
  async isUnfinished(modelId: string, version: string): Promise<boolean> {
    for await (const _ of this.#on.objects.list(`${folderOf(modelId, version)}/`)) return true;
    return false;
  }

  /**
   * Checks what was uploaded and adds it to the version, which is made as a draft when it is the first file. Repeating it
   * after it succeeded answers the same version.
   *
   * @throws OctomilError `transfer_incomplete` when the bytes are not there or not all of them, `checksum_mismatch`,
   * `corrupt_file` for weights or a document that cannot be read, `conflict` when the version has this file or is published
   */
  async confirm(modelId: string, request: Confirmation): Promise<Version> {
    const { objects, registry } = this.#on;
    const { storageKey } = request;
    if (!storageKey.startsWith(`${folderOf(modelId, request.version)}/`)) {
      throw new OctomilError(
        'invalid_input',
        'storage_key belongs to another model or version; ask for an upload-url again',
      );
    }
    const made = await registry.versions.ofUpload(modelId, storageKey);
    if (made !== undefined) return made;
    const past = await this.#on.direct?.find(storageKey);
    const awaiting = past === undefined ? undefined : await this.#confirmDirect(past, request);
    if (awaiting !== undefined) return awaiting;
    const plan = await this.#parts.planOf(storageKey);
    const format = request.format ?? formatOf(plan.fileName);
    const key = `${RECEIVED}/${randomUUID()}`;
    let file: ReceivedFile;
    try {
      const uploaded = await objects.stat(storageKey);
      if (uploaded === undefined && layoutOf(plan).partCount > 0) {
        file = await this.#joinParts(storageKey, plan, key, format);
      } else {
        if (uploaded?.sizeBytes !== request.sizeBytes) throw incomplete(uploaded?.sizeBytes ?? 0, request.sizeBytes);
        // Out of reach of the upload address before it is looked at, so that what was checked is what is kept.
        await moveObject(objects, storageKey, key).catch((error: unknown) => {
          throw takenMeanwhile(error);
        });
        await this.#inspect(key, format, uploaded.sizeBytes);
        const sha256 = await digestOf(objects, key);
        file = { key, fileName: plan.fileName, format, sha256, sizeBytes: uploaded.sizeBytes };
      }
      if (file.sizeBytes !== request.sizeBytes) throw incomplete(file.sizeBytes, request.sizeBytes);
      if (request.sha256 !== undefined && request.sha256 !== file.sha256) {
        await this.#parts.discard(storageKey);
        throw wrongDigest(file.sha256, request.sha256);
      }
      const version = await this.#addVersion(modelId, request, [file], storageKey);
      await this.#parts.discard(storageKey);
      if (past !== undefined) await this.#on.direct?.giveUp(past);
      return version;
    } finally {
      await objects.delete(key);
    }
  }

  /**
   * Streams a file into the store, taking its digest on the way. What it answers must go to `createVersion` or `discard`.
   *
   * @throws OctomilError `too_large`, `insufficient_storage`, `corrupt_file`, `transfer_incomplete`
   */
  async receiveFile(source: AsyncIterable<Uint8Array>, fileName: string, format?: string): Promise<ReceivedFile> {
    const name = plainFileName(fileName);
    const key = `${RECEIVED}/${randomUUID()}`;
    const hash = createHash('sha256');
    const { sizeBytes } = await this.#on.objects.put(key, this.#received(source, MAX_UPLOAD_BYTES, hash));
    return { key, fileName: name, format: format ?? formatOf(name), sha256: hash.digest('hex'), sizeBytes };
  }

  /** A version of files that were received. They are gone afterwards, whether it succeeds or not. */
  async createVersion(modelId: string, fields: VersionFields, files: readonly ReceivedFile[]): Promise<Version> {
    try {
      for (const file of files) await this.#inspect(file.key, file.format, file.sizeBytes);
      return await this.#addVersion(modelId, fields, files);
    } finally {
      await this.discard(files);
    }
  }

  /** Safe to repeat. */
  async discard(files: readonly ReceivedFile[]): Promise<void> {
    for (const { key } of files) await this.#on.objects.delete(key);
  }

  /** A version of a file that is in the store already. @throws OctomilError `conflict`, `corrupt_file` */
  async register(
    modelId: string,
    fields: VersionFields,
    file: { objectKey: string; fileName: string; format: string; sha256: string; sizeBytes: number },
  ): Promise<Version> {
    await this.#inspect(file.objectKey, file.format, file.sizeBytes);
    return this.#on.registry.versions.addUpload(
      { modelId, ...fields, artifacts: [artifactRow(file, file.objectKey)] },
      (version, transaction) => {
        const formats = { asked: fields.formats, uploaded: [file.format] };
        return requestFormats(this.#on.conversions, version.id, formats, transaction);
      },
    );
  }

  /** The version that awaits what arrived in the bucket; undefined where the bytes came here, or not all came. */
  async #confirmDirect(upload: ArtifactUpload, request: Confirmation): Promise<Version | undefined> {
    const { direct, registry } = this.#on;
    if (upload.state === 'open') {
      const { layout, storageKey } = upload;
      const here = (await this.#on.objects.stat(storageKey)) ?? (await this.#parts.arrived(storageKey))[0];
      if (here !== undefined) return undefined;
      if (request.sizeBytes !== layout.sizeBytes) throw incomplete(layout.sizeBytes, request.sizeBytes);
    }
    const { storageKey: _, sizeBytes: __, format = formatOf(upload.fileName), ...fields } = request;
    const versionId = await direct?.confirm(upload, { ...fields, format });
    if (versionId === undefined) return undefined;
    const found = await registry.versions.byId(versionId);
    if (found !== undefined) return found.version;
    // Refused between two looks, or deleted since.
    const now = await direct?.find(upload.storageKey);
    throw now?.problem ?? new OctomilError('version_not_found', 'the version of this upload was deleted');
  }

  async *#received(source: AsyncIterable<Uint8Array>, limitBytes: number, hash?: Hash): AsyncGenerator<Uint8Array> {
    let total = 0;
    for await (const chunk of unstalled(source, this.#on.clock, IDLE_MS)) {
      total += chunk.length;
      if (total > limitBytes) {
        throw new OctomilError(
          'too_large',
          `more than the ${limitBytes} bytes that were announced or are allowed arrived`,
          { details: { limit_bytes: limitBytes } },
        );
      }
      hash?.update(chunk);
      yield chunk;
      noteNetworkGarbage(chunk.length);
    }
  }

  async #addVersion(
    modelId: string,
    fields: VersionFields,
    files: readonly ReceivedFile[],
    storageKey?: string,
  ): Promise<Version> {
    const { registry, artifacts } = this.#on;
    const rows = files.map((file) => artifactRow(file, artifactKey(file.sha256)));
    try {
      return await registry.versions.addUpload(
        { modelId, ...fields, artifacts: rows, ...(storageKey === undefined ? {} : { storageKey }) },
        async (version, transaction) => {
          const formats = { asked: fields.formats, uploaded: files.map(({ format }) => format) };
          await requestFormats(this.#on.conversions, version.id, formats, transaction);
          // Last, because it cannot be undone with the transaction.
          for (const file of files) await artifacts.keep(file.key, file.sha256, file.sizeBytes, transaction);
        },
      );
    } catch (error) {
      await artifacts.deleteUnreferenced(rows.map(({ object_key }) => object_key));
      throw error;
    }
  }

  async #joinParts(storageKey: string, plan: UploadPlan, key: string, format: string): Promise<ReceivedFile> {
    const hash = createHash('sha256');
    const { sizeBytes } = await this.#on.objects.put(key, hashed(await this.#parts.joined(storageKey), hash));
    await this.#inspect(key, format, sizeBytes);
    return { key, fileName: plan.fileName, format, sha256: hash.digest('hex'), sizeBytes };
  }

  /** What is ours must be readable; what is foreign is kept as it is, and never opened. */
  async #inspect(key: string, format: string, sizeBytes: number): Promise<void> {
    const { objects } = this.#on;
    requireContent(sizeBytes);
    if (!isOurs(format)) return;
    const local = await objects.localFile(key);
    try {
      await checkModelFile(local.path, format, sizeBytes);
    } finally {
      await local.release();
    }
  }
}

/** @throws OctomilError `invalid_input` for a version that is none */
function folderOf(modelId: string, version: string | null): string {
  return `${UPLOADS}${modelId}/${version === null ? NEXT : parseVersion(version)}`;
}

function artifactRow(file: Omit<ReceivedFile, 'key'>, objectKey: string) {
  const { format, fileName, sha256, sizeBytes } = file;
  return { format, file_name: fileName, object_key: objectKey, sha256, size_bytes: sizeBytes };
}

async function digestOf(objects: ObjectStore, key: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of objects.read(key)) {
    hash.update(chunk);
    noteNetworkGarbage(chunk.length);
  }
  return hash.digest('hex');
}

async function* hashed(source: AsyncIterable<Uint8Array>, hash: Hash): AsyncGenerator<Uint8Array> {
  for await (const chunk of source) {
    hash.update(chunk);
    yield chunk;
    noteNetworkGarbage(chunk.length);
  }
}

/** Of two confirmations at once, one takes the bytes; the other may ask for what the first made of them. */
function takenMeanwhile(error: unknown): unknown {
  // Gone before it was opened, or between that and its move, which is the file system's own word.
  const { code } = error as { readonly code?: unknown };
  if (code !== 'not_found' && code !== 'ENOENT') return error;
  return new OctomilError('conflict', 'another request confirms this upload just now; ask again for its version', {
    retryAfterSeconds: 1,
    cause: error,
  });
}

function incomplete(arrivedBytes: number, expectedBytes: number): OctomilError {
  return new OctomilError(
    'transfer_incomplete',
    `${arrivedBytes} of ${expectedBytes} bytes have arrived; upload the file again`,
    { details: { received_bytes: arrivedBytes, file_size: expectedBytes } },
  );
}
