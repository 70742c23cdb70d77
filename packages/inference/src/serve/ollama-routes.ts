import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import type { FastifyInstance, FastifyReply } from 'fastify';
import { type Static, Type } from 'typebox';
import type { FinishReason, TokenUsage, ToolCall } from '../engine/index.js';
import { readConversation } from '../gateway/chat-request.js';
import { ClientPresence } from '../gateway/event-stream.js';
import { asRequestError, openAiStatus } from '../gateway/openai-error.js';
import { type RouteHost, validatorCompiler } from '../gateway/route-host.js';
import { type Audience, runCompletion } from './completion-run.js';
import { HeardAnswer } from './heard-answer.js';
import type { ModelHost } from './model-host.js';
import { generationRequests } from './sampling.js';
import { checkToolTurns, functionsOf, readTools, ToolBody } from './tool-fields.js';

/** What we speak as; clients compare it with what they need. */
const SPOKEN_VERSION = '0.6.0';

const Optional = <T extends Type.TSchema>(schema: T) => Type.Optional(Type.Union([schema, Type.Null()]));
const Name = Type.String({ minLength: 1, maxLength: 1_000 });
/** What is not named here (`num_ctx`, `num_gpu` …) belongs to how a model is loaded, which requests do not decide. */
const Options = Type.Object({
  temperature: Optional(Type.Number({ minimum: 0, maximum: 2 })),
  top_p: Optional(Type.Number({ exclusiveMinimum: 0, maximum: 1 })),
  num_predict: Optional(Type.Integer({ minimum: -2 })),
  stop: Optional(Type.Array(Type.String({ minLength: 1 }), { maxItems: 16 })),
  seed: Optional(Type.Integer()),
  presence_penalty: Optional(Type.Number({ minimum: -2, maximum: 2 })),
  frequency_penalty: Optional(Type.Number({ minimum: -2, maximum: 2 })),
});
const SHARED = {
  model: Name,
  stream: Optional(Type.Boolean()),
  format: Optional(Type.Union([Type.Literal('json'), Type.Literal(''), Type.Record(Type.String(), Type.Unknown())])),
  options: Optional(Options),
};
const ChatBody = Type.Object({
  ...SHARED,
  messages: Type.Array(
    Type.Object({
      role: Type.String({ maxLength: 20 }),
      content: Optional(Type.String()),
      images: Optional(Type.Array(Type.Unknown())),
      tool_calls: Optional(
        Type.Array(
          Type.Object({
            function: Type.Object({ name: Type.String(), arguments: Type.Record(Type.String(), Type.Unknown()) }),
          }),
          { maxItems: 128 },
        ),
      ),
    }),
    { minItems: 1, maxItems: 10_000 },
  ),
  tools: Optional(Type.Array(ToolBody)),
});
const GenerateBody = Type.Object({
  ...SHARED,
  prompt: Type.String({ maxLength: 8_000_000 }),
  system: Optional(Type.String()),
  images: Optional(Type.Array(Type.Unknown())),
});
const EmbedBody = Type.Object({
  model: Name,
  input: Type.Union([Type.String(), Type.Array(Type.String(), { minItems: 1, maxItems: 2_048 })]),
});
type Asked = Static<typeof ChatBody>;

