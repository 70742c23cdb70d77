import { toOctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import type { FastifyReply } from 'fastify';
import type { FinishReason, GenerationRequest, Said, TokenUsage, ToolCall } from '../engine/index.js';
import { ClientPresence, EventStream } from '../gateway/event-stream.js';
import { openAiErrorBody } from '../gateway/openai-error.js';
import { type Audience, runCompletion } from './completion-run.js';
import { HeardAnswer } from './heard-answer.js';
import type { ModelHost, Route } from './model-host.js';
import { ReaderGate } from './reader-gate.js';
import { setRoutedModel, setSpeculative } from './routed-headers.js';
import type { ServedModel } from './served-model.js';

/** How one of OpenAI's two kinds of completions looks. */
export interface AnswerShape {
  readonly object: string;
  readonly chunkObject: string;
  whole(index: number, heard: Pick<HeardAnswer, 'text' | 'calls'>, reason: FinishReason): object;
  /** The first piece of a choice, where clients expect one; undefined without. */
  opening(index: number): object | undefined;
  /** @param call the one that it belongs to */
  piece(index: number, said: Said, call: ToolCall | undefined): object;
  ending(index: number, reason: FinishReason): object;
}

export interface CompletionCall {
  readonly id: string;
  readonly route: Route;
  readonly requests: readonly GenerationRequest[];
  readonly shape: AnswerShape;
  readonly host: ModelHost;
  readonly clock: Clock;
  readonly reply: FastifyReply;
}

/** Answers with the whole of all choices. A client that leaves ends the generation. */
export async function answerWhole(call: CompletionCall): Promise<object> {
  const { route, requests, shape, reply, host } = call;
  const client = new ClientPresence(reply.raw);
  let heard: HeardAnswer[] = [];
  let reasons: FinishReason[] = [];
  const audience: Audience = {
    begun: false,
    start: () => {
      heard = requests.map(() => new HeardAnswer());
      reasons = [];
    },
    say: (choice, said) => {
      heard[choice]?.hear(said);
      return undefined;
    },
    finish: (choice, reason) => {
      reasons[choice] = reason;
    },
  };
  try {
    const result = await runCompletion(route.models, requests, audience, client.signal);
    noteRoute(call, result.model);
    if (result.fellBack) {
      host.fallbacks += 1;
      reply.header('x-octomil-fallback', 'true');
    }
    setSpeculative(reply, result);
    return {
      ...common(call, result.model, shape.object),
      choices: heard.map((one, index) => shape.whole(index, one, reasons[index] ?? 'stop')),
      usage: usageJson(result.usage),
    };
  } finally {
    client.release();
  }
}

/** Answers piece by piece. Until the first one, failures keep their status, and another model may take over. */
export async function answerStreaming(call: CompletionCall, includeUsage: boolean): Promise<FastifyReply> {
  const { route, requests, shape, reply, host, clock } = call;
  const stream = new EventStream(reply, clock);
  const gate = new ReaderGate(stream.signal);
  let base: object = {};
  let opened: boolean[] = [];
  let answers: HeardAnswer[] = [];
  const event = (choices: readonly (object | undefined)[], usage: object | null = null): string =>
    `data: ${JSON.stringify({
      ...base,
      choices: choices.filter((choice) => choice !== undefined),
      ...(includeUsage ? { usage } : {}),
    })}\n\n`;
  const openingOf = (choice: number): string => {
    if (opened[choice] === true) return '';
    opened[choice] = true;
    const opening = shape.opening(choice);
    return opening === undefined ? '' : event([opening]);
  };
  let heard = false;
  const write = (events: string): Promise<void> | undefined => {
    heard = true;
    stream.write(events, gate);
    return gate.open;
  };
  const audience: Audience = {
    get begun() {
      return heard;
    },
    start: (model) => {
      base = common(call, model, shape.chunkObject);
      opened = [];
      answers = requests.map(() => new HeardAnswer());
      if (stream.begun) return;
      noteRoute(call, model);
      setSpeculative(reply, model);
      if (model !== route.models[0]) reply.header('x-octomil-fallback', 'true');
    },
    say: (choice, said) => write(openingOf(choice) + event([shape.piece(choice, said, answers[choice]?.hear(said))])),
    finish: (choice, reason) => void write(openingOf(choice) + event([shape.ending(choice, reason)])),
  };
  try {
    const result = await runCompletion(route.models, requests, audience, stream.signal);
    if (result.fellBack) host.fallbacks += 1;
    stream.end(`${includeUsage ? event([], usageJson(result.usage)) : ''}data: [DONE]\n\n`);
  } catch (thrown) {
    const error = toOctomilError(thrown, 'inference_failed');
    if (!stream.begun) {
      stream.close();
      throw error;
    }
    stream.end(`data: ${JSON.stringify(openAiErrorBody(error))}\n\n`);
  }
  return reply;
}

/** An answer that no model gave. */
export function answerDeterministic(call: CompletionCall, includeUsage: boolean | undefined): object | FastifyReply {
  const { route, requests, shape, reply, clock } = call;
  const { decision } = route;
  const result = decision?.deterministicResult;
  const text = result?.answer ?? '';
  if (decision !== undefined) setRoutedModel(reply, 'deterministic', decision);
  call.host.routed.set('deterministic', (call.host.routed.get('deterministic') ?? 0) + 1);
  const usage = usageJson({ promptTokens: 0, completionTokens: 0, cachedTokens: 0, estimated: false });
  const base = { id: call.id, created: Math.floor(clock.now() / 1_000), model: 'deterministic' };
  if (includeUsage === undefined) {
    return {
      ...base,
      object: shape.object,
      choices: requests.map((_, index) => shape.whole(index, { text, calls: [] }, 'stop')),
      usage: { ...usage, deterministic: true, deterministic_method: result?.method },
    };
  }
  const stream = new EventStream(reply, clock);
  const event = (choices: readonly (object | undefined)[], given: object | null = null): string =>
    `data: ${JSON.stringify({
      ...base,
      object: shape.chunkObject,
      choices: choices.filter((choice) => choice !== undefined),
      ...(includeUsage ? { usage: given } : {}),
    })}\n\n`;
  const events = requests.flatMap((_, index) => [
    event([shape.opening(index)]),
    event([shape.piece(index, { type: 'text', text }, undefined)]),
    event([shape.ending(index, 'stop')]),
  ]);
  stream.end(`${events.join('')}${includeUsage ? event([], usage) : ''}data: [DONE]\n\n`);
  return reply;
}

/** Says which model the router chose, where it had the choice. */
export function noteRoute(
  { route, reply, host }: Pick<CompletionCall, 'route' | 'reply' | 'host'>,
  model: ServedModel,
): void {
  if (route.decision === undefined) return;
  host.routed.set(model.name, (host.routed.get(model.name) ?? 0) + 1);
  setRoutedModel(reply, model.name, route.decision);
}

function common({ id, clock }: CompletionCall, model: ServedModel, object: string): object {
  return { id, object, created: Math.floor(clock.now() / 1_000), model: model.name };
}

function usageJson(usage: TokenUsage): Record<string, unknown> {
  return {
    prompt_tokens: usage.promptTokens,
    completion_tokens: usage.completionTokens,
    total_tokens: usage.promptTokens + usage.completionTokens,
    prompt_tokens_details: { cached_tokens: usage.cachedTokens },
  };
}
