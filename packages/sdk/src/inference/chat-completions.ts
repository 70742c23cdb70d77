import { errorFromFields } from '../client-error.js';
import type { HttpClient } from '../http-client.js';
import { eventFields, interrupted, serverEvents } from './server-events.js';
import { fieldsOf } from './text-source.js';

type Fields = Readonly<Record<string, unknown>>;

export interface Endpoint {
  readonly http: HttpClient;
  /** Ends in `/v1`, without a slash after it. */
  readonly baseUrl: string;
  readonly apiKey: string | undefined;
  /** Default: the client's. */
  readonly maxAttempts?: number;
}

/** Waits as long as its signal does: whoever asks has a limit of its own. */
const LONGEST_MS = 2 ** 31 - 1;

/** One chat completion of an OpenAI-compatible server, as it is on the wire. */
export async function chatCompletion(endpoint: Endpoint, body: Fields, signal: AbortSignal): Promise<Fields> {
  const { http, baseUrl } = endpoint;
  const answer = await http.json('POST', `${baseUrl}/chat/completions`, {
    json: { ...body, stream: false },
    headers: authorization(endpoint),
    signal,
    timeoutMs: LONGEST_MS,
    ...(endpoint.maxAttempts === undefined ? {} : { maxAttempts: endpoint.maxAttempts }),
  });
  return fieldsOf(answer);
}

/**
 * The chunks of a completion, as they are on the wire.
 *
 * @throws OctomilClientError `stream_interrupted` when it breaks off: neither `[DONE]` nor a `finish_reason` for each choice
 */
export async function* chatCompletionChunks(
  endpoint: Endpoint,
  body: Fields,
  signal: AbortSignal,
): AsyncGenerator<Fields, void, undefined> {
  const response = await endpoint.http.send('POST', `${endpoint.baseUrl}/chat/completions`, {
    json: { ...body, stream: true },
    headers: { ...authorization(endpoint), accept: 'text/event-stream' },
    signal,
    timeoutMs: LONGEST_MS,
    ...(endpoint.maxAttempts === undefined ? {} : { maxAttempts: endpoint.maxAttempts }),
  });
  const begun = new Set<unknown>();
  const finished = new Set<unknown>();
  for await (const { type, data } of serverEvents(response)) {
    if (data.trim() === '[DONE]') return;
    const fields = eventFields(data);
    if (fields === undefined) continue;
    if (type === 'error' || fields['error'] !== undefined) throw errorFromFields(fields, 'stream_interrupted');
    for (const choice of choicesOf(fields)) {
      begun.add(choice['index']);
      if (typeof choice['finish_reason'] === 'string') finished.add(choice['index']);
    }
    yield fields;
  }
  if (begun.size === 0 || finished.size < begun.size) {
    throw interrupted('the stream ended before the generation did');
  }
}

export function choicesOf(fields: Fields): readonly Fields[] {
  const choices = fields['choices'];
  return Array.isArray(choices) ? choices.map(fieldsOf) : [];
}

/** The names of the models that the server has. */
export async function listedModels(
  endpoint: Endpoint,
  options: { readonly timeoutMs: number; readonly signal?: AbortSignal | undefined },
): Promise<readonly Fields[]> {
  const request = { headers: authorization(endpoint), maxAttempts: 1, ...options };
  const { data } = fieldsOf(await endpoint.http.json('GET', `${endpoint.baseUrl}/models`, request));
  return Array.isArray(data) ? data.map(fieldsOf) : [];
}

function authorization({ apiKey }: Endpoint): Record<string, string> {
  return apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` };
}
