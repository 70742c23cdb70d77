import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { type Static, Type } from 'typebox';
import { BatchBody, InferenceBody, type InferenceInput, ModelName, readInferenceRequest } from './chat-request.js';
import { ClientPresence, EventStream } from './event-stream.js';
import { type InferenceRoutesOptions, MAX_BODY_BYTES, type RouteHost, validatorCompiler } from './route-host.js';
import { GenerationSession, type SessionAnswer, usageJson } from './session.js';

const tags = ['inference'];
const DEFAULT_CONCURRENCY = 4;
const MAX_EMBEDDING_INPUTS = 2048;
const Text = Type.String({ minLength: 1 });
export const EmbeddingsBody = Type.Object({
  model_id: Type.Optional(ModelName),
  model: Type.Optional(ModelName),
  input: Type.Union([Text, Type.Array(Text, { minItems: 1, maxItems: MAX_EMBEDDING_INPUTS })]),
  encoding_format: Type.Optional(Type.Union([Type.Literal('float'), Type.Literal('base64'), Type.Null()])),
  dimensions: Type.Optional(Type.Unknown()),
});

/** Traffic that changes nothing an organization decides on, whose repetition is a new question. */
const config = { audit: false, idempotent: false } as const;

/**
 * `/api/v1/inference`, `/inference/stream`, `/inference/batch`, `/inference/health` and `/embeddings`. What handlers
 * throw is left to the application's error handler.
 */
export function registerInferenceRoutes<Caller>(app: RouteHost, options: InferenceRoutesOptions<Caller>): void {
  const { gateway, clock, authorize, recordEvent } = options;
  const common = { config, validatorCompiler, bodyLimit: MAX_BODY_BYTES };

  const begin = (caller: Caller, model: string, input: InferenceInput, field?: string) =>
    new GenerationSession(readInferenceRequest(model, input, field), {
      gateway,
      clock,
      caller: options.groupOf?.(caller),
      record: (event) => recordEvent(caller, event),
    });
  const complete = async (session: GenerationSession, signal: AbortSignal) => {
    let output = '';
    const answer = await session.run({
      signal,
      streaming: false,
      onTexts: (texts) => {
        output += texts.join('');
      },
    });
    return { output, ...answer };
  };

  app.post(
    '/api/v1/inference',
    { ...common, schema: { tags, summary: 'Generate text, answered when it is whole', body: InferenceBody } },
    async (request, reply) => {
      const caller = authorize(request);
      const body = request.body as Static<typeof InferenceBody>;
      const session = begin(caller, body.model_id, body);
      const client = new ClientPresence(reply.raw);
      try {
        const answer = await complete(session, client.signal);
        return { ...answerJson(answer, session), model_id: body.model_id };
      } finally {
        client.release();
      }
    },
  );

  app.post(
    '/api/v1/inference/stream',
    {
      ...common,
      schema: { tags, summary: 'Generate text as server-sent events, one for each token', body: InferenceBody },
    },
    async (request, reply) => {
      const caller = authorize(request);
      const body = request.body as Static<typeof InferenceBody>;
      const session = begin(caller, body.model_id, body);
      const stream = new EventStream(reply, clock);
      const tail = `,"session_id":"${session.id}"}\n\n`;
      try {
        const { provider, finishReason, usage } = await session.run({
          signal: stream.signal,
          streaming: true,
          onTexts: (texts, from, flow) => {
            const rest = `,"done":false,"provider":"${from}","latency_ms":${session.latencyMs}${tail}`;
            let events = '';
            for (const text of texts) events += `data: {"token":${JSON.stringify(text)}${rest}`;
            stream.write(events, flow);
          },
        });
        stream.end(
          `data: ${JSON.stringify({
            token: '',
            done: true,
            provider,
            latency_ms: session.latencyMs,
            session_id: session.id,
            finish_reason: finishReason,
            usage: usageJson(usage),
          })}\n\n`,
        );
      } catch (thrown) {
        const error = toOctomilError(thrown);
        if (!stream.begun) {
          stream.close();
          throw error;
        }
        // `done` stays false: who reads nothing else must not take a broken answer for a whole one.
        const failed = { token: '', done: false, latency_ms: session.latencyMs, session_id: session.id };
        stream.end(`event: error\ndata: ${JSON.stringify({ ...failed, error: errorJson(error) })}\n\n`);
      }
      return reply;
    },
  );

  app.post(
    '/api/v1/inference/batch',
    {
      ...common,
      schema: { tags, summary: 'Generate for many inputs; each has its own result or error', body: BatchBody },
    },
    async (request, reply) => {
      const caller = authorize(request);
      const {
        model_id: model,
        inputs,
        parameters,
        max_concurrency: concurrency,
      } = request.body as Static<typeof BatchBody>;
      const startedAtMs = clock.now();
      const sessions = inputs.map((input, index) => {
        const given: InferenceInput = typeof input === 'string' ? { input_data: input } : input;
        const merged = { ...(parameters ?? {}), ...(given.parameters ?? {}) };
        return begin(caller, model, { ...given, parameters: merged }, `inputs.${index}.`);
      });
      const client = new ClientPresence(reply.raw);
      try {
        const results = await inTurns(sessions, concurrency ?? DEFAULT_CONCURRENCY, async (session, index) => {
          try {
            return { index, ...answerJson(await complete(session, client.signal), session) };
          } catch (error) {
            return { index, error: errorJson(toOctomilError(error)) };
          }
        });
        client.signal.throwIfAborted();
        const failed = results.filter((result) => 'error' in result).length;
        const latencyMs = clock.now() - startedAtMs;
        return { model_id: model, results, succeeded: results.length - failed, failed, latency_ms: latencyMs };
      } finally {
        client.release();
      }
    },
  );

  app.post(
    '/api/v1/embeddings',
    { ...common, schema: { tags, summary: 'Vectors of one text or of many', body: EmbeddingsBody } },
    async (request, reply) =>
      embed(options, request.body as Static<typeof EmbeddingsBody>, authorize(request), reply.raw),
  );

  app.get(
    '/api/v1/inference/health',
    { schema: { tags, summary: 'Whether the backends of inference answer' } },
    async (request, reply) => {
      authorize(request);
      const { status, backends, active, maxConcurrent } = await gateway.health();
      return reply.code(status === 'unavailable' ? 503 : 200).send({
        status,
        backends: backends.map(({ latencyMs, code, reason, version, ...backend }) => ({
          ...backend,
          latency_ms: latencyMs ?? null,
          version: version ?? null,
          code: code ?? null,
          reason: reason ?? null,
        })),
        active,
        max_concurrent: maxConcurrent,
      });
    },
  );
}

