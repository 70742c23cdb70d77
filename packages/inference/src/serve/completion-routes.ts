import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import type { FastifyReply } from 'fastify';
import { type Static, Type } from 'typebox';
import { ChatCompletionBody, readConversation } from '../gateway/chat-request.js';
import { ClientPresence } from '../gateway/event-stream.js';
import { type RouteHost, validatorCompiler } from '../gateway/route-host.js';
import { answerDeterministic, answerStreaming, answerWhole, type CompletionCall } from './completion-answer.js';
import { shortId } from './heard-answer.js';
import { AUTO, type ModelHost, type Route } from './model-host.js';
import { CHAT, TEXT } from './openai-shapes.js';
import { type GivenSampling, generationRequests, refuseFields } from './sampling.js';
import { checkToolTurns, functionsOf, readTools, ToolBody } from './tool-fields.js';

const MAX_INPUTS = 2_048;
const OrNull = <T extends Type.TSchema>(schema: T) => Type.Optional(Type.Union([schema, Type.Null()]));
const Name = Type.String({ minLength: 1, maxLength: 1_000 });
const Prompt = Type.String({ maxLength: 8_000_000 });

const CompletionBody = Type.Object({
  model: Name,
  prompt: Type.Union([Prompt, Type.Array(Prompt, { minItems: 1, maxItems: 256 })]),
  max_tokens: OrNull(Type.Integer({ minimum: 1 })),
  temperature: OrNull(Type.Number({ minimum: 0, maximum: 2 })),
  top_p: OrNull(Type.Number({ exclusiveMinimum: 0, maximum: 1 })),
  n: OrNull(Type.Integer({ minimum: 1 })),
  seed: OrNull(Type.Integer()),
  stop: OrNull(
    Type.Union([Type.String({ minLength: 1 }), Type.Array(Type.String({ minLength: 1 }), { maxItems: 16 })]),
  ),
  presence_penalty: OrNull(Type.Number({ minimum: -2, maximum: 2 })),
  frequency_penalty: OrNull(Type.Number({ minimum: -2, maximum: 2 })),
  stream: OrNull(Type.Boolean()),
  stream_options: OrNull(Type.Object({ include_usage: OrNull(Type.Boolean()) })),
});

const ChatBody = Type.Object({
  ...ChatCompletionBody.properties,
  tools: OrNull(Type.Array(ToolBody)),
  tool_choice: Type.Optional(Type.Unknown()),
  parallel_tool_calls: OrNull(Type.Boolean()),
});

const Text = Type.String({ minLength: 1, maxLength: 8_000_000 });
const EmbeddingsBody = Type.Object({
  model: Name,
  input: Type.Union([Text, Type.Array(Text, { minItems: 1, maxItems: MAX_INPUTS })]),
  encoding_format: OrNull(Type.Union([Type.Literal('float'), Type.Literal('base64')])),
});

