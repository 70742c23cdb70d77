import { createParser, type EventSourceMessage } from 'eventsource-parser';
import { OctomilClientError } from './client-error.js';
import type { HttpClient } from './http-client.js';
import { timerAfter } from './timer.js';
import { camelNames } from './wire-names.js';
import { wirePath } from './wire-path.js';

export const TRAINING_EVENT_TYPES = [
  'session',
  'round',
  'assignment',
  'update',
  'checkpoint',
  'evaluation',
  'drift',
  'version',
  'end',
] as const;

/** Something that happened in a training session. `end` is the last one. */
export interface TrainingEvent {
  /** Resumes the stream after this event. */
  readonly id: string;
  readonly type: (typeof TRAINING_EVENT_TYPES)[number] | (string & {});
  /** What the coordinator says about it, such as `roundNumber`, `state`, `device`, `reason`. */
  readonly data: Readonly<Record<string, unknown>>;
}

export interface EventStreamOptions {
  /** The id of the last event that was seen. Default: from the session's first event. */
  readonly lastEventId?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Silence, keep-alive comments included, after which the connection counts as dead. Default 60 000. */
  readonly idleTimeoutMs?: number;
  /** How long the coordinator may stay away before the stream gives up with its last error. Default 600 000. */
  readonly maxOutageMs?: number;
}

/**
 * The events of a session, each once and in order, until `end`. A connection that breaks, or a coordinator that
 * restarts, is followed by a new connection that goes on after the last event seen (`Last-Event-ID`).
 *
 * @throws OctomilClientError of the first answer that trying again would not change, such as `not_found`;
 * `network_unavailable` after `maxOutageMs`; `cancelled`
 */
export async function* sessionEvents(
  http: HttpClient,
  sessionId: string,
  options: EventStreamOptions = {},
): AsyncGenerator<TrainingEvent, void, undefined> {
  const maxOutageMs = options.maxOutageMs ?? 600_000;
  const place: Place = { lastEventId: options.lastEventId, heard: false };
  let waitedMs = 0;
  for (let attempt = 1; ; attempt++) {
    place.heard = false;
    let failure = new OctomilClientError('network_unavailable', 'the event stream ends at once, again and again');
    try {
      if (yield* connection(http, sessionId, place, options)) return;
    } catch (error) {
      if (!(error instanceof OctomilClientError) || !mayReconnect(error)) throw error;
      failure = error;
    }
    // Whoever sends keep-alives is not away, though nothing happens for hours and proxies end each connection.
    if (place.heard) {
      waitedMs = 0;
      attempt = 1;
    }
    if (waitedMs >= maxOutageMs) throw failure;
    const delayMs = http.backoffMs(attempt);
    waitedMs += delayMs;
    await http.sleep(delayMs, options.signal);
  }
}

interface Place {
  lastEventId: string | undefined;
  /** Whether anything came over the connection at hand. */
  heard: boolean;
}

function mayReconnect(error: OctomilClientError): boolean {
  if (error.code === 'cancelled') return false;
  return error.status === undefined || error.status === 429 || error.status >= 500 || error.status < 400;
}

/** @returns whether the session has ended; else the stream broke off and goes on from `place` */
async function* connection(
  http: HttpClient,
  sessionId: string,
  place: Place,
  options: EventStreamOptions,
): AsyncGenerator<TrainingEvent, boolean, undefined> {
  const idleTimeoutMs = options.idleTimeoutMs ?? 60_000;
  const idle = new AbortController();
  const signal = options.signal === undefined ? idle.signal : AbortSignal.any([idle.signal, options.signal]);
  let timer: ReturnType<typeof setTimeout> | undefined;
  const heard = (): void => {
    clearTimeout(timer);
    timer = timerAfter(idleTimeoutMs, () => idle.abort());
  };
  try {
    heard();
    const response = await http.send('GET', wirePath('training', 'sessions', sessionId, 'events'), {
      headers: {
        accept: 'text/event-stream',
        ...(place.lastEventId === undefined ? {} : { 'last-event-id': place.lastEventId }),
      },
      signal,
      maxAttempts: 1,
    });
    // "No content" tells a follower that was there to the end not to come back (HTML Living Standard, 9.2.3).
    if (response.status === 204 || response.body === null) return true;
    const type = response.headers.get('content-type') ?? 'text/event-stream';
    if (!type.startsWith('text/event-stream')) {
      throw new OctomilClientError('network_unavailable', `events were answered with ${type.slice(0, 80)}`, {
        status: response.status,
      });
    }
    const ready: TrainingEvent[] = [];
    const parser = createParser({
      onEvent: (message) => {
        const event = readEvent(message);
        if (event !== undefined) ready.push(event);
      },
    });
    const decoder = new TextDecoder();
    for await (const chunk of readChunks(response.body)) {
      heard();
      place.heard = true;
      parser.feed(decoder.decode(chunk, { stream: true }));
      for (const event of ready.splice(0)) {
        // An event without an id cannot be resumed after; the one before it can.
        if (event.id !== '') place.lastEventId = event.id;
        yield event;
        if (event.type === 'end') return true;
      }
    }
    return false;
  } catch (error) {
    if (options.signal?.aborted) {
      throw new OctomilClientError('cancelled', 'following the training session was cancelled', { cause: error });
    }
    if (error instanceof OctomilClientError && error.code !== 'cancelled') throw error;
    throw new OctomilClientError('network_unavailable', 'the event stream broke', { cause: error });
  } finally {
    clearTimeout(timer);
    idle.abort();
  }
}

/** Not every browser iterates a ReadableStream. */
async function* readChunks(body: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  const reader = body.getReader();
  try {
    while (true) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

function readEvent(message: EventSourceMessage): TrainingEvent | undefined {
  let data: unknown;
  try {
    data = JSON.parse(message.data);
  } catch {
    return undefined;
  }
  if (typeof data !== 'object' || data === null || Array.isArray(data)) return undefined;
  return { id: message.id ?? '', type: message.event ?? 'message', data: camelNames(data as Record<string, unknown>) };
}
