import { type FileHandle, open } from 'node:fs/promises';
import { create } from '@bufbuild/protobuf';
import type { Metadata } from '@grpc/grpc-js';
import { type UploadTicket, UploadUpdateRequestSchema } from '@octomil/proto';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import { type Bandwidth, unlimited } from '../connection/bandwidth.js';
import type { CoordinatorClient } from '../connection/coordinator-client.js';
import { isPassing } from '../connection/http-failure.js';
import type { HttpTransfers, UploadVerdict } from '../connection/http-transfers.js';
import { fromGrpcError } from '../connection/problem.js';

export interface Uploader {
  readonly http: HttpTransfers;
  /** For where HTTP is not offered or not reached. */
  readonly grpc: () => CoordinatorClient;
  readonly metadata: () => Metadata;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Over gRPC and in messages; HTTP has its own hold of it. Default: no limit. */
  readonly bandwidth?: Bandwidth;
}

export interface UploadRequest {
  readonly ticket: UploadTicket;
  readonly path: string;
  readonly sizeBytes: number;
  readonly signal: AbortSignal;
  readonly onBytes: (doneBytes: number) => void;
}

const ATTEMPTS_PER_PART = 4;
const GRPC_CHUNK_BYTES = 1_048_576;
/** Where a limit holds something goes out every second. */
const LIMITED_CHUNK_BYTES = 65_536;

/**
 * Sends the parts of an update that the ticket does not list as received.
 *
 * @returns the verdict, or undefined where it will come over the session (gRPC upload)
 * @throws OctomilError `ticket_expired`, `ticket_invalid`, `transfer_incomplete`: ask for the ticket again;
 * `weight_upload_failed` when no transport works or the
 * ticket's parts are not those of this update; what the coordinator answers (`round_closed`)
 */
export async function uploadParts(uploader: Uploader, request: UploadRequest): Promise<UploadVerdict | undefined> {
  let missing = missingParts(request);
  const file = await open(request.path, 'r');
  try {
    if (uploader.http.available) {
      try {
        if (await uploadDirectly(uploader, request, file)) {
          // All of it is there: a coordinator that goes away now leaves nothing to send again.
          missing = [];
          return await patiently(uploader, request);
        }
        return await uploadByHttp(uploader, request, file, missing);
      } catch (error) {
        if (request.signal.aborted || !isPassing(error)) throw error;
        uploader.logger.warn({ error }, 'HTTP upload failed; sending the rest over gRPC');
      }
    }
    await uploadByGrpc(uploader, request, file, missing);
    return undefined;
  } finally {
    await file.close();
  }
}

interface Part {
  readonly number: number;
  readonly offset: number;
  readonly length: number;
}

/**
 * Parts are numbered from 0 and lie end to end.
 *
 * @throws OctomilError `weight_upload_failed` when the ticket's parts are not those of a file of this size: the
 * coordinator's numbers decide how much is allocated and looped over here
 */
export function missingParts({ ticket, sizeBytes }: Pick<UploadRequest, 'ticket' | 'sizeBytes'>): Part[] {
  const partBytes = Number(ticket.partSizeBytes);
  if (partBytes <= 0 || ticket.partCount !== Math.ceil(sizeBytes / partBytes)) {
    throw new OctomilError(
      'weight_upload_failed',
      `the ticket names ${ticket.partCount} parts of ${partBytes} bytes, which an update of ${sizeBytes} bytes does not have; ` +
        'ask for another ticket',
    );
  }
  const received = new Set(ticket.receivedParts);
  const missing: Part[] = [];
  for (let number = 0; number < ticket.partCount; number++) {
    const offset = number * partBytes;
    if (!received.has(number)) missing.push({ number, offset, length: Math.min(partBytes, sizeBytes - offset) });
  }
  return missing;
}

/**
 * Sends parts straight to the coordinator's bucket where the ticket has requests for them.
 *
 * @returns whether all of them were sent; a bucket that this site cannot reach is no failure
 */
async function uploadDirectly(uploader: Uploader, request: UploadRequest, file: FileHandle): Promise<boolean> {
  const { ticket, sizeBytes, signal, onBytes } = request;
  if (ticket.partRequests.length === 0) return false;
  const partBytes = Number(ticket.partSizeBytes);
  const parts = [...ticket.partRequests].sort((a, b) => a.number - b.number);
  const lengthOf = (number: number): number => Math.min(partBytes, sizeBytes - number * partBytes);
  if (parts.some(({ number }) => number >= ticket.partCount)) return false;
  let doneBytes = sizeBytes - parts.reduce((sum, { number }) => sum + lengthOf(number), 0);
  const buffer = Buffer.allocUnsafeSlow(Math.min(partBytes, sizeBytes));
  try {
    for (const part of parts) {
      const length = lengthOf(part.number);
      const bytes = await readSlice(file, part.number * partBytes, buffer.subarray(0, length));
      await withRetries(uploader, signal, () => uploader.http.putDirect(part, bytes, signal));
      doneBytes += length;
      onBytes(doneBytes);
    }
    return true;
  } catch (error) {
    if (signal.aborted) throw error;
    uploader.logger.warn({ error }, 'the bucket cannot be used from here; sending the update to the coordinator');
    return false;
  }
}

