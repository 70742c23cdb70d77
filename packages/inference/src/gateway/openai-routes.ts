import { toOctomilError } from '@octomil/shared/errors';
import type { Static } from 'typebox';
import { ChatCompletionBody, readChatCompletion } from './chat-request.js';
import { ClientPresence, EventStream } from './event-stream.js';
import { EmbeddingsBody, embed } from './inference-routes.js';
import { answerOpenAiError, openAiErrorBody } from './openai-error.js';
import { type InferenceRoutesOptions, MAX_BODY_BYTES, type RouteHost, validatorCompiler } from './route-host.js';
import { GenerationSession, usageJson } from './session.js';

const tags = ['inference'];

/** The gateway as OpenAI's clients know such servers: chat completions, embeddings and models under `/v1`. */
export function registerOpenAiRoutes<Caller>(app: RouteHost, options: InferenceRoutesOptions<Caller>): void {
  const { gateway, clock, authorize, recordEvent } = options;
  const errorHandler = answerOpenAiError;
  const common = {
    config: { audit: false, idempotent: false },
    validatorCompiler,
    bodyLimit: MAX_BODY_BYTES,
    errorHandler,
  } as const;

  for (const path of ['/v1/chat/completions', '/api/v1/cloud/chat/completions']) {
    app.post(
      path,
      {
        ...common,
        schema: { tags, summary: 'Answer a conversation, in the shape of OpenAI', body: ChatCompletionBody },
      },
      async (request, reply) => {
        const caller = authorize(request);
        const body = request.body as Static<typeof ChatCompletionBody>;
        const session = new GenerationSession(readChatCompletion(body), {
          gateway,
          clock,
          caller: options.groupOf?.(caller),
          record: (event) => recordEvent(caller, event),
        });
        const common = { id: `chatcmpl-${session.id}`, created: Math.floor(clock.now() / 1000), model: body.model };
        if (body.stream !== true) {
          const client = new ClientPresence(reply.raw);
          let content = '';
          const calls: { id: string; type: 'function'; function: { name: string; arguments: string } }[] = [];
          try {
            const { finishReason, usage } = await session.run({
              signal: client.signal,
              streaming: false,
              onTexts: (texts) => {
                content += texts.join('');
              },
              onCalls: (pieces) => {
                for (const piece of pieces) {
                  calls[piece.index] ??= {
                    id: piece.id ?? '',
                    type: 'function',
                    function: { name: '', arguments: '' },
                  };
                  const own = calls[piece.index]?.function;
                  if (own === undefined) continue;
                  own.name ||= piece.name ?? '';
                  own.arguments += piece.arguments;
                }
              },
            });
            const called = calls.filter((call) => call !== undefined);
            const message = {
              role: 'assistant',
              content: called.length > 0 && content === '' ? null : content,
              ...(called.length === 0 ? {} : { tool_calls: called }),
            };
            const choice = { index: 0, message, finish_reason: finishReason };
            return { ...common, object: 'chat.completion', choices: [choice], usage: usageJson(usage) };
          } finally {
            client.release();
          }
        }
        const stream = new EventStream(reply, clock);
        const withUsage = body.stream_options?.include_usage === true;
        const chunk = (choices: readonly object[], usage: object | null = null): string =>
          `data: ${JSON.stringify({
            ...common,
            object: 'chat.completion.chunk',
            choices,
            ...(withUsage ? { usage } : {}),
          })}\n\n`;
        // Some clients refuse a first delta without a role.
        let first = chunk([{ index: 0, delta: { role: 'assistant', content: '' }, finish_reason: null }]);
        try {
          const { finishReason, usage } = await session.run({
            signal: stream.signal,
            streaming: true,
            onTexts: (texts, _provider, flow) => {
              let events = first;
              first = '';
              for (const content of texts) events += chunk([{ index: 0, delta: { content }, finish_reason: null }]);
              stream.write(events, flow);
            },
            onCalls: (pieces, _provider, flow) => {
              const tools = pieces.map(({ index, id, name, arguments: given }) => ({
                index,
                ...(id === undefined ? {} : { id, type: 'function' }),
                function: { ...(name === undefined ? {} : { name }), arguments: given },
              }));
              const opening = first;
              first = '';
              stream.write(opening + chunk([{ index: 0, delta: { tool_calls: tools }, finish_reason: null }]), flow);
            },
          });
          const last = chunk([{ index: 0, delta: {}, finish_reason: finishReason }]);
          stream.end(`${first}${last}${withUsage ? chunk([], usageJson(usage)) : ''}data: [DONE]\n\n`);
        } catch (thrown) {
          const error = toOctomilError(thrown);
          if (!stream.begun) {
            stream.close();
            throw error;
          }
          stream.end(`data: ${JSON.stringify(openAiErrorBody(error))}\n\n`);
        }
        return reply;
      },
    );
  }

  app.post(
    '/v1/embeddings',
    { ...common, schema: { tags, summary: 'Vectors of one text or of many', body: EmbeddingsBody } },
    async (request, reply) =>
      embed(options, request.body as Static<typeof EmbeddingsBody>, authorize(request), reply.raw),
  );

  app.get('/v1/models', { errorHandler, schema: { tags, summary: 'Models of the backends' } }, async (request) => {
    authorize(request);
    const models = await gateway.models();
    return {
      object: 'list',
      data: models.map(({ id, provider }) => ({ id, object: 'model', created: 0, owned_by: provider })),
    };
  });
}
