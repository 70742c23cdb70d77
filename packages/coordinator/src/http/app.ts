import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import formbody from '@fastify/formbody';
import { type TypeBoxTypeProvider, TypeBoxValidatorCompiler } from '@fastify/type-provider-typebox';
import type { Clock, Logger, Metrics } from '@octomil/shared/runtime';
import Fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  type RawServerBase,
} from 'fastify';
import { rememberMethods } from './allowed-methods.js';
import { checkAddress, checkBodyShape } from './body-shape.js';
import { answerError, answerMissingRoute } from './error-answer.js';
import { registerOpenApi } from './openapi.js';
import { type Authenticator, registerPrincipal } from './principal.js';
import { RateLimits } from './rate-limit.js';
import { registerOutcomeRecorders } from './recorded-change.js';

/** The REST application, with TypeBox schemas typed in handlers. */
export type App = FastifyInstance<
  RawServerBase,
  IncomingMessage,
  ServerResponse,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>;

export interface AppOptions {
  readonly authenticator: Authenticator;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly metrics: Metrics;
  /** Default: none. */
  readonly limits?: RateLimits;
  /**
   * Addresses or networks of proxies, separated by commas, whose `X-Forwarded-For` is believed. Default: none, and a
   * caller's address is the one that connects.
   */
  readonly trustedProxies?: string;
  /** PEM texts; plain HTTP without them. */
  readonly tls?: { readonly cert: string | Buffer; readonly key: string | Buffer };
}

/** Names of models in paths, percent-encoded: three bytes for most letters, nine characters each. */
const MAX_PARAM_CHARACTERS = 12_000;
/** JSON and form bodies; raw bytes are streams with limits of their own. */
const MAX_BODY_BYTES = 1024 * 1024;
/** A caller's own request id is kept when it is harmless in a log. */
const REQUEST_ID = /^[A-Za-z0-9._-]{1,64}$/;

/**
 * Makes the application without routes: errors, principals, request ids, limits, metrics, OpenAPI at `/openapi.json`
 * and its page at `/docs`.
 *
 * Every route needs a principal unless its `config` says `access: 'public'`. `application/octet-stream` bodies arrive
 * as streams in `request.body`, unread and without a limit.
 */
export async function createApp(options: AppOptions): Promise<App> {
  const { authenticator, logger, clock, metrics, trustedProxies, tls } = options;
  const limits = options.limits ?? new RateLimits({ clock, perSecond: 0 });
  const settings = {
    bodyLimit: MAX_BODY_BYTES,
    genReqId: (request: IncomingMessage) => {
      const given = request.headers['x-request-id'];
      return typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID();
    },
    routerOptions: { maxParamLength: MAX_PARAM_CHARACTERS },
    // Addresses that cannot be decoded; without this they would be answered in Fastify's own shape.
    frameworkErrors: (error: unknown, request: FastifyRequest, reply: FastifyReply) => {
      void answerError(error, request, reply, logger);
    },
    ...(trustedProxies === undefined ? {} : { trustProxy: trustedProxies }),
    // Open event streams and idle connections must not hold up a stop.
    forceCloseConnections: true,
    logger: false as const,
  };
  const bare = (tls === undefined ? Fastify(settings) : Fastify({ ...settings, https: { ...tls } })) as FastifyInstance<
    RawServerBase,
    IncomingMessage,
    ServerResponse
  >;
  const app: App = bare.setValidatorCompiler(TypeBoxValidatorCompiler).withTypeProvider<TypeBoxTypeProvider>();
  // Answers are ours already: they are sent as they are, rather than cut down to what a schema names.
  app.setSerializerCompiler(() => (value) => JSON.stringify(value));
  app.setErrorHandler((error, request, reply) => answerError(error, request, reply, logger));
  const methodsOf = rememberMethods(app);
  app.setNotFoundHandler((request, reply) => answerMissingRoute(request, reply, methodsOf));
  app.addContentTypeParser('application/octet-stream', (_request, payload, done) => done(null, payload));
  await app.register(formbody, { bodyLimit: MAX_BODY_BYTES });
  app.addHook('onRequest', async (request, reply) => {
    request.startedAtMs = clock.now();
    reply.header('x-request-id', request.id);
  });
  app.decorateRequest('startedAtMs', 0);
  app.decorateRequest('mayRepeat', false);
  registerPrincipal(app, authenticator, limits);
  registerOutcomeRecorders(app);
  app.addHook('preValidation', async ({ url, body }) => {
    checkAddress(url);
    // Raw bytes are a stream, and not looked at here.
    if (!(body instanceof Readable)) checkBodyShape(body);
  });
  app.addHook('onResponse', async (request, reply) => {
    const route = request.routeOptions.url ?? 'none';
    const labels = { method: request.method, route, status: String(reply.statusCode) };
    metrics.observe('httpRequestSeconds', labels, (clock.now() - request.startedAtMs) / 1000);
    logger.debug({ requestId: request.id, ...labels }, 'answered a request');
  });
  await registerOpenApi(app);
  return app;
}

declare module 'fastify' {
  interface FastifyRequest {
    startedAtMs: number;
    /** It failed in a way that may be over when it is sent again as it is. */
    mayRepeat: boolean;
  }
}
