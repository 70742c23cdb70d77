import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import type { FastifyReply } from 'fastify';
import type { FinishReason, GenerationRequest } from '../engine/index.js';
import { ClientPresence, EventStream } from '../gateway/event-stream.js';
import { type RouteHost, validatorCompiler } from '../gateway/route-host.js';
import { noteRoute } from './completion-answer.js';
import { type Audience, runCompletion } from './completion-run.js';
import type { ModelHost, Route } from './model-host.js';
import { ReaderGate } from './reader-gate.js';
import { type AskedResponse, type GivenResponse, ResponseBody, readResponse } from './response-fields.js';
import { ResponseWriter } from './response-writer.js';
import { setSpeculative } from './routed-headers.js';
import { generationRequests } from './sampling.js';

interface ResponseCall {
  readonly body: GivenResponse;
  readonly route: Route;
  readonly requests: readonly GenerationRequest[];
  readonly host: ModelHost;
  readonly clock: Clock;
  readonly reply: FastifyReply;
}

/** OpenAI's responses: text, JSON and calls of functions, whole or as events. Nothing of them is kept. */
export function registerResponseRoutes(app: RouteHost, host: ModelHost, clock: Clock): void {
  const tags = ['inference'];
  app.post(
    '/v1/responses',
    {
      validatorCompiler,
      schema: { tags, summary: 'Answer a conversation, as a response with items', body: ResponseBody },
    },
    (request, reply) => {
      const body = request.body as GivenResponse;
      const asked = readResponse(body);
      const route = host.route(body.model, asked.messages, false);
      const call = { body, route, requests: requestsOf(asked), host, clock, reply };
      return body.stream === true ? answerStreaming(call) : answerWhole(call);
    },
  );
  app.get('/v1/responses/:id', { schema: { tags, summary: 'Never there: responses are not kept' } }, () => {
    throw new OctomilError('not_found', 'responses are not kept by this server');
  });
}

/** @throws OctomilError `invalid_input` for a format that cannot be held to, by its name in this protocol */
function requestsOf({ messages, sampling }: AskedResponse): GenerationRequest[] {
  try {
    return generationRequests([{ messages }], 1, sampling);
  } catch (error) {
    if (!(error instanceof OctomilError) || error.details?.['field'] !== 'response_format') throw error;
    throw new OctomilError(error.code, error.reason.replace(/^response_format/, 'text.format'), {
      cause: error,
      details: { ...error.details, field: 'text.format' },
    });
  }
}

async function answerWhole({ body, route, requests, host, clock, reply }: ResponseCall): Promise<object> {
  const client = new ClientPresence(reply.raw);
  let writer: ResponseWriter | undefined;
  let reason = 'stop' as FinishReason;
  const audience: Audience = {
    begun: false,
    start: (model) => {
      writer = new ResponseWriter(body, model.name, clock.now());
    },
    say: (_choice, said) => {
      writer?.hear(said);
      return undefined;
    },
    finish: (_choice, why) => {
      reason = why;
      writer?.end(why);
    },
  };
  try {
    const result = await runCompletion(route.models, requests, audience, client.signal);
    noteRoute({ route, reply, host }, result.model);
    if (result.fellBack) {
      host.fallbacks += 1;
      reply.header('x-octomil-fallback', 'true');
    }
    setSpeculative(reply, result);
    const status = reason === 'length' ? 'incomplete' : 'completed';
    return writer?.json(status, { usage: result.usage, nowMs: clock.now() }) ?? {};
  } finally {
    client.release();
  }
}

async function answerStreaming({ body, route, requests, host, clock, reply }: ResponseCall): Promise<FastifyReply> {
  const stream = new EventStream(reply, clock);
  const gate = new ReaderGate(stream.signal);
  let writer = new ResponseWriter(body, body.model, clock.now());
  let heard = false;
  let reason = 'stop' as FinishReason;
  const write = (events: () => string): Promise<void> | undefined => {
    const opening = heard ? '' : writer.begin();
    heard = true;
    stream.write(opening + events(), gate);
    return gate.open;
  };
  const audience: Audience = {
    get begun() {
      return heard;
    },
    start: (model) => {
      writer = new ResponseWriter(body, model.name, clock.now());
      if (stream.begun) return;
      noteRoute({ route, reply, host }, model);
      setSpeculative(reply, model);
      if (model !== route.models[0]) reply.header('x-octomil-fallback', 'true');
    },
    say: (_choice, said) => write(() => writer.hear(said)),
    finish: (_choice, why) => {
      reason = why;
      void write(() => writer.end(why));
    },
  };
  try {
    const result = await runCompletion(route.models, requests, audience, stream.signal);
    if (result.fellBack) host.fallbacks += 1;
    stream.end(writer.finish(reason, result.usage, clock.now()));
  } catch (thrown) {
    const error = toOctomilError(thrown, 'inference_failed');
    if (!stream.begun) {
      stream.close();
      throw error;
    }
    stream.end((heard ? '' : writer.begin()) + writer.fail(error));
  }
  return reply;
}
