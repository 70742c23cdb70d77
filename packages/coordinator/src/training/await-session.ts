import type { Clock } from '@octomil/shared/runtime';
import { type EventSink, type EventSource, streamEvents } from './event-stream.js';

const NOWHERE: EventSink = { write: () => true, drained: () => Promise.resolve() };

/** A dry run waits for the sites' answers; rounds of dry runs end after 30 s. */
export const DRY_RUN_WAIT_MS = 45_000;

/** Resolves when the session is over, or by the signal. */
export async function awaitSession(
  { events, clock }: { readonly events: EventSource; readonly clock: Clock },
  sessionId: string,
  signal: AbortSignal,
): Promise<void> {
  const limited = AbortSignal.any([AbortSignal.timeout(DRY_RUN_WAIT_MS), signal]);
  await streamEvents(events, NOWHERE, { sessionId, afterId: 0, clock, signal: limited });
}