/** Chat, text and embeddings as Ollama's clients ask for them: lines of JSON, streamed unless `stream` is false. */
export function registerOllamaRoutes(server: FastifyInstance, host: ModelHost, clock: Clock): void {
  // A scope of its own: its clients read an error as `{"error": "text"}`.
  void server.register(async (app) => {
    app.setErrorHandler((thrown, _request, reply) => {
      const error = asRequestError(thrown);
      if (error.retryAfterSeconds !== undefined)
        reply.header('retry-after', String(Math.ceil(error.retryAfterSeconds)));
      return reply.code(openAiStatus(error)).send({ error: error.reason });
    });
    const routes: RouteHost = app;
    const tags = ['inference'];
    routes.post(
      '/api/chat',
      { validatorCompiler, schema: { tags, summary: 'Answer a conversation', body: ChatBody } },
      (request, reply) =>
        answer(request.body as Asked, host, clock, reply, (text, calls) => ({
          message: {
            role: 'assistant',
            content: text,
            ...(calls.length === 0 ? {} : { tool_calls: calls.map(callJson) }),
          },
        })),
    );
    routes.post(
      '/api/generate',
      { validatorCompiler, schema: { tags, summary: 'Answer a prompt', body: GenerateBody } },
      (request, reply) => {
        const { prompt, system, images, ...asked } = request.body as Static<typeof GenerateBody>;
        refuseImages(images, 'images');
        const messages = [...(system ? [{ role: 'system', content: system }] : []), { role: 'user', content: prompt }];
        return answer({ ...asked, messages }, host, clock, reply, (text) => ({ response: text }));
      },
    );
    routes.post(
      '/api/embed',
      { validatorCompiler, schema: { tags, summary: 'Vectors of texts', body: EmbedBody } },
      async (request, reply) => {
        const { model: name, input } = request.body as Static<typeof EmbedBody>;
        const model = host.get(plainName(name, host));
        const client = new ClientPresence(reply.raw);
        try {
          const { vectors, promptTokens } = await model.embed(
            typeof input === 'string' ? [input] : input,
            client.signal,
          );
          return { model: name, embeddings: vectors.map((vector) => [...vector]), prompt_eval_count: promptTokens };
        } finally {
          client.release();
        }
      },
    );
    routes.get('/api/tags', { schema: { tags, summary: 'Models that are served' } }, () => ({
      models: host.all.map(({ name, createdSeconds }) => ({
        name,
        model: name,
        modified_at: new Date(createdSeconds * 1_000).toISOString(),
      })),
    }));
    routes.get('/api/version', { schema: { tags, summary: 'The version of Ollama that is spoken' } }, () => ({
      version: SPOKEN_VERSION,
    }));
  });
}

type Piece = (text: string, calls: readonly ToolCall[]) => object;

async function answer(
  asked: Asked,
  host: ModelHost,
  clock: Clock,
  reply: FastifyReply,
  piece: Piece,
): Promise<object | FastifyReply> {
  const { messages, ...sampling } = readConversation(asOpenAi(asked));
  checkToolTurns(messages);
  const tools = readTools({ functions: functionsOf(asked.tools ?? []), choice: 'auto', parallel: true });
  const route = host.route(plainName(asked.model, host), messages, false);
  const requests = generationRequests([{ messages }], 1, { ...sampling, ...(tools === undefined ? {} : { tools }) });
  const startedAtMs = clock.now();
  const line = (text: string, calls: readonly ToolCall[] = []): object => ({
    model: asked.model,
    created_at: new Date(clock.now()).toISOString(),
    ...piece(text, calls),
    done: false,
  });
  const ending = (heard: Pick<HeardAnswer, 'text' | 'calls'>, reason: FinishReason, usage: TokenUsage): object => ({
    ...line(heard.text, heard.calls),
    done: true,
    // This protocol has no reason of its own for calls.
    done_reason: reason === 'tool_calls' ? 'stop' : reason,
    // Nanoseconds, as everywhere in this protocol.
    total_duration: Math.round((clock.now() - startedAtMs) * 1e6),
    prompt_eval_count: usage.promptTokens,
    eval_count: usage.completionTokens,
  });
  const client = new ClientPresence(reply.raw);
  const lines = new JsonLines(reply);
  let heard = new HeardAnswer();
  let told = 0;
  let reason = 'stop' as FinishReason;
  const streaming = asked.stream ?? true;
  const tellCalls = (calls: readonly ToolCall[]): Promise<void> | undefined => {
    const fresh = calls.slice(told);
    told = Math.max(told, calls.length);
    return fresh.length === 0 ? undefined : lines.write(line('', fresh), client.signal);
  };
  const audience: Audience = {
    get begun() {
      return lines.begun;
    },
    start: () => {
      heard = new HeardAnswer();
      told = 0;
    },
    say: (_choice, said) => {
      heard.hear(said);
      if (!streaming) return undefined;
      if (said.type === 'text') return lines.write(line(said.text), client.signal);
      // A call is told when it is whole: its arguments are an object.
      return said.type === 'call' ? tellCalls(heard.calls.slice(0, -1)) : undefined;
    },
    finish: (_choice, why) => {
      reason = why;
      // The last one is not whole where the answer was cut.
      if (streaming) void tellCalls(why === 'length' ? heard.calls.slice(0, -1) : heard.calls);
    },
  };
  try {
    const { usage } = await runCompletion(route.models, requests, audience, client.signal);
    const whole = reason === 'length' ? heard.calls.slice(0, -1) : heard.calls;
    if (!streaming) return ending({ text: heard.text, calls: whole }, reason, usage);
    lines.end(ending({ text: '', calls: [] }, reason, usage));
  } catch (thrown) {
    if (!lines.begun) throw thrown;
    lines.end({ error: toOctomilError(thrown, 'inference_failed').reason });
  } finally {
    client.release();
  }
  return reply;
}

