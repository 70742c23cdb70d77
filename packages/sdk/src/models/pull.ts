import { OctomilClientError } from '../client-error.js';
import type { HttpClient } from '../http-client.js';
import { nodeModule } from '../node-builtins.js';
import { bodyChunks } from '../read-whole.js';
import { plainDigest } from '../training-run.js';
import { wirePath } from '../wire-path.js';
import { mayGoDirect } from './bucket-rest.js';
import { DirectDownload } from './direct-download.js';
import { type FileFacts, type PullOptions, plainName } from './file-facts.js';

export type { PullOptions };

export interface PullToPathOptions extends PullOptions {
  /** A file, or a folder that takes the file under its own name. */
  readonly path: string;
  /** Hears of every chunk. */
  readonly onProgress?: (bytesDone: number, bytesTotal: number) => void;
}

export interface PulledModel {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Hex SHA-256 of the bytes, checked against what the registry promised. */
  readonly digest: string;
  readonly fileName: string | undefined;
}

export interface PulledFile {
  readonly path: string;
  /** Hex SHA-256 of the file, checked against what the registry promised. */
  readonly digest: string;
  readonly sizeBytes: number;
}

/** Connections that may break one after the other without a new byte before a pull gives up. */
const FRUITLESS_ATTEMPTS = 5;
const SILENCE_MS = 60_000;

/** @throws OctomilClientError `model_not_found`, `version_not_found`, `format_not_ready`, `checksum_mismatch` */
export async function pullBytes(http: HttpClient, options: PullOptions): Promise<PulledModel> {
  const { headers, bytes } = await http.bytes('GET', downloadPath(options), {
    query: { format: options.format },
    headers: { accept: '*/*' },
    signal: options.signal,
  });
  const digest = await sha256Hex(bytes);
  const promised = plainDigest(headers.get('x-model-hash') ?? '');
  if (promised !== '' && promised !== digest) throw mismatch(options, digest, promised);
  return { bytes, digest, fileName: fileNameOf(headers) };
}

/**
 * Streams to disk. What has arrived stays next to the target as `….part` when the pull is cut off, under a name with its
 * digest, and the next pull of the same content goes on from there.
 *
 * @throws OctomilClientError as `pullBytes`, and `insufficient_storage`, `runtime_unavailable` outside Node
 */
export async function pullToPath(http: HttpClient, options: PullToPathOptions): Promise<PulledFile> {
  const disk = nodeModule('node:fs/promises', 'use pullModel, which gives the bytes');
  const { createReadStream } = nodeModule('node:fs', '');
  const { createHash } = nodeModule('node:crypto', '');
  const { join } = nodeModule('node:path', '');

  const first = await askFrom(http, options, 0, undefined);
  const told = factsOf(first.headers);
  const { sizeBytes, etag } = told;
  // It becomes part of a file's name here.
  const promised = hexDigest(told.digest);
  if (!Number.isSafeInteger(sizeBytes)) {
    await first.body?.cancel();
    throw new OctomilClientError('download_failed', `${options.model} came without its size; pull it with pullModel`);
  }
  const isFolder = (await disk.stat(options.path).catch(() => undefined))?.isDirectory() === true;
  const path = isFolder ? join(options.path, told.fileName ?? 'model') : options.path;
  const partPath = `${path}.${promised.slice(0, 16)}.part`;

  const hash = createHash('sha256');
  const kept = etag === undefined || promised === '' ? 0 : await sizeOf(disk, partPath);
  let done = kept > sizeBytes ? 0 : kept;
  if (done > 0)
    for await (const chunk of createReadStream(partPath, { end: done - 1 })) hash.update(chunk as Uint8Array);
  const file = await disk.open(partPath, done > 0 ? 'r+' : 'w').catch((cause: unknown) => {
    throw cannotWrite(path, cause);
  });
  try {
    await file.truncate(done);
    let response: Response | undefined = first;
    let bucket = first.headers.get('x-octomil-direct') === null ? undefined : new DirectDownload(http, options, told);
    if (done > 0 || sizeBytes === 0 || bucket !== undefined) {
      await first.body?.cancel();
      response = undefined;
    }
    for (let fruitless = 0; done < sizeBytes; response = undefined) {
      const before = done;
      let cause: unknown;
      try {
        if (response === undefined && bucket !== undefined) {
          response = await bucket.ask(done);
          // Of no use from here: the coordinator has the bytes too.
          if (response === undefined) bucket = undefined;
        }
        response ??= await askFrom(http, options, done, etag);
        for await (const chunk of bodyChunks(response, SILENCE_MS)) {
          if (done + chunk.length > sizeBytes) {
            throw new OctomilClientError(
              'download_failed',
              `more than the ${sizeBytes} bytes came that ${options.model} was said to have; pull it again`,
            );
          }
          await writeAll(file, chunk, done).catch((problem: unknown) => {
            throw cannotWrite(path, problem);
          });
          hash.update(chunk);
          done += chunk.length;
          options.onProgress?.(done, sizeBytes);
        }
      } catch (error) {
        if (options.signal?.aborted)
          throw new OctomilClientError('cancelled', 'the pull was cancelled', { cause: error });
        if (error instanceof OctomilClientError && error.code !== 'request_timeout') throw error;
        cause = error;
      }
      if (done >= sizeBytes) break;
      // A piece has come whole, and the next follows.
      if (bucket !== undefined && cause === undefined && done > before) {
        fruitless = 0;
        continue;
      }
      fruitless = done > before ? 0 : fruitless + 1;
      if (fruitless >= FRUITLESS_ATTEMPTS) {
        throw new OctomilClientError('download_failed', `${done} of ${sizeBytes} bytes of ${path} arrived`, { cause });
      }
      await http.sleep(http.backoffMs(fruitless + 1), options.signal);
    }
    await file.sync();
  } finally {
    await file.close();
  }
  const digest = hash.digest('hex');
  if (promised !== '' && promised !== digest) {
    await disk.rm(partPath, { force: true });
    throw mismatch(options, digest, promised);
  }
  await disk.rename(partPath, path).catch((cause: unknown) => {
    throw cannotWrite(path, cause);
  });
  return { path, digest, sizeBytes };
}

