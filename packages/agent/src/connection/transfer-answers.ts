import { OctomilError } from '@octomil/shared/errors';
import { networkFailure } from './http-failure.js';
import type { SignedDownload } from './signed-requests.js';

/** For verdicts and errors, which are a few lines: nobody who answers fills this process's memory. */
const MAX_ANSWER_BYTES = 65_536;

export interface VerdictBody {
  readonly accepted?: unknown;
  readonly reason?: unknown;
  readonly state?: unknown;
}

/** @throws OctomilError `network_unavailable` for what is none */
export function verdictBody(text: string): VerdictBody {
  try {
    const body: unknown = JSON.parse(text);
    if (typeof body === 'object' && body !== null) return body;
  } catch {}
  throw new OctomilError(
    'network_unavailable',
    'the answer to a completed upload is no verdict; check the transfer URL',
  );
}

/** undefined where it names none. */
export function readAddress(text: string): SignedDownload | undefined {
  try {
    const { url, headers = {} } = JSON.parse(text) as { url?: unknown; headers?: unknown };
    if (typeof url !== 'string' || typeof headers !== 'object' || headers === null) return undefined;
    return Object.values(headers).every((value) => typeof value === 'string')
      ? { url, headers: headers as Record<string, string> }
      : undefined;
  } catch {
    return undefined;
  }
}

/** @throws OctomilError `too_large` beyond {@link MAX_ANSWER_BYTES}; the connection is then closed */
export async function readAnswer(body: AsyncIterable<unknown>, signal: AbortSignal): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    // Leaving the loop early destroys the body, so that the rest is not received.
    for await (const chunk of body) {
      const data = chunk as Buffer;
      bytes += data.length;
      if (bytes > MAX_ANSWER_BYTES) {
        throw new OctomilError(
          'too_large',
          `the coordinator's answer is longer than the ${MAX_ANSWER_BYTES} bytes that are read of one; check what answers at its transfer URL`,
          { details: { limitBytes: MAX_ANSWER_BYTES } },
        );
      }
      chunks.push(data);
    }
  } catch (error) {
    throw networkFailure(error, signal);
  }
  return Buffer.concat(chunks).toString('utf8');
}
