import { errorFromFields, OctomilClientError } from '../client-error.js';
import type { HttpClient } from '../http-client.js';
import { type GenerationQuery, wireParameters } from './request.js';
import { eventFields, interrupted, serverEvents } from './server-events.js';
import {
  fieldsOf,
  finishReasonOf,
  type GenerationEnd,
  type GenerationPiece,
  numberOf,
  type TextSource,
  textOf,
} from './text-source.js';

/** A piece of a generation in the cloud. */
export interface StreamToken {
  readonly token: string;
  /** On the last one, whose token is empty. */
  readonly done: boolean;
  /** What answered behind the gateway, such as `ollama`. */
  readonly provider: string | undefined;
  /** Of this token, as the gateway measured it. */
  readonly latencyMs: number | undefined;
  readonly sessionId: string | undefined;
}

interface TokenEvent {
  readonly token: StreamToken;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** The coordinator's inference gateway, for one model. */
export class GatewaySource implements TextSource {
  readonly #http: HttpClient;
  readonly #model: string;

  constructor(http: HttpClient, model: string) {
    this.#http = http;
    this.#model = model;
  }

  async whole(query: GenerationQuery, signal: AbortSignal): Promise<{ text: string } & GenerationEnd> {
    const request = { json: this.#body(query), signal, timeoutMs: LONGEST_MS, ...ONCE };
    const answer = fieldsOf(await this.#http.json('POST', '/inference', request));
    const text = textOf(answer['output']);
    if (text === undefined) throw interrupted('the gateway answered without an output');
    return { text, ...endOf(answer) };
  }

  async *pieces(query: GenerationQuery, signal: AbortSignal): AsyncGenerator<GenerationPiece, void, undefined> {
    for await (const { token, fields } of this.#events(query, signal)) {
      if (token.token !== '') yield { type: 'text', text: token.token };
      if (token.done) yield { type: 'done', ...endOf(fields) };
    }
  }

  /** @throws OctomilClientError `stream_interrupted` unless the last token was `done`; the gateway's own codes */
  async *tokens(query: GenerationQuery, signal: AbortSignal): AsyncGenerator<StreamToken, void, undefined> {
    for await (const { token } of this.#events(query, signal)) yield token;
  }

  async *#events(query: GenerationQuery, signal: AbortSignal): AsyncGenerator<TokenEvent, void, undefined> {
    const response = await this.#http.send('POST', '/inference/stream', {
      json: this.#body(query),
      headers: { accept: 'text/event-stream' },
      signal,
      timeoutMs: LONGEST_MS,
      ...ONCE,
    });
    for await (const { type, data } of serverEvents(response)) {
      const fields = eventFields(data);
      if (fields === undefined) continue;
      if (type === 'error' || fields['error'] !== undefined) throw errorFromFields(fields, 'stream_interrupted');
      const token = tokenOf(fields);
      yield { token, fields };
      // The gateway closes the stream; there is nothing to wait for.
      if (token.done) return;
    }
    throw interrupted('the stream of the gateway ended before the generation did');
  }

  #body({ messages, parameters }: GenerationQuery): unknown {
    return { model_id: this.#model, messages, parameters: wireParameters(parameters) };
  }
}

/** A generation is made anew for each request: none is kept under a key, to be answered again. */
const ONCE = { idempotencyKey: false } as const;
/** Whoever waits has a limit of its own. */
const LONGEST_MS = 2 ** 31 - 1;

function tokenOf(fields: Readonly<Record<string, unknown>>): StreamToken {
  return {
    token: textOf(fields['token']) ?? '',
    done: fields['done'] === true,
    provider: textOf(fields['provider']),
    latencyMs: numberOf(fields['latency_ms']),
    sessionId: textOf(fields['session_id']),
  };
}

function endOf(fields: Readonly<Record<string, unknown>>): GenerationEnd {
  const usage = fieldsOf(fields['usage']);
  return {
    finishReason: finishReasonOf(fields['finish_reason']),
    promptTokens: numberOf(usage['prompt_tokens']),
    completionTokens: numberOf(usage['completion_tokens']),
    provider: textOf(fields['provider']),
    sessionId: textOf(fields['session_id']),
  };
}

export interface EmbedOptions {
  readonly modelId: string;
  /** One text or many. */
  readonly input: string | readonly string[];
  /** Default 30 000; then `request_timeout`. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

export interface EmbeddingUsage {
  readonly promptTokens: number;
  readonly totalTokens: number;
}

export interface EmbeddingResult {
  /** One vector for each input, in its order. */
  readonly embeddings: readonly (readonly number[])[];
  readonly model: string;
  readonly usage: EmbeddingUsage;
}

/** @throws OctomilClientError `invalid_input` without a text; `inference_failed` for an answer that lacks vectors */
export async function embedWith(http: HttpClient, options: EmbedOptions): Promise<EmbeddingResult> {
  const { modelId, input, timeoutMs = 30_000, signal } = options;
  const count = typeof input === 'string' ? 1 : input.length;
  if (count === 0) throw new OctomilClientError('invalid_input', 'input is an empty list; give at least one text');
  const json = { model_id: modelId, input };
  const answer = fieldsOf(await http.json('POST', '/embeddings', { json, timeoutMs, signal, ...ONCE }));
  const rows = (Array.isArray(answer['data']) ? answer['data'] : []).map(fieldsOf);
  const embeddings = rows
    .toSorted((a, b) => (numberOf(a['index']) ?? 0) - (numberOf(b['index']) ?? 0))
    .map(({ embedding }) => embedding);
  if (embeddings.length !== count || !embeddings.every(Array.isArray)) {
    const reason = `${count} texts were to be embedded, and ${embeddings.length} vectors came back`;
    throw new OctomilClientError('inference_failed', reason);
  }
  const usage = fieldsOf(answer['usage']);
  return {
    embeddings: embeddings as number[][],
    model: textOf(answer['model']) ?? modelId,
    usage: { promptTokens: numberOf(usage['prompt_tokens']) ?? 0, totalTokens: numberOf(usage['total_tokens']) ?? 0 },
  };
}
