import { OctomilClientError } from '../client-error.js';
import type { HttpClient } from '../http-client.js';
import { leaveBucketAlone } from './bucket-rest.js';

export interface DirectUploadOptions {
  readonly content: Blob;
  readonly uploadUrl: string;
  readonly partSizeBytes: number;
  /** Bytes that have arrived in all. */
  readonly onProgress?: ((bytesDone: number, bytesTotal: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

interface Wave {
  /** From 1. */
  readonly parts: readonly { number: number; method: string; url: string; headers: Record<string, string> }[];
  readonly received_parts: readonly number[];
  readonly more: boolean;
  readonly arrived: boolean;
  readonly in_order: boolean;
}

const AT_ONCE = 4;
/** Of one part, with the same request. */
const ATTEMPTS = 3;
/** Waves that may end one after the other without a new part before the bucket is given up. */
const FRUITLESS_WAVES = 2;
/** A megabyte in ten seconds at least. */
const SLOWEST_BYTES_PER_SECOND = 100_000;
const PATIENCE_MS = 60_000;

/**
 * Sends a file's parts straight to the bucket, by requests that the coordinator signs, several at a time. Parts that are
 * there are not sent again; requests that the bucket takes no longer are asked for anew.
 *
 * @returns false where the bucket cannot be used from here: it is then left alone for a while, and the parts go to the
 * coordinator
 * @throws OctomilClientError `cancelled`, and what the coordinator says
 */
export async function sendDirect(http: HttpClient, options: DirectUploadOptions): Promise<boolean> {
  const { content, uploadUrl, partSizeBytes, signal } = options;
  const partCount = Math.ceil(content.size / partSizeBytes);
  const sizeOf = (number: number): number => Math.min(partSizeBytes, content.size - (number - 1) * partSizeBytes);
  const done = new Set<number>();
  const arrivedNow = (number: number): void => {
    done.add(number);
    const bytes = [...done].reduce((sum, part) => sum + sizeOf(part), 0);
    options.onProgress?.(bytes, content.size);
  };
  for (let fruitless = 0; fruitless < FRUITLESS_WAVES; ) {
    const wave = await http.json<Wave>('POST', `${uploadUrl}/direct`, { signal });
    if (wave.arrived) {
      options.onProgress?.(content.size, content.size);
      return true;
    }
    // The coordinator wants them itself.
    if (wave.parts.length === 0) return false;
    // What was sent and is not there was lost.
    done.clear();
    for (const number of wave.received_parts) done.add(number);
    const before = done.size;
    const outcome = await sendWave(http, wave, options, arrivedNow);
    if (outcome === 'unreachable') break;
    if (outcome === 'sent' && !wave.more && done.size === partCount) return true;
    fruitless = done.size > before ? 0 : fruitless + 1;
  }
  leaveBucketAlone(http);
  return false;
}

/** `stale`: a request was refused, such as one that expired. */
async function sendWave(
  http: HttpClient,
  { parts, in_order: inOrder }: Wave,
  options: DirectUploadOptions,
  arrived: (number: number) => void,
): Promise<'sent' | 'stale' | 'unreachable'> {
  const { content, partSizeBytes } = options;
  const left = parts[Symbol.iterator]();
  let outcome: 'sent' | 'stale' | 'unreachable' = 'sent';
  const work = async (): Promise<void> => {
    for (const part of left) {
      if (outcome !== 'sent') return;
      const start = (part.number - 1) * partSizeBytes;
      const sent = await sendPart(http, part, content.slice(start, start + partSizeBytes), options.signal);
      if (sent === 'sent') arrived(part.number);
      else outcome = sent;
    }
  };
  await Promise.all(Array.from({ length: inOrder ? 1 : AT_ONCE }, work));
  return outcome;
}

async function sendPart(
  http: HttpClient,
  { method, url, headers }: Wave['parts'][number],
  body: Blob,
  signal: AbortSignal | undefined,
): Promise<'sent' | 'stale' | 'unreachable'> {
  const patienceMs = PATIENCE_MS + Math.ceil(body.size / SLOWEST_BYTES_PER_SECOND) * 1000;
  for (let attempt = 1; ; attempt++) {
    const patience = AbortSignal.timeout(patienceMs);
    try {
      // Without our key: the request is all that the bucket wants. 308 is how GCS takes a part that is not the last.
      const response = await fetch(url, {
        method,
        headers,
        body,
        redirect: 'manual',
        signal: signal === undefined ? patience : AbortSignal.any([signal, patience]),
      });
      await response.body?.cancel();
      if (response.ok || (response.status === 308 && !response.headers.has('location'))) return 'sent';
      if (response.status < 500 && response.status !== 408 && response.status !== 429) return 'stale';
    } catch (cause) {
      if (signal?.aborted === true) throw new OctomilClientError('cancelled', 'the upload was cancelled', { cause });
    }
    if (attempt >= ATTEMPTS) return 'unreachable';
    await http.sleep(http.backoffMs(attempt), signal);
  }
}
