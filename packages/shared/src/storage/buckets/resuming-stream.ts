import { OctomilError } from '../../errors/index.js';
import type { Clock } from '../../runtime/index.js';
import type { ByteRange } from '../object-store.js';
import type { BucketObject, SourceClient } from './bucket-client.js';
import { problemOf } from './bucket-problem.js';

/** Attempts in a row that bring no byte. */
const MAX_FRUITLESS = 4;
const FIRST_DELAY_MS = 200;

export interface ResumingOptions {
  readonly clock: Clock;
  readonly range?: ByteRange;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The bytes of one object, all of the same version: every request, the first included, asks for the tag that `object`
 * has. A connection that is cut or falls silent is taken up where it ended; four attempts in a row without a byte end it,
 * and so does a cut where the object has no tag.
 *
 * @throws OctomilError of the client; `transfer_incomplete` where the object ends early although it did not change
 */
export async function* resumingStream(
  client: Pick<SourceClient, 'stream'>,
  object: BucketObject,
  { clock, range = { start: 0, end: object.sizeBytes }, signal }: ResumingOptions,
): AsyncGenerator<Uint8Array> {
  let position = range.start;
  let fruitless = 0;
  while (position < range.end) {
    const before = position;
    let failure: unknown;
    try {
      const whole = position === 0 && range.end === object.sizeBytes;
      const rest = client.stream(object.key, {
        ...(object.tag === '' ? {} : { tag: object.tag }),
        ...(whole ? {} : { range: { start: position, end: range.end } }),
        signal,
      });
      for await (const chunk of rest) {
        // A server that ignores the range would otherwise hand over other bytes than those asked for.
        if (position + chunk.length > range.end) {
          throw new OctomilError('data_unreadable', `${object.key}: the server sent more bytes than were asked for`);
        }
        position += chunk.length;
        yield chunk;
      }
    } catch (error) {
      failure = error;
    }
    if (position >= range.end) return;
    signal?.throwIfAborted();
    if (failure !== undefined && !mayPass(failure)) throw failure;
    // Without a tag the rest might be another version's.
    if (object.tag === '' && position > range.start) throw failure ?? endedEarly(object, position, range.end, 1);
    fruitless = position > before ? 0 : fruitless + 1;
    if (fruitless >= MAX_FRUITLESS) {
      throw failure ?? endedEarly(object, position, range.end, MAX_FRUITLESS);
    }
    await clock.sleep(FIRST_DELAY_MS * 2 ** fruitless, signal);
  }
}

function endedEarly({ key }: BucketObject, position: number, end: number, times: number): OctomilError {
  return new OctomilError(
    'transfer_incomplete',
    `${key} ended after ${position} of ${end} bytes${times === 1 ? '' : `, ${times} times`}; try again later`,
  );
}

/** Whether the next attempt may do better. */
export function mayPass(error: unknown): boolean {
  const problem = problemOf(error);
  return problem === 'unreachable' || problem === 'timeout' || problem === 'busy';
}
