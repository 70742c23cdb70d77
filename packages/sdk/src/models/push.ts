import { isErrorCode } from '@octomil/shared/errors';
import { OctomilClientError } from '../client-error.js';
import type { HttpClient } from '../http-client.js';
import { inNode, nodeModule } from '../node-builtins.js';
import { listOf } from '../training-session.js';
import { wirePath } from '../wire-path.js';
import { mayGoDirect } from './bucket-rest.js';
import { versionPath } from './conversions.js';
import { sendDirect } from './direct-upload.js';
import { type ModelVersion, readVersion } from './model.js';

export interface NewVersion {
  /** Name or id of the model. */
  readonly modelId: string;
  /** Semantic version. A file of another format joins the draft that exists. Default: the minor after the highest. */
  readonly version?: string;
  /** Of the file. Default: by its ending. */
  readonly format?: string;
  /** To make of it, such as `['onnx', 'safetensors']` or `'onnx,safetensors'`; the version is `converting` until all exist. */
  readonly formats?: string | readonly string[];
  readonly description?: string;
  /**
   * Waits until the coordinator has checked a file that went straight to its bucket. Without it the answer may be a
   * version that is `validating`, and that goes again where the file is refused. Default true.
   */
  readonly waitUntilChecked?: boolean;
  /** Waits until no conversion is under way. Default false. */
  readonly waitUntilReady?: boolean;
  /** Hears of every part that has arrived. */
  readonly onProgress?: (bytesDone: number, bytesTotal: number) => void;
  /** Hears where the bytes go before the first goes, to keep for {@link resume}. */
  readonly onTicket?: (ticket: UploadTicket) => void;
  /** Goes on with an upload of the same file that was cut off: parts that have arrived are not sent again. */
  readonly resume?: UploadTicket;
  readonly signal?: AbortSignal | undefined;
}

/** Where the bytes of an upload go. Plain JSON, valid for a day; whoever has it may write this one upload. */
export interface UploadTicket {
  readonly uploadUrl: string;
  readonly storageKey: string;
  /** Null: the file goes whole. */
  readonly partSizeBytes: number | null;
  /** Parts may go straight to the coordinator's bucket. */
  readonly direct?: boolean;
}

export interface UploadOptions extends NewVersion {
  /** Read by Node, a part at a time; browsers use `uploadVersion`. */
  readonly filePath: string;
}

export interface BlobUploadOptions extends NewVersion {
  readonly content: Blob;
  readonly fileName: string;
  /** Hex SHA-256 of the content, where it is known: the coordinator refuses anything else. */
  readonly sha256?: string | (() => Promise<string>);
}

/** A file up to this size goes whole, where it goes to the coordinator. */
const WHOLE_BYTES = 16 * 1024 * 1024;
/** What is smaller is sooner at the coordinator than a request for the bucket. */
const DIRECT_FROM_BYTES = 1024 * 1024;
const CHECK_LOOK_MS = { first: 100, longest: 2000 };
/** A coordinator that restarts in the middle of an hour's upload is waited for. */
const PATIENT_ATTEMPTS = 20;

/** @throws OctomilClientError `not_found` for a file that cannot be read, `runtime_unavailable` outside Node */
export async function openFile(filePath: string): Promise<Pick<BlobUploadOptions, 'content' | 'fileName' | 'sha256'>> {
  const { openAsBlob, createReadStream } = nodeModule('node:fs', 'use uploadVersion with a Blob');
  const { createHash } = nodeModule('node:crypto', '');
  const sha256 = async (): Promise<string> => {
    const hash = createHash('sha256');
    for await (const chunk of createReadStream(filePath)) hash.update(chunk as Uint8Array);
    return hash.digest('hex');
  };
  try {
    return { content: await openAsBlob(filePath), fileName: filePath.replace(/^.*[\\/]/, ''), sha256 };
  } catch (cause) {
    throw new OctomilClientError('not_found', `${filePath} cannot be read`, { cause });
  }
}

/**
 * The three steps: an address, the bytes, the confirmation that makes the version. From Node the bytes go straight to the
 * coordinator's bucket, where it has one that can be reached; a page of a browser would need the bucket's consent (CORS).
 */
export async function pushVersion(http: HttpClient, options: BlobUploadOptions): Promise<ModelVersion> {
  const { version, content, signal, sha256 } = options;
  const base = `${wirePath('models', options.modelId)}/versions`;
  const ticket = options.resume ?? (await askForTicket(http, `${base}/upload-url`, options));
  options.onTicket?.(ticket);
  const digest = typeof sha256 === 'function' ? await sha256() : sha256;
  await send(http, ticket, options);
  const confirmed = await http.json('POST', `${base}/confirm-upload`, {
    body: new URLSearchParams({
      ...(version === undefined ? {} : { version }),
      storage_key: ticket.storageKey,
      file_size: String(content.size),
      description: options.description ?? '',
      ...(digest === undefined ? {} : { sha256: digest }),
      ...(options.format === undefined ? {} : { format: options.format }),
      ...(options.formats === undefined ? {} : { formats: formatList(options.formats) }),
    }),
    // It is put together and read through once more.
    timeoutMs: transferTimeoutMs(content.size),
    signal,
  });
  const made = readVersion(confirmed);
  if (made.status !== 'validating' || options.waitUntilChecked === false) return made;
  await checked(http, ticket, signal);
  return readVersion(
    await http.json('GET', versionPath({ modelId: options.modelId, version: made.version }), { signal }),
  );
}