/** Chat, text and embeddings, as OpenAI's clients ask for them. */
export function registerCompletionRoutes(app: RouteHost, host: ModelHost, clock: Clock): void {
  const tags = ['inference'];

  app.post(
    '/v1/chat/completions',
    { validatorCompiler, schema: { tags, summary: 'Answer a conversation', body: ChatBody } },
    (request, reply) => {
      const body = request.body as Static<typeof ChatBody>;
      refuseFields(body, ['functions', 'function_call', 'logprobs', 'top_logprobs', 'logit_bias', 'audio', 'grammar']);
      const { messages, ...sampling } = readConversation(body);
      checkToolTurns(messages);
      const tools = readTools({
        functions: functionsOf(body.tools ?? []),
        choice: body.tool_choice,
        parallel: body.parallel_tool_calls,
      });
      const isPlain = (sampling.responseFormat?.type ?? 'text') === 'text' && tools === undefined;
      const route = host.route(body.model, messages, isPlain);
      requireSlots(route, body.n ?? 1);
      const call = {
        id: `chatcmpl-${shortId()}`,
        route,
        requests: generationRequests([{ messages }], body.n ?? 1, {
          ...sampling,
          ...(tools === undefined ? {} : { tools }),
        }),
        shape: CHAT,
        host,
        clock,
        reply,
      };
      return answer(call, body);
    },
  );

  app.post(
    '/v1/completions',
    { validatorCompiler, schema: { tags, summary: 'Continue a text', body: CompletionBody } },
    (request, reply) => {
      const body = request.body as Static<typeof CompletionBody>;
      refuseFields(body, ['suffix', 'echo', 'logprobs', 'logit_bias']);
      if ((body as { best_of?: unknown }).best_of !== undefined && (body as { best_of?: unknown }).best_of !== body.n) {
        refuseFields(body, ['best_of']);
      }
      const prompts = typeof body.prompt === 'string' ? [body.prompt] : body.prompt;
      const inputs = prompts.map((prompt) => ({ prompt }));
      const route = host.route(body.model, [{ role: 'user', content: prompts[0] ?? '' }], false);
      requireSlots(route, inputs.length * (body.n ?? 1));
      const call = {
        id: `cmpl-${shortId()}`,
        route,
        requests: generationRequests(inputs, body.n ?? 1, samplingOf(body)),
        shape: TEXT,
        host,
        clock,
        reply,
      };
      return answer(call, body);
    },
  );

  app.post(
    '/v1/embeddings',
    { validatorCompiler, schema: { tags, summary: 'Vectors of one text or of many', body: EmbeddingsBody } },
    async (request, reply) => {
      const body = request.body as Static<typeof EmbeddingsBody>;
      refuseFields(body, ['dimensions']);
      const inputs = typeof body.input === 'string' ? [body.input] : body.input;
      const [smallest] = host.all;
      const model = body.model === AUTO && smallest !== undefined ? smallest : host.get(body.model);
      const client = new ClientPresence(reply.raw);
      try {
        const { vectors, promptTokens } = await model.embed(inputs, client.signal);
        const asText = body.encoding_format === 'base64';
        return {
          object: 'list',
          data: vectors.map((vector, index) => ({
            object: 'embedding',
            index,
            embedding: asText ? littleEndianBase64(vector) : [...vector],
          })),
          model: model.name,
          usage: { prompt_tokens: promptTokens, total_tokens: promptTokens },
        };
      } finally {
        client.release();
      }
    },
  );

  app.get('/v1/models', { schema: { tags, summary: 'Models that are served' } }, () => ({
    object: 'list',
    data: host.all.map(modelJson),
  }));

  app.get('/v1/models/*', { schema: { tags, summary: 'One of them' } }, (request) =>
    modelJson(host.get((request.params as Record<string, string>)['*'] ?? '')),
  );
}

function answer(
  call: CompletionCall,
  body: Pick<Static<typeof CompletionBody>, 'stream' | 'stream_options'>,
): object | Promise<object | FastifyReply> {
  const includeUsage = body.stream === true ? body.stream_options?.include_usage === true : undefined;
  if (call.route.decision?.deterministicResult !== undefined) return answerDeterministic(call, includeUsage);
  return includeUsage === undefined ? answerWhole(call) : answerStreaming(call, includeUsage);
}

/** Before a request is made of each answer: `n` may be any number. @throws OctomilError `invalid_input` */
function requireSlots({ models: [model] }: Route, answers: number): void {
  if (answers <= model.slots) return;
  throw new OctomilError(
    'invalid_input',
    `n asks for ${answers} answers at once; ${model.name} gives at most ${model.slots}`,
    { details: { field: 'n', limit: model.slots } },
  );
}

function samplingOf(body: Static<typeof CompletionBody>): GivenSampling {
  const given = {
    maxTokens: body.max_tokens,
    temperature: body.temperature,
    topP: body.top_p,
    seed: body.seed,
    stop: typeof body.stop === 'string' ? [body.stop] : body.stop,
    presencePenalty: body.presence_penalty,
    frequencyPenalty: body.frequency_penalty,
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined && value !== null));
}

function modelJson(model: ModelHost['all'][number]): object {
  return {
    id: model.name,
    object: 'model',
    created: model.createdSeconds,
    owned_by: 'octomil',
    state: model.health.state,
    ...(model.contextTokens === undefined ? {} : { context_length: model.contextTokens }),
  };
}

function littleEndianBase64(vector: Float32Array): string {
  const bytes = Buffer.alloc(vector.length * 4);
  for (const [index, value] of vector.entries()) bytes.writeFloatLE(value, index * 4);
  return bytes.toString('base64');
}
