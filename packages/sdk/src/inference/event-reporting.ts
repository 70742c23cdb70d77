import { EventReporter } from '@octomil/inference/quality';
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
      await http.json('POST', '/inference/events', { json, signal, maxAttempts: 1, idempotencyKey: false });
    },
  });
}

function after(delayMs: number, callback: () => void): () => void {
  const timer = setTimeout(callback, delayMs);
  // A coordinator that is away keeps nobody from ending. In a browser a timer is a number.
  if (delayMs > INTERVAL_MS && typeof timer === 'object') timer.unref();
  return () => clearTimeout(timer);
}
