import { EventReporter } from '@octomil/inference/quality';
import { OctomilError } from '@octomil/shared/errors';
import { OctomilClientError } from '../client-error.js';
import type { HttpClient } from '../http-client.js';

/** A program that has nothing else to do waits this long at most to say how its last generation went. */
const INTERVAL_MS = 1_000;

/** Tells the coordinator how generations on the device went: in batches, in the background, and never in their way. */
export function eventReporter(http: HttpClient): EventReporter {
  return new EventReporter({
    intervalMs: INTERVAL_MS,
    clock: { now: () => Date.now(), after, sleep: (delayMs, signal) => http.sleep(delayMs, signal) },
    send: async (events, signal) => {
      const json = events.length === 1 ? events[0] : { events };
      try {
        await http.json('POST', '/inference/events', { json, signal, maxAttempts: 1, idempotencyKey: false });
      } catch (error) {
        // The reporter tells by this class what is refused for good; it would send that again for ever, before all else.
        throw error instanceof OctomilClientError
          ? new OctomilError(error.code, error.reason, { cause: error })
          : error;
      }
    },
  });
}

function after(delayMs: number, callback: () => void): () => void {
  const timer = setTimeout(callback, delayMs);
  // A coordinator that is away keeps nobody from ending. In a browser a timer is a number.
  if (delayMs > INTERVAL_MS && typeof timer === 'object') timer.unref();
  return () => clearTimeout(timer);
}
