import { createHash, createHmac, randomBytes, randomUUID, timingSafeEqual } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { OctomilError } from '@octomil/shared/errors';
import { parseModelDocument } from '@octomil/shared/models';
import type { Clock } from '@octomil/shared/runtime';
import type { ByteSource, ObjectStore } from '@octomil/shared/storage';
import { readLayout } from '@octomil/shared/tensors';
import { DOCUMENT_FORMAT, MAX_DOCUMENT_BYTES, type Registry, WEIGHTS_FORMAT } from './registry.js';
import { parseVersion } from './version-number.js';
import type { Version } from './version-store.js';

export interface UploadTarget {
  readonly storageKey: string;
  /** Goes into the upload address: whoever holds it may write this one object until it expires. */
  readonly token: string;
}

export interface VersionUploadsOptions {
  readonly registry: Registry;
  readonly objects: ObjectStore;
  readonly clock: Clock;
  /** Secret of an API key, which signs that key's upload addresses; undefined once the key is revoked. */
  readonly signingSecret: (keyId: string) => Promise<string | undefined>;
}

const UPLOAD_VALID_MS = 3_600_000;
/** 64 GiB: beyond any model that could be trained here, so that a mistake cannot fill the disk. */
const MAX_UPLOAD_BYTES = 64 * 1024 ** 3;

const FORMATS: Readonly<Record<string, string>> = {
  safetensors: WEIGHTS_FORMAT,
  json: DOCUMENT_FORMAT,
  pt: 'pytorch',
  pth: 'pytorch',
  h5: 'tensorflow',
  onnx: 'onnx',
  tflite: 'tflite',
  mlmodel: 'coreml',
  gguf: 'gguf',
};

/** Files that people bring: an address to PUT to without further credentials, then a confirmation that makes the version. */
export class VersionUploads {
  readonly #options: VersionUploadsOptions;

  constructor(options: VersionUploadsOptions) {
    this.#options = options;
  }

  /** @throws OctomilError `invalid_input` for a version that is none, `authentication_failed` for a key revoked just now */
  async begin(keyId: string, modelId: string, version: string, fileName: string): Promise<UploadTarget> {
    const name = safeFileName(fileName);
    const storageKey = `uploads/${modelId}/${parseVersion(version)}/${randomBytes(24).toString('base64url')}/${name}`;
    const claims = JSON.stringify({ k: keyId, s: storageKey, e: this.#options.clock.now() + UPLOAD_VALID_MS });
    const payload = Buffer.from(claims).toString('base64url');
    return { storageKey, token: `${payload}.${(await this.#sign(keyId, payload)).toString('base64url')}` };
  }

  /**
   * Takes the bytes. Repeating it replaces them, until they are confirmed.
   *
   * @throws OctomilError `ticket_invalid`, `ticket_expired`, `too_large`, `insufficient_storage`
   */
  async receive(token: string, source: ByteSource): Promise<number> {
    const stored = await this.#options.objects.put(await this.#verify(token), limited(source));
    return stored.sizeBytes;
  }

  /**
   * Checks what was uploaded and adds it to the version, which is made as a draft when it is the first file.
   *
   * @throws OctomilError `transfer_incomplete` when the bytes are not there or not all of them, `corrupt_file` for
   * weights or a document that cannot be read, `conflict` when the version has this file or is published
   */
  async confirm(
    modelId: string,
    request: { version: string; storageKey: string; sizeBytes: number; description: string },
  ): Promise<Version> {
    const { objects, registry } = this.#options;
    const version = parseVersion(request.version);
    if (!request.storageKey.startsWith(`uploads/${modelId}/${version}/`)) {
      throw new OctomilError(
        'invalid_input',
        'storage_key belongs to another model or version; ask for an upload-url again',
      );
    }
    const uploaded = await objects.stat(request.storageKey);
    if (uploaded?.sizeBytes !== request.sizeBytes) {
      throw new OctomilError(
        'transfer_incomplete',
        `${uploaded?.sizeBytes ?? 0} of ${request.sizeBytes} bytes have arrived; upload the file again`,
      );
    }
    const fileName = request.storageKey.split('/').at(-1) ?? 'file';
    const format = formatOf(fileName);
    // Out of reach of the upload address before it is looked at, so that what was checked is what is kept.
    const checkedKey = `uploads/confirmed/${randomUUID()}`;
    await move(objects, request.storageKey, checkedKey);
    try {
      const sha256 = await this.#inspect(checkedKey, format);
      const objectKey = `artifacts/${sha256}`;
      await move(objects, checkedKey, objectKey);
      return await registry.versions.addUpload(modelId, version, request.description, {
        format,
        file_name: fileName,
        object_key: objectKey,
        sha256,
        size_bytes: request.sizeBytes,
      });
    } finally {
      await objects.delete(checkedKey);
    }
  }

  async #inspect(key: string, format: string): Promise<string> {
    const { objects } = this.#options;
    const local = await objects.localFile(key);
    try {
      if (format === WEIGHTS_FORMAT) await readLayout(local.path);
      if (format === DOCUMENT_FORMAT) parseModelDocument(await objects.readAll(key, MAX_DOCUMENT_BYTES));
      const hash = createHash('sha256');
      for await (const chunk of createReadStream(local.path)) hash.update(chunk as Uint8Array);
      return hash.digest('hex');
    } finally {
      await local.release();
    }
  }

  async #sign(keyId: string, payload: string): Promise<Buffer> {
    const secret = await this.#options.signingSecret(keyId);
    if (secret === undefined) throw new OctomilError('ticket_invalid', 'the API key behind this upload was revoked');
    return createHmac('sha256', secret).update(`upload\0${payload}`).digest();
  }

