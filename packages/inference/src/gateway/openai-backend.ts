import type { CallPiece, ChatRequest, Generated, InferenceBackend, ReportedUsage } from './backend.js';
import { DEFAULT_TIMEOUTS } from './deadlines.js';
import type { ReadOutcome } from './line-response.js';
import { type BackendOptions, count, objectsOf, vectorsOf } from './ollama-backend.js';
import { Upstream } from './upstream.js';
import { errorInStream, unreadable } from './upstream-failure.js';

export interface OpenAiBackendOptions extends BackendOptions {
  /** Sent as a bearer token; never logged. */
  readonly apiKey?: string | undefined;
}

interface Chunk {
  readonly error?: unknown;
  readonly choices?: readonly {
    readonly delta?: Delta | null;
    readonly message?: Delta | null;
    readonly finish_reason?: unknown;
  }[];
  readonly usage?: { readonly prompt_tokens?: unknown; readonly completion_tokens?: unknown } | null;
}

interface Delta {
  readonly content?: unknown;
  readonly reasoning_content?: unknown;
  readonly tool_calls?: unknown;
}

interface CallDelta {
  readonly index?: unknown;
  readonly id?: unknown;
  readonly function?: { readonly name?: unknown; readonly arguments?: unknown } | null;
}

/**
 * A server that speaks OpenAI's protocol, such as vLLM, llama.cpp or `octomil serve`.
 *
 * An address without a path gets `/v1`.
 */
export function openAiBackend({ baseUrl, apiKey, timeouts, clock }: OpenAiBackendOptions): InferenceBackend {
  const upstream = new Upstream({
    name: 'openai',
    baseUrl: apiRoot(baseUrl),
    headers: apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` },
    secret: apiKey,
    timeouts: { ...DEFAULT_TIMEOUTS, ...timeouts },
    clock,
  });
  return {
    name: upstream.name,
    origin: upstream.origin,
    generate: async (request, { signal, streaming, onTexts, onCalls }) => {
      let finishReason: string | undefined;
      let usage: ReportedUsage = { promptTokens: undefined, completionTokens: undefined };
      await upstream.stream({
        path: '/chat/completions',
        body: chatBody(request),
        signal,
        streaming,
        onLines: (lines, flow) => {
          const texts: string[] = [];
          const calls: CallPiece[] = [];
          let outcome: ReadOutcome = 'nothing';
          for (const text of lines) {
            const data = dataOf(text);
            if (data === undefined) continue;
            if (data === '[DONE]') {
              finishReason ??= 'stop';
              outcome = 'closed';
              break;
            }
            const chunk = parse(upstream.name, data);
            if (chunk.error !== undefined && chunk.error !== null) throw errorInStream(upstream.name, chunk.error);
            if (chunk.usage) {
              usage = {
                promptTokens: count(chunk.usage.prompt_tokens),
                completionTokens: count(chunk.usage.completion_tokens),
              };
            }
            const choice = chunk.choices?.[0];
            const delta = choice?.delta ?? choice?.message;
            const content = delta?.content;
            if (typeof content === 'string' && content !== '') texts.push(content);
            else if (delta?.reasoning_content && outcome === 'nothing') outcome = 'content';
            if (onCalls !== undefined) calls.push(...callPieces(delta?.tool_calls));
            // Some servers send an empty one with every piece.
            if (typeof choice?.finish_reason === 'string' && choice.finish_reason !== '') {
              finishReason = choice.finish_reason;
            }
          }
          if (texts.length > 0) {
            if (outcome === 'nothing') outcome = 'content';
            onTexts(texts, flow);
          }
          if (calls.length > 0) {
            if (outcome === 'nothing') outcome = 'content';
            onCalls?.(calls, flow);
          }
          return outcome !== 'closed' && finishReason !== undefined ? 'finished' : outcome;
        },
      });
      return { finishReason: finishReason ?? 'stop', usage } satisfies Generated;
    },
    embed: async (model, inputs, signal) => {
      const answer = (await upstream.json(
        'POST',
        '/embeddings',
        { model, input: inputs, encoding_format: 'float' },
        signal,
      )) as { data?: unknown; usage?: { prompt_tokens?: unknown } | null } | null;
      const rows = objectsOf<{ embedding?: unknown; index?: unknown }>(answer?.data);
      const ordered = rows.toSorted((a, b) => Number(a.index ?? 0) - Number(b.index ?? 0));
      const vectors = ordered.map(({ embedding }) => embedding);
      return {
        vectors: vectorsOf(upstream.name, vectors, inputs.length),
        promptTokens: count(answer?.usage?.prompt_tokens),
      };
    },
    health: async (signal) => {
      const list = (await upstream.json('GET', '/models', undefined, signal)) as { data?: unknown } | null;
      const models = objectsOf<{ id?: unknown }>(list?.data);
      return { version: undefined, models: models.map(({ id }) => id).filter((id) => typeof id === 'string') };
    },
    stop: () => upstream.stop(),
  };
}

function apiRoot(baseUrl: string): string {
  const root = baseUrl.replace(/\/+$/, '').replace(/\/chat\/completions$/, '');
  return new URL(root).pathname === '/' ? `${root}/v1` : root;
}

/** What a line of server-sent events carries; whole JSON counts too, from servers that do not stream. */
function dataOf(line: string): string | undefined {
  const text = line.endsWith('\r') ? line.slice(0, -1) : line;
  if (text.startsWith('data:')) return text.slice(text.charCodeAt(5) === 0x20 ? 6 : 5);
  if (text.startsWith('{')) return text;
  // Comments, `event:`, `id:`, and the empty line that ends an event.
  return undefined;
}

function parse(backend: string, data: string): Chunk {
  try {
    const value: unknown = JSON.parse(data);
    if (typeof value === 'object' && value !== null) return value as Chunk;
  } catch {
    // Told below.
  }
  throw unreadable(backend, data);
}

function chatBody(request: ChatRequest): object {
  const { responseFormat } = request;
  return {
    model: request.model,
    messages: request.messages.map(messageJson),
    tools: request.tools?.map((tool) => ({ type: 'function', function: tool })),
    stream: true,
    stream_options: { include_usage: true },
    temperature: request.temperature,
    top_p: request.topP,
    top_k: request.topK,
    max_tokens: request.maxTokens,
    stop: request.stop,
    seed: request.seed,
    presence_penalty: request.presencePenalty,
    frequency_penalty: request.frequencyPenalty,
    response_format:
      responseFormat?.type === 'json_schema'
        ? {
            type: 'json_schema',
            json_schema: { name: responseFormat.name, strict: true, schema: responseFormat.schema },
          }
        : responseFormat,
  };
}

function messageJson({ role, content, name, toolCalls, toolCallId }: ChatRequest['messages'][number]): object {
  const calls = toolCalls?.map(({ id, ...called }) => ({ id, type: 'function', function: called }));
  return { role, content, name, tool_calls: calls, tool_call_id: toolCallId };
}

/** More than any answer has; an index beyond is none. */
const MAX_CALLS = 256;

function callPieces(deltas: unknown): CallPiece[] {
  return objectsOf<CallDelta>(deltas).map(({ index, id, function: called }, place) => ({
    index: Number.isInteger(index) && Number(index) >= 0 && Number(index) < MAX_CALLS ? Number(index) : place,
    ...(typeof id === 'string' && id !== '' ? { id } : {}),
    ...(typeof called?.name === 'string' && called.name !== '' ? { name: called.name } : {}),
    arguments: typeof called?.arguments === 'string' ? called.arguments : '',
  }));
}