function factsOf(headers: Headers): FileFacts {
  return {
    digest: plainDigest(headers.get('x-model-hash') ?? ''),
    sizeBytes: Number(headers.get('x-octomil-size') ?? headers.get('content-length') ?? 'none'),
    etag: headers.get('etag') ?? undefined,
    fileName: fileNameOf(headers),
  };
}

/** @throws OctomilClientError `conflict` when the content has changed under the pull */
async function askFrom(
  http: HttpClient,
  options: PullOptions,
  from: number,
  etag: string | undefined,
): Promise<Response> {
  const range = etag === undefined || from === 0 ? {} : { range: `bytes=${from}-`, 'if-range': etag };
  // At first only: whoever asks again wants the coordinator's bytes.
  const direct = etag === undefined && mayGoDirect(http) ? { 'x-octomil-accept-direct': '1' } : {};
  const response = await http.send('GET', downloadPath(options), {
    query: { format: options.format },
    // The length and the ranges are those of the file, not of something a proxy squeezes.
    headers: { accept: '*/*', 'accept-encoding': 'identity', ...range, ...direct },
    signal: options.signal,
  });
  if (from > 0 && response.status !== 206) {
    await response.body?.cancel();
    throw new OctomilClientError('conflict', `${options.model} changed while it was pulled; pull it again`);
  }
  return response;
}

function downloadPath({ model, version = 'latest' }: PullOptions): string {
  return `${wirePath('models', model, 'versions', version)}/download`;
}

function fileNameOf(headers: Headers): string | undefined {
  return plainName(/filename="?([^";]+)"?/.exec(headers.get('content-disposition') ?? '')?.[1]);
}

/** Empty for what is no SHA-256. */
function hexDigest(text: string): string {
  return /^[0-9a-f]{64}$/.test(text) ? text : '';
}

/** A single write may take a part of the bytes and say nothing, as one that meets the end of a disk does. */
async function writeAll(
  file: import('node:fs/promises').FileHandle,
  bytes: Uint8Array<ArrayBuffer>,
  position: number,
): Promise<void> {
  for (let written = 0; written < bytes.length; ) {
    written += (await file.write(bytes, written, bytes.length - written, position + written)).bytesWritten;
  }
}

async function sizeOf(disk: typeof import('node:fs/promises'), path: string): Promise<number> {
  return (await disk.stat(path).catch(() => undefined))?.size ?? 0;
}

async function sha256Hex(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  // Browsers hide it from pages that came over plain http.
  if (globalThis.crypto?.subtle === undefined) {
    throw new OctomilClientError(
      'runtime_unavailable',
      'this page cannot check what it pulls: SHA-256 is for pages over https',
    );
  }
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function mismatch({ model }: PullOptions, digest: string, promised: string): OctomilClientError {
  return new OctomilClientError(
    'checksum_mismatch',
    `${model} arrived with SHA-256 ${digest} instead of ${promised}; pull it again`,
  );
}

function cannotWrite(path: string, cause: unknown): OctomilClientError {
  const code = (cause as { code?: string }).code;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new OctomilClientError('insufficient_storage', `the disk is full: ${path} cannot be written`, { cause });
  }
  return new OctomilClientError('invalid_input', `${path} cannot be written (${code ?? 'unknown'})`, { cause });
}
