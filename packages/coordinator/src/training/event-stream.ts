import type { Clock } from '@octomil/shared/runtime';
import type { SessionEvent } from './event-feed.js';

/** The part of an HTTP response that a stream of events needs. */
export interface EventSink {
  /** @returns false when the peer reads too slowly; then wait for `drained` */
  write(text: string): boolean;
  /** Resolves when more may be written, or the connection is gone. */
  drained(): Promise<void>;
}

export interface EventSource {
  read(sessionId: string, afterId: number, limit: number): Promise<SessionEvent[]>;
  /** @returns ends it */
  follow(sessionId: string, wake: () => void): () => void;
}

export const HEARTBEAT_MS = 15_000;
const PAGE = 500;

/**
 * Sends a session's events from `afterId` on as they appear, until its last one (`end`) or the signal.
 *
 * Wake-ups come from commits and notifications; each heartbeat looks too, in case one was lost. The events are read from
 * their rows in the order of their identifiers, so none is skipped or sent twice, whatever the wake-ups do.
 */
export async function streamEvents(
  source: EventSource,
  sink: EventSink,
  options: {
    sessionId: string;
    afterId: number;
    clock: Clock;
    signal: AbortSignal;
    heartbeatMs?: number;
    /** Between two reads that found something: a round tells of itself in bursts, and one read then serves many. */
    pauseMs?: number;
  },
): Promise<void> {
  const { sessionId, clock, signal, heartbeatMs = HEARTBEAT_MS, pauseMs = 0 } = options;
  let afterId = options.afterId;
  let wake = (): void => undefined;
  let woken = false;
  const unfollow = source.follow(sessionId, () => {
    woken = true;
    wake();
  });
  const onAbort = (): void => wake();
  signal.addEventListener('abort', onAbort);
  try {
    while (!signal.aborted) {
      woken = false;
      const events = await source.read(sessionId, afterId, PAGE);
      for (const event of events) {
        if (signal.aborted) return;
        if (!sink.write(format(event))) await sink.drained();
        afterId = event.id;
        if (event.type === 'end') return;
      }
      if (events.length === PAGE) continue;
      if (events.length > 0 && pauseMs > 0) await new Promise<void>((resolve) => clock.after(pauseMs, resolve));
      if (woken || signal.aborted) continue;
      const heard = await new Promise<boolean>((resolve) => {
        const cancel = clock.after(heartbeatMs, () => resolve(false));
        wake = () => {
          cancel();
          resolve(true);
        };
      });
      wake = () => undefined;
      if (!heard && !signal.aborted && !sink.write(': keep-alive\n\n')) await sink.drained();
    }
  } finally {
    unfollow();
    signal.removeEventListener('abort', onAbort);
  }
}

/** One server-sent event (HTML Living Standard, 9.2). JSON holds no line breaks. */
function format({ id, type, data }: SessionEvent): string {
  return `id: ${id}\nevent: ${type}\ndata: ${JSON.stringify(data)}\n\n`;
}
