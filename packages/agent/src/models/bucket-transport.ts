import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { HttpTransfers } from '../connection/http-transfers.js';
import type { BaseTransport } from './transports.js';

export interface BucketTransportOptions {
  readonly http: HttpTransfers;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** What is smaller is sooner fetched from the coordinator than asked for twice. */
const DIRECT_FROM_BYTES = 1024 * 1024;
/** How long a bucket that cannot be used from here, or that is not offered, is left alone. */
const REST_MS = 10 * 60_000;

/**
 * Straight from the bucket where the coordinator keeps its objects, by requests that it signs. A site that cannot reach
 * the bucket learns that once, and asks the coordinator for the bytes for a while.
 */
export function bucketBaseTransport({ http, clock, logger }: BucketTransportOptions): BaseTransport {
  let restsUntilMs = Number.NEGATIVE_INFINITY;
  const rest = (): void => {
    restsUntilMs = clock.now() + REST_MS;
  };
  return {
    name: 'bucket',
    get available() {
      return http.available && clock.now() >= restsUntilMs;
    },
    suits: ({ sizeBytes }) => sizeBytes >= DIRECT_FROM_BYTES,
    async *fetch({ sha256, sizeBytes }, offset, signal) {
      let done = offset;
      let refusals = 0;
      while (done < sizeBytes) {
        const address = await http.downloadAddress(sha256, signal);
        if (address === undefined) {
          rest();
          throw new OctomilError('download_failed', 'the coordinator offers no download from a bucket');
        }
        const before = done;
        try {
          for await (const chunk of http.downloadDirect(address, done, signal)) {
            done += chunk.length;
            yield chunk;
          }
          return;
        } catch (thrown) {
          if (signal.aborted) throw thrown;
          const error = toOctomilError(thrown, 'download_failed');
          refusals = done > before ? 0 : refusals + 1;
          // Signed anew once; a request that was cut goes on from where it was.
          if (refusals === 0 || (refusals === 1 && error.code === 'ticket_expired')) continue;
          rest();
          logger.warn({ error }, 'the bucket cannot be used from here; fetching from the coordinator for a while');
          throw new OctomilError('download_failed', error.reason, { cause: error });
        }
      }
    },
  };
}