/** One JSON text a line. Nothing is sent before the first one, so that what fails before keeps its status. */
class JsonLines {
  readonly #reply: FastifyReply;
  #begun = false;

  constructor(reply: FastifyReply) {
    this.#reply = reply;
  }

  get begun(): boolean {
    return this.#begun;
  }

  /** A promise while the reader has to catch up; it resolves as well when the reader leaves. */
  write(value: object, gone: AbortSignal): Promise<void> | undefined {
    this.#begin();
    const { raw } = this.#reply;
    // One that has left never drains, and has said so before.
    if (raw.write(`${JSON.stringify(value)}\n`) || gone.aborted) return undefined;
    return new Promise((resolve) => {
      const done = (): void => {
        raw.off('drain', done);
        gone.removeEventListener('abort', done);
        resolve();
      };
      raw.on('drain', done);
      gone.addEventListener('abort', done);
    });
  }

  end(value: object): void {
    this.#begin();
    this.#reply.raw.end(`${JSON.stringify(value)}\n`);
  }

  #begin(): void {
    if (this.#begun) return;
    this.#begun = true;
    this.#reply.hijack();
    const { raw } = this.#reply;
    for (const [name, value] of Object.entries(this.#reply.getHeaders())) {
      if (value !== undefined) raw.setHeader(name, value);
    }
    // A client that is gone: what is written then goes nowhere, and must not end the process.
    raw.on('error', () => undefined);
    raw.writeHead(200, { 'content-type': 'application/x-ndjson', 'cache-control': 'no-cache, no-transform' });
  }
}

/** Ollama's clients add the tag `latest` to a name without one. */
function plainName(name: string, host: ModelHost): string {
  return name.endsWith(':latest') && !host.all.some((model) => model.name === name)
    ? name.slice(0, -':latest'.length)
    : name;
}

function asOpenAi({ model, messages, format, options }: Asked): Parameters<typeof readConversation>[0] {
  const { num_predict: limit, ...sampling } = options ?? {};
  const known = ['temperature', 'top_p', 'stop', 'seed', 'presence_penalty', 'frequency_penalty'] as const;
  return {
    model,
    messages: withIds(messages),
    ...Object.fromEntries(known.map((name) => [name, sampling[name] ?? null])),
    // -1 and -2 mean: to the end of the context.
    max_tokens: limit !== undefined && limit !== null && limit > 0 ? limit : null,
    response_format: formatOf(format),
  };
}

/** This protocol has no ids of calls: results come in the order of the calls. */
function withIds(messages: Asked['messages']): Parameters<typeof readConversation>[0]['messages'] {
  let calls = 0;
  let results = 0;
  return messages.map(({ role, content, images, tool_calls: called }, index) => {
    refuseImages(images, `messages.${index}.images`);
    if (role === 'tool') {
      results += 1;
      return { role, content: content ?? '', tool_call_id: `call_${results}` };
    }
    if (!called || called.length === 0) return { role, content: content ?? '' };
    const given = called.map(({ function: one }) => {
      calls += 1;
      return { id: `call_${calls}`, function: { name: one.name, arguments: JSON.stringify(one.arguments) } };
    });
    return { role, content: content ?? '', tool_calls: given };
  });
}

/** What would be answered without them is worse than no answer. */
function refuseImages(images: readonly unknown[] | null | undefined, field: string): void {
  if (!images || images.length === 0) return;
  throw new OctomilError('unsupported_modality', `${field} holds pictures; only text is read`, { details: { field } });
}

function callJson({ name, arguments: given }: ToolCall): object {
  return { function: { name, arguments: JSON.parse(given) as object } };
}

function formatOf(
  format: Asked['format'],
): { type: string; json_schema?: { name: string; schema: Record<string, unknown> } } | null {
  if (format === undefined || format === null || format === '') return null;
  if (format === 'json') return { type: 'json_object' };
  return { type: 'json_schema', json_schema: { name: 'answer', schema: format } };
}
