import { randomUUID } from 'node:crypto';
import type { Clock } from '@octomil/shared/runtime';
import type { CallPiece, ChatRequest, Generated, InferenceBackend } from './backend.js';
import { type BackendTimeouts, DEFAULT_TIMEOUTS } from './deadlines.js';
import type { ReadOutcome } from './line-response.js';
import { Upstream } from './upstream.js';
import { errorInStream, unreadable } from './upstream-failure.js';

export interface BackendOptions {
  readonly baseUrl: string;
  readonly timeouts?: Partial<BackendTimeouts>;
  readonly clock: Clock;
}

interface Line {
  readonly error?: unknown;
  readonly done?: unknown;
  readonly done_reason?: unknown;
  readonly message?: { readonly content?: unknown; readonly thinking?: unknown; readonly tool_calls?: unknown } | null;
  readonly prompt_eval_count?: unknown;
  readonly eval_count?: unknown;
}

/** A server that speaks Ollama's own protocol: lines of JSON from `/api/chat`, vectors from `/api/embed`. */
export function ollamaBackend({ baseUrl, timeouts, clock }: BackendOptions): InferenceBackend {
  const upstream = new Upstream({
    name: 'ollama',
    baseUrl: baseUrl.replace(/\/+$/, ''),
    headers: {},
    timeouts: { ...DEFAULT_TIMEOUTS, ...timeouts },
    clock,
  });
  return {
    name: upstream.name,
    origin: upstream.origin,
    generate: async (request, { signal, streaming, onTexts, onCalls }) => {
      let generated: Generated | undefined;
      let called = 0;
      await upstream.stream({
        path: '/api/chat',
        body: chatBody(request),
        signal,
        streaming,
        onLines: (lines, flow) => {
          const texts: string[] = [];
          const calls: CallPiece[] = [];
          let outcome: ReadOutcome = 'nothing';
          for (const text of lines) {
            if (text === '' || text === '\r') continue;
            const line = parse(upstream.name, text);
            if (line.error !== undefined) throw errorInStream(upstream.name, line.error);
            const content = line.message?.content;
            if (typeof content === 'string' && content !== '') texts.push(content);
            else if (line.message?.thinking) outcome = 'content';
            if (onCalls !== undefined) {
              for (const call of wholeCalls(line.message?.tool_calls)) {
                calls.push({ ...call, index: called });
                called += 1;
              }
            }
            if (line.done !== true) continue;
            generated = {
              finishReason: finishReasonOf(line.done_reason, called),
              usage: { promptTokens: count(line.prompt_eval_count), completionTokens: count(line.eval_count) },
            };
            break;
          }
          if (texts.length > 0) {
            outcome = 'content';
            onTexts(texts, flow);
          }
          if (calls.length > 0) {
            outcome = 'content';
            onCalls?.(calls, flow);
          }
          return generated === undefined ? outcome : 'closed';
        },
      });
      return generated ?? { finishReason: 'stop', usage: { promptTokens: undefined, completionTokens: undefined } };
    },
    embed: async (model, inputs, signal) => {
      const answer = (await upstream.json('POST', '/api/embed', { model, input: inputs, truncate: false }, signal)) as {
        embeddings?: unknown;
        prompt_eval_count?: unknown;
      } | null;
      return {
        vectors: vectorsOf(upstream.name, answer?.embeddings, inputs.length),
        promptTokens: count(answer?.prompt_eval_count),
      };
    },
    health: async (signal) => {
      const [version, tags] = (await Promise.all([
        upstream.json('GET', '/api/version', undefined, signal),
        upstream.json('GET', '/api/tags', undefined, signal),
      ])) as [{ version?: unknown } | null, { models?: unknown } | null];
      const models = objectsOf<{ name?: unknown; model?: unknown }>(tags?.models);
      return {
        version: typeof version?.version === 'string' ? version.version : undefined,
        models: models.map(({ name, model }) => name ?? model).filter((name) => typeof name === 'string'),
      };
    },
    stop: () => upstream.stop(),
  };
}

function chatBody(request: ChatRequest): object {
  const { responseFormat } = request;
  return {
    model: request.model,
    messages: messagesJson(request.messages),
    tools: request.tools?.map((tool) => ({ type: 'function', function: tool })),
    stream: true,
    // Its default cuts a long prompt silently.
    truncate: false,
    ...(responseFormat === undefined || responseFormat.type === 'text'
      ? {}
      : { format: responseFormat.type === 'json_object' ? 'json' : responseFormat.schema }),
    // Absent ones are left out by JSON.
    options: {
      temperature: request.temperature,
      top_p: request.topP,
      top_k: request.topK,
      num_predict: request.maxTokens,
      stop: request.stop,
      seed: request.seed,
      presence_penalty: request.presencePenalty,
      frequency_penalty: request.frequencyPenalty,
    },
  };
}

function parse(backend: string, text: string): Line {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null) return value as Line;
  } catch {
    // Told below.
  }
  throw unreadable(backend, text);
}

export function count(value: unknown): number | undefined {
  return typeof value === 'number' && value >= 0 ? value : undefined;
}

/** The objects of a list; what else is in it, or there instead of it, is left out. */
export function objectsOf<T extends object>(value: unknown): readonly T[] {
  return Array.isArray(value) ? value.filter((item) => typeof item === 'object' && item !== null) : [];
}

/** @throws OctomilError `inference_failed` unless there is a vector of numbers for each input */
export function vectorsOf(backend: string, value: unknown, expected: number): number[][] {
  const isVector = (item: unknown): item is number[] =>
    Array.isArray(item) && item.length > 0 && item.every((number) => typeof number === 'number');
  if (Array.isArray(value) && value.length === expected && value.every(isVector)) return value;
  throw unreadable(backend, `${expected} vectors were asked for; it answered ${String(JSON.stringify(value))}`);
}

/** It has one reason for both. */
function finishReasonOf(reason: unknown, calls: number): string {
  const said = typeof reason === 'string' ? reason : 'stop';
  return said === 'stop' && calls > 0 ? 'tool_calls' : said;
}

/** In this protocol a call comes whole, with an object of arguments and without an id. */
function wholeCalls(calls: unknown): Omit<CallPiece, 'index'>[] {
  return objectsOf<{ function?: { name?: unknown; arguments?: unknown } | null }>(calls).flatMap(
    ({ function: called }) =>
      typeof called?.name === 'string'
        ? [
            {
              id: `call_${randomUUID().slice(0, 8)}`,
              name: called.name,
              arguments: JSON.stringify(called.arguments ?? {}),
            },
          ]
        : [],
  );
}

/** Results are told by the name of the function that gave them. */
function messagesJson(messages: ChatRequest['messages']): object[] {
  const names = new Map(messages.flatMap(({ toolCalls = [] }) => toolCalls.map(({ id, name }) => [id, name] as const)));
  return messages.map(({ role, content, toolCalls, toolCallId }) => ({
    role,
    content,
    tool_calls: toolCalls?.map(({ name, arguments: given }) => ({ function: { name, arguments: objectOf(given) } })),
    tool_name: toolCallId === undefined ? undefined : names.get(toolCallId),
  }));
}

function objectOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}