async function send(http: HttpClient, ticket: UploadTicket, options: BlobUploadOptions): Promise<void> {
  const { content, onProgress, signal } = options;
  if (ticket.direct === true && mayGoDirect(http) && inNode()) {
    const { uploadUrl } = ticket;
    const partSizeBytes = ticket.partSizeBytes ?? WHOLE_BYTES;
    if (await sendDirect(http, { content, uploadUrl, partSizeBytes, onProgress, signal })) return;
  }
  if (ticket.partSizeBytes === null || content.size <= WHOLE_BYTES) await sendWhole(http, ticket, options);
  else await sendParts(http, ticket, ticket.partSizeBytes, options);
}

/** Resolves when what went to the bucket counts. @throws OctomilClientError with the code and reason of its refusal */
async function checked(http: HttpClient, { uploadUrl }: UploadTicket, signal: AbortSignal | undefined): Promise<void> {
  for (let pauseMs = CHECK_LOOK_MS.first; ; pauseMs = Math.min(CHECK_LOOK_MS.longest, pauseMs * 2)) {
    const { state, code, reason } = await http.json<Record<string, unknown>>('GET', uploadUrl, {
      maxAttempts: PATIENT_ATTEMPTS,
      signal,
    });
    if (state === 'rejected') {
      const named = isErrorCode(code) ? code : 'unknown';
      throw new OctomilClientError(named, String(reason ?? 'the file was refused'));
    }
    if (state !== 'validating') return;
    await http.sleep(pauseMs, signal);
  }
}

/** As forms carry it: `onnx,safetensors`. */
export function formatList(formats: string | readonly string[]): string {
  return typeof formats === 'string' ? formats : formats.join(',');
}

async function askForTicket(http: HttpClient, path: string, options: BlobUploadOptions): Promise<UploadTicket> {
  const { version, fileName, content, signal } = options;
  const whole = content.size <= WHOLE_BYTES;
  const announced = !whole || (content.size >= DIRECT_FROM_BYTES && mayGoDirect(http) && inNode());
  const target = await http.json<{
    upload_url: string;
    storage_key: string;
    part_size_bytes?: number | null;
    direct?: boolean;
  }>('POST', path, {
    body: new URLSearchParams({
      ...(version === undefined ? {} : { version }),
      filename: fileName,
      content_type: 'application/octet-stream',
      ...(!announced ? {} : { size_bytes: String(content.size), part_size_bytes: String(WHOLE_BYTES) }),
    }),
    signal,
  });
  const direct = target.direct === true;
  const partSizeBytes = whole && !direct ? null : (target.part_size_bytes ?? null);
  return {
    uploadUrl: target.upload_url,
    storageKey: target.storage_key,
    partSizeBytes,
    ...(direct ? { direct } : {}),
  };
}

async function sendWhole(http: HttpClient, { uploadUrl }: UploadTicket, options: BlobUploadOptions): Promise<void> {
  const { content, signal } = options;
  await put(http, uploadUrl, content, signal);
  options.onProgress?.(content.size, content.size);
}

async function sendParts(
  http: HttpClient,
  { uploadUrl }: UploadTicket,
  partSizeBytes: number,
  options: BlobUploadOptions,
): Promise<void> {
  const { content, resume, signal } = options;
  const arrived = new Set(resume === undefined ? [] : await partsThatArrived(http, uploadUrl, signal));
  let done = 0;
  for (let number = 1, start = 0; start < content.size; number++, start += partSizeBytes) {
    const part = content.slice(start, start + partSizeBytes);
    if (!arrived.has(number)) await put(http, `${uploadUrl}/parts/${number}`, part, signal);
    done += part.size;
    options.onProgress?.(done, content.size);
  }
}

async function partsThatArrived(http: HttpClient, uploadUrl: string, signal?: AbortSignal): Promise<number[]> {
  const answer = await http.json('GET', uploadUrl, { signal });
  return listOf(answer, 'received_parts').map(Number);
}

async function put(http: HttpClient, url: string, body: Blob, signal: AbortSignal | undefined): Promise<void> {
  await http.bytes('PUT', url, {
    body,
    headers: { 'content-type': 'application/octet-stream' },
    timeoutMs: transferTimeoutMs(body.size),
    maxAttempts: PATIENT_ATTEMPTS,
    signal,
  });
}

/** A megabyte per second at least, as the published clients allow. */
function transferTimeoutMs(bytes: number): number {
  return Math.max(600_000, bytes / 1024);
}