async function uploadByHttp(
  uploader: Uploader,
  request: UploadRequest,
  file: FileHandle,
  missing: readonly Part[],
): Promise<UploadVerdict> {
  const { ticket, sizeBytes, onBytes } = request;
  let doneBytes = sizeBytes - missing.reduce((sum, part) => sum + part.length, 0);
  // One after the other: what arrives in order is hashed as it comes, and is not read again for it.
  const buffer = Buffer.allocUnsafeSlow(Math.max(0, ...missing.map((part) => part.length)));
  for (const part of missing) {
    const bytes = await readSlice(file, part.offset, buffer.subarray(0, part.length));
    await withRetries(uploader, request.signal, () =>
      uploader.http.putPart(ticket, part.number, bytes, request.signal),
    );
    doneBytes += part.length;
    onBytes(doneBytes);
  }
  return uploader.http.complete(ticket, request.signal);
}

/** Another coordinator, or this one after a restart, has the verdict too. */
async function patiently(uploader: Uploader, { ticket, signal }: UploadRequest): Promise<UploadVerdict> {
  let verdict: UploadVerdict | undefined;
  await withRetries(uploader, signal, async () => {
    verdict = await uploader.http.complete(ticket, signal);
  });
  if (verdict === undefined) throw new OctomilError('internal', 'an upload ended without a verdict');
  return verdict;
}

async function withRetries({ clock }: Uploader, signal: AbortSignal, put: () => Promise<void>): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await put();
      return;
    } catch (error) {
      if (signal.aborted || attempt >= ATTEMPTS_PER_PART || !isPassing(error)) throw error;
      await clock.sleep(100 * 2 ** attempt, signal);
    }
  }
}

async function readSlice(file: FileHandle, offset: number, bytes: Buffer): Promise<Buffer> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesRead } = await file.read(bytes, done, bytes.length - done, offset + done);
    if (bytesRead === 0) throw new OctomilError('corrupt_file', `the update ends at byte ${offset + done}`);
    done += bytesRead;
  }
  return bytes;
}

async function uploadByGrpc(
  uploader: Uploader,
  request: UploadRequest,
  file: FileHandle,
  missing: readonly Part[],
): Promise<void> {
  const { ticket, sizeBytes, signal, onBytes } = request;
  const { bandwidth = unlimited } = uploader;
  const chunkBytes = bandwidth.limited ? LIMITED_CHUNK_BYTES : GRPC_CHUNK_BYTES;
  let doneBytes = sizeBytes - missing.reduce((sum, part) => sum + part.length, 0);
  const answered = Promise.withResolvers<void>();
  answered.promise.catch(() => undefined);
  const call = uploader.grpc().uploadUpdate(uploader.metadata(), (error) => {
    if (error === null) answered.resolve();
    else answered.reject(fromGrpcError(error));
  });
  call.on('error', () => undefined);
  const onAbort = (): void => {
    call.cancel();
    answered.reject(toOctomilError(signal.reason, 'cancelled'));
  };
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    call.write(
      create(UploadUpdateRequestSchema, {
        content: { case: 'header', value: { ticketId: ticket.ticketId, token: ticket.token } },
      }),
    );
    for (const part of missing) {
      for (let within = 0; within < part.length; within += chunkBytes) {
        const offset = part.offset + within;
        const data = await readSlice(file, offset, Buffer.allocUnsafe(Math.min(chunkBytes, part.length - within)));
        signal.throwIfAborted();
        // A server that refuses answers meanwhile.
        if (bandwidth.limited) await Promise.race([bandwidth.take(data.length, signal), answered.promise]);
        const more = call.write(
          create(UploadUpdateRequestSchema, { content: { case: 'chunk', value: { offset: BigInt(offset), data } } }),
        );
        // A server that refuses answers before it has read everything: `drain` would never come.
        if (!more) await Promise.race([new Promise((resolve) => call.once('drain', resolve)), answered.promise]);
        doneBytes += data.length;
        onBytes(doneBytes);
      }
    }
    call.end();
    await answered.promise;
  } catch (error) {
    if (signal.aborted) throw toOctomilError(signal.reason, 'cancelled');
    throw toOctomilError(error, 'weight_upload_failed');
  } finally {
    signal.removeEventListener('abort', onAbort);
    call.cancel();
  }
}
