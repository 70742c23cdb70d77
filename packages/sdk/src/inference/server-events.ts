import { createParser } from 'eventsource-parser';
import { OctomilClientError } from '../client-error.js';

export interface ServerEvent {
  readonly type: string | undefined;
  readonly data: string;
}

const MAX_EVENT_CHARACTERS = 1024 * 1024;

/**
 * The events of an answer until its body ends; comments are skipped. Who stops reading lets the connection go.
 *
 * @throws OctomilClientError `stream_interrupted` when the connection breaks, or for an event of more than 1 MiB
 */
export async function* serverEvents(response: Response): AsyncGenerator<ServerEvent, void, undefined> {
  const reader = response.body?.getReader();
  if (reader === undefined) return;
  const ready: ServerEvent[] = [];
  let tooLong = false;
  const parser = createParser({
    maxBufferSize: MAX_EVENT_CHARACTERS,
    onEvent: ({ event, data }) => ready.push({ type: event, data }),
    onError: ({ type }) => {
      tooLong ||= type === 'max-buffer-size-exceeded';
    },
  });
  const decoder = new TextDecoder();
  let ended = false;
  try {
    while (true) {
      const { done, value } = await reader.read().catch((cause: unknown) => {
        throw new OctomilClientError('stream_interrupted', 'the connection broke while the answer was streamed', {
          status: response.status,
          cause,
        });
      });
      if (done) {
        ended = true;
        return;
      }
      parser.feed(decoder.decode(value, { stream: true }));
      yield* ready.splice(0);
      if (tooLong) throw interrupted(`an event of the stream is longer than ${MAX_EVENT_CHARACTERS} characters`);
    }
  } finally {
    if (!ended) await reader.cancel().catch(() => undefined);
  }
}

/** An object; undefined for what is none, such as `[DONE]`. */
export function eventFields(data: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(data);
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}

export function interrupted(reason: string): OctomilClientError {
  return new OctomilClientError('stream_interrupted', reason);
}