/** OpenAI's shape of embeddings. @throws OctomilError as `Gateway.embed`; `invalid_input` without a model */
export async function embed<Caller>(
  { gateway, groupOf }: InferenceRoutesOptions<Caller>,
  body: Static<typeof EmbeddingsBody>,
  caller: Caller,
  raw: ConstructorParameters<typeof ClientPresence>[0],
): Promise<Record<string, unknown>> {
  const model = body.model_id ?? body.model;
  if (model === undefined) {
    throw new OctomilError('invalid_input', 'model_id is missing', { details: { field: 'model_id' } });
  }
  if (body.dimensions !== undefined && body.dimensions !== null) {
    // Vectors of another length would be taken for those that were asked for.
    throw new OctomilError('invalid_input', 'dimensions is not passed on by this gateway; leave it out', {
      details: { field: 'dimensions' },
    });
  }
  const inputs = typeof body.input === 'string' ? [body.input] : body.input;
  const client = new ClientPresence(raw);
  try {
    const { vectors, promptTokens, provider } = await gateway.embed(model, inputs, client.signal, groupOf?.(caller));
    const tokens = promptTokens ?? Math.ceil(inputs.reduce((sum, input) => sum + input.length, 0) / 4);
    const encode = (vector: readonly number[]) =>
      body.encoding_format === 'base64' ? Buffer.from(new Float32Array(vector).buffer).toString('base64') : vector;
    return {
      object: 'list',
      data: vectors.map((vector, index) => ({ object: 'embedding', index, embedding: encode(vector) })),
      model,
      provider,
      usage: {
        prompt_tokens: tokens,
        total_tokens: tokens,
        ...(promptTokens === undefined ? { estimated: true } : {}),
      },
    };
  } finally {
    client.release();
  }
}

function answerJson(
  { output, provider, finishReason, usage }: SessionAnswer & { readonly output: string },
  session: GenerationSession,
): Record<string, unknown> {
  return {
    output,
    latency_ms: session.latencyMs,
    provider,
    finish_reason: finishReason,
    usage: usageJson(usage),
    session_id: session.id,
  };
}

export function errorJson(error: OctomilError): Record<string, unknown> {
  const { retry, category } = error.entry;
  return {
    code: error.code,
    message: error.reason,
    retryable: retry === 'immediate_safe' || retry === 'backoff_safe',
    category,
    ...(error.details === undefined ? {} : { details: error.details }),
  };
}

/** The results in the order of the items, at most `concurrency` under way at once. */
async function inTurns<T, R>(
  items: readonly T[],
  concurrency: number,
  work: (item: T, index: number) => Promise<R>,
): Promise<R[]> {
  const results: R[] = [];
  const entries = items.entries();
  const worker = async (): Promise<void> => {
    for (const [index, item] of entries) results[index] = await work(item, index);
  };
  await Promise.all(Array.from({ length: Math.min(concurrency, items.length) }, worker));
  return results;
}
