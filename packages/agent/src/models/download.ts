import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { type Clock, type Logger, noteNetworkGarbage } from '@octomil/shared/runtime';
import { type Bandwidth, unlimited } from '../connection/bandwidth.js';
import { isPassing } from '../connection/http-failure.js';
import type { BaseRef, BaseTransport } from './transports.js';

export interface DownloadOptions {
  readonly base: BaseRef;
  /** Where the whole file goes; the part file lies beside it and is resumed. */
  readonly path: string;
  /** Best first; one that fails is passed over for the rest of this download. */
  readonly transports: readonly BaseTransport[];
  readonly signal: AbortSignal;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly onBytes: (doneBytes: number) => void;
  /** Default: no limit. */
  readonly bandwidth?: Bandwidth | undefined;
}

/** Chunks of a socket are small: this many bytes go to the disk in one call. */
const WRITE_BYTES = 1_048_576;
const ATTEMPTS_PER_TRANSPORT = 3;

/**
 * Fetches a base in one pass, hashing while it writes, and resumes where a cut (also of this process) left off.
 *
 * @throws OctomilError `checksum_mismatch` when the bytes are wrong twice, `download_failed` when no transport works,
 * `insufficient_storage`, and what the coordinator answers (`not_found`, `forbidden`)
 */
export async function downloadBase(options: DownloadOptions): Promise<void> {
  const { base, path, signal, clock, logger } = options;
  let lastError: OctomilError | undefined;
  let mismatches = 0;
  let transports = options.transports.filter(({ available, suits }) => available && (suits?.(base) ?? true));
  for (let attempt = 0; transports.length > 0; attempt++) {
    const [transport] = transports;
    if (transport === undefined) break;
    signal.throwIfAborted();
    try {
      await fetchOnce(options, transport);
      return;
    } catch (thrown) {
      if (signal.aborted) throw toOctomilError(signal.reason, 'cancelled');
      lastError = toOctomilError(thrown, 'download_failed');
      if (lastError.code === 'checksum_mismatch') {
        await rm(`${path}.part`, { force: true });
        // What lies in the bucket may have been damaged there: the coordinator's word on it counts.
        if (transport.name === 'bucket' && transports.length > 1) transports = transports.slice(1);
        else if (++mismatches > 1) throw lastError;
        continue;
      }
      if (transport.name === 'bucket' && transports.length > 1) {
        transports = transports.slice(1);
        attempt = -1;
        continue;
      }
      if (!isPassing(lastError)) throw lastError;
      logger.warn({ error: lastError, transport: transport.name, sha256: base.sha256 }, 'download was cut');
      if (attempt % ATTEMPTS_PER_TRANSPORT === ATTEMPTS_PER_TRANSPORT - 1 || isUnreachable(lastError)) {
        transports = transports.slice(1);
      } else await clock.sleep(200 * 2 ** (attempt % ATTEMPTS_PER_TRANSPORT), signal);
    }
  }
  throw new OctomilError(
    'download_failed',
    `base ${base.sha256.slice(0, 12)} could not be fetched: ${lastError?.reason ?? 'the coordinator offers no way'}`,
    { cause: lastError },
  );
}

/** A refused or unroutable connection is not worth repeating on the same transport. */
function isUnreachable(error: OctomilError): boolean {
  const code = (error.cause as { code?: unknown } | undefined)?.code;
  return ['ECONNREFUSED', 'ENOTFOUND', 'EHOSTUNREACH', 'ENETUNREACH', 'UND_ERR_CONNECT_TIMEOUT'].includes(String(code));
}

async function fetchOnce(options: DownloadOptions, transport: BaseTransport): Promise<void> {
  const { base, path, signal, onBytes, bandwidth = unlimited } = options;
  const part = `${path}.part`;
  const file = await open(part, 'a', 0o600);
  try {
    const hash = createHash('sha256');
    let done = await hashExisting(part, hash, signal);
    if (done > base.sizeBytes) throw mismatch(base, `the part file has ${done} bytes`);
    let waiting: Uint8Array[] = [];
    let waitingBytes = 0;
    const flush = async (): Promise<void> => {
      const buffers = waiting;
      waiting = [];
      waitingBytes = 0;
      if (buffers.length > 0) await writeAll(file, buffers);
    };
    try {
      if (done < base.sizeBytes) {
        for await (const chunk of transport.fetch(base, done, signal)) {
          hash.update(chunk);
          noteNetworkGarbage(chunk.length);
          if (bandwidth.limited) await bandwidth.take(chunk.length, signal);
          waiting.push(chunk);
          waitingBytes += chunk.length;
          done += chunk.length;
          if (done > base.sizeBytes) throw mismatch(base, `more than ${base.sizeBytes} bytes came`);
          if (waitingBytes >= WRITE_BYTES) {
            await flush();
            onBytes(done);
          }
        }
      }
    } finally {
      await flush();
      onBytes(done);
    }
    if (done < base.sizeBytes) {
      throw new OctomilError('network_unavailable', `the download ended at byte ${done} of ${base.sizeBytes}`);
    }
    const digest = hash.digest('hex');
    if (digest !== base.sha256) throw mismatch(base, `the bytes have SHA-256 ${digest}`);
  } finally {
    await file.close();
  }
  await rename(part, path);
}

function mismatch(base: BaseRef, found: string): OctomilError {
  return new OctomilError(
    'checksum_mismatch',
    `base ${base.sha256} of ${base.sizeBytes} bytes was asked for, but ${found}; the coordinator's store or the way to it is damaged`,
    { details: { sha256: base.sha256, sizeBytes: base.sizeBytes } },
  );
}

async function hashExisting(path: string, hash: Hash, signal: AbortSignal): Promise<number> {
  const { size } = await stat(path);
  if (size === 0) return 0;
  for await (const chunk of createReadStream(path, { highWaterMark: WRITE_BYTES, signal }))
    hash.update(chunk as Buffer);
  return size;
}

/** `writev` may write less than asked. */
async function writeAll(file: FileHandle, buffers: Uint8Array[]): Promise<void> {
  const total = buffers.reduce((sum, buffer) => sum + buffer.length, 0);
  const { bytesWritten } = await file.writev(buffers);
  if (bytesWritten < total) await file.appendFile(Buffer.concat(buffers).subarray(bytesWritten));
}