  async #verify(token: string): Promise<string> {
    const [payload = '', signature = ''] = token.split('.');
    const claims = readClaims(payload);
    const given = Buffer.from(signature, 'base64url');
    const expected = claims === undefined ? undefined : await this.#sign(claims.k, payload);
    if (claims === undefined || expected?.length !== given.length || !timingSafeEqual(expected, given)) {
      throw new OctomilError('ticket_invalid', 'this upload address was not made here; ask for an upload-url again');
    }
    if (claims.e < this.#options.clock.now()) {
      throw new OctomilError('ticket_expired', 'this upload address has expired; ask for an upload-url again');
    }
    return claims.s;
  }
}

function readClaims(payload: string): { k: string; s: string; e: number } | undefined {
  try {
    const value = JSON.parse(Buffer.from(payload, 'base64url').toString()) as Record<string, unknown>;
    const { k, s, e } = value;
    return typeof k === 'string' && typeof s === 'string' && typeof e === 'number' ? { k, s, e } : undefined;
  } catch {
    return undefined;
  }
}

function safeFileName(fileName: string): string {
  const name = fileName
    .replace(/^.*[\\/]/, '')
    .replaceAll(/[^A-Za-z0-9._-]/g, '_')
    .slice(-100);
  return /^\.*$/.test(name) ? 'file' : name;
}

/** By the file's ending; an unknown one is its own format. */
function formatOf(fileName: string): string {
  const ending = /\.([A-Za-z0-9]+)$/.exec(fileName)?.[1]?.toLowerCase() ?? 'original';
  return FORMATS[ending] ?? ending;
}

async function move(objects: ObjectStore, from: string, to: string): Promise<void> {
  const local = await objects.localFile(from);
  try {
    await objects.putFile(to, local.path);
  } finally {
    await local.release();
  }
  await objects.delete(from);
}

async function* limited(source: ByteSource): AsyncGenerator<Uint8Array> {
  let total = 0;
  for await (const chunk of source instanceof Uint8Array ? [source] : source) {
    total += chunk.length;
    if (total > MAX_UPLOAD_BYTES) {
      throw new OctomilError('too_large', `the file is larger than ${MAX_UPLOAD_BYTES} bytes`);
    }
    yield chunk;
  }
}
