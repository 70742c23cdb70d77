import { randomUUID } from 'node:crypto';
import type { AddressInfo } from 'node:net';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { type Clock, createMetrics, type Logger, silentLogger, systemClock } from '@octomil/shared/runtime';
import { type FastifyRequest, fastify } from 'fastify';
import { type GenerationEngine, LlamaEngine } from '../engine/index.js';
import { answerOpenAiError, openAiErrorBody } from '../gateway/openai-error.js';
import { MAX_BODY_BYTES } from '../gateway/route-host.js';
import type { RoutingPolicy } from '../routing/index.js';
import { accessHook, checkAccess, holdsKey } from './access.js';
import { registerCompletionRoutes } from './completion-routes.js';
import { ModelHost } from './model-host.js';
import type { ServedModelSource, ServedModels } from './models-file.js';
import { registerOllamaRoutes } from './ollama-routes.js';
import { registerPredictRoutes } from './predict-routes.js';
import type { Predictor } from './predictor.js';
import { registerResponseRoutes } from './response-routes.js';
import { ServedModel } from './served-model.js';
import { registerStatusRoutes } from './status-routes.js';

export interface ServeOptions {
  /** By the names that requests give; from small to large. */
  readonly models: ServedModels;
  /** Serves the registry's own models at `/v1/predict`; stopped with the server. */
  readonly predictor?: Predictor;
  /** Default 127.0.0.1. Elsewhere a key is required. */
  readonly host?: string;
  /** Default 8080; 0 picks a free one. */
  readonly port?: number;
  readonly apiKey?: string | undefined;
  /** Names besides this machine's own under which it may be addressed. */
  readonly allowedHosts?: readonly string[];
  /** Web pages that may ask. Default: none. */
  readonly corsOrigins?: readonly string[];
  /** Requests that may wait for a model; more are refused with 429. Default 32. */
  readonly maxQueueDepth?: number;
  /** The longest wait for a turn. Default 60,000. */
  readonly queueTimeoutMs?: number;
  /** Loads all models at once. Default: a single model is loaded at once, several with their first requests. */
  readonly preload?: boolean;
  /** A model is taken out of memory after this long without a request. Default: never. */
  readonly idleUnloadMs?: number;
  /** For `model: "auto"`: scores from which on the balanced and the quality tier answer. */
  readonly thresholds?: readonly [number, number];
  /** A policy that a server supplies; asked at every decision. */
  readonly policy?: () => RoutingPolicy;
  readonly clock?: Clock;
  readonly logger?: Logger;
  /** Default: llama.cpp. */
  readonly openEngine?: (source: ServedModelSource) => GenerationEngine;
}

export interface Serve {
  /** Such as `http://127.0.0.1:8080`. */
  readonly url: string;
  /** Ends what runs, and the engines. Safe to repeat. */
  stop(): Promise<void>;
}

/**
 * Starts a server that OpenAI's clients know how to talk to, for models on this machine. A model that cannot be loaded
 * does not keep it from starting: requests for it hear why, and it is tried again.
 *
 * @throws OctomilError `config_invalid` without a model, or without a key on an address that others reach; `port_in_use`
 */
export async function startServe(options: ServeOptions): Promise<Serve> {
  const { host = '127.0.0.1', port = 8080, clock = systemClock, logger = silentLogger, predictor, apiKey } = options;
  const access = { host, apiKey, allowedHosts: options.allowedHosts ?? [], corsOrigins: options.corsOrigins ?? [] };
  checkAccess(access);
  const models = servedModels(options, clock, logger);
  if (models.length === 0 && predictor === undefined) {
    throw new OctomilError(
      'config_invalid',
      'there is nothing to serve: name a model, or the state folder of an agent',
    );
  }
  const modelHost = new ModelHost(models, {
    ...(options.thresholds === undefined ? {} : { thresholds: options.thresholds }),
    ...(options.policy === undefined ? {} : { policy: options.policy }),
  });
  const metrics = createMetrics({ processMetrics: true });

  const app = fastify({ bodyLimit: MAX_BODY_BYTES, genReqId: () => randomUUID(), forceCloseConnections: true });
  // What a web page may send without asking is not read.
  app.removeContentTypeParser('text/plain');
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id);
  });
  app.addHook('onRequest', accessHook(access));
  app.addHook('onResponse', async (request, reply) => {
    metrics.observe(
      'httpRequestSeconds',
      { method: request.method, route: request.routeOptions.url ?? 'none', status: String(reply.statusCode) },
      reply.elapsedTime / 1_000,
    );
  });
  app.setErrorHandler((thrown, request, reply) => {
    if (toOctomilError(thrown).code === 'internal') {
      logger.error({ error: thrown, requestId: request.id, route: request.routeOptions.url }, 'a request failed');
    }
    return answerOpenAiError(thrown, request, reply);
  });
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?', 1)[0]?.slice(0, 200) ?? '';
    const error = new OctomilError('not_found', `there is no ${request.method} ${path} here`);
    return reply.code(404).send(openAiErrorBody(error));
  });
  registerCompletionRoutes(app, modelHost, clock);
  registerResponseRoutes(app, modelHost, clock);
  registerOllamaRoutes(app, modelHost, clock);
  registerPredictRoutes(app, predictor);
  const mayKnow = (request: FastifyRequest): boolean => holdsKey(access, request);
  registerStatusRoutes(app, { host: modelHost, predictor, metrics, clock, mayKnow });

  const stopModels = async (): Promise<void> => {
    await modelHost.stop();
    await predictor?.stop();
  };
  try {
    await app.listen({ host, port });
  } catch (error) {
    await stopModels();
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw toOctomilError(error);
    const reason = `port ${port} on ${host} is in use; stop what uses it, or choose another (octomil serve --port; 0: a free one)`;
    throw new OctomilError('port_in_use', reason, { cause: error });
  }
  if (options.preload ?? models.length === 1) for (const model of models) model.load();
  const address = app.server.address() as AddressInfo;
  const name = address.family === 'IPv6' ? `[${address.address}]` : address.address;
  let stopping: Promise<void> | undefined;
  return {
    url: `http://${name}:${address.port}`,
    stop: () => {
      stopping ??= Promise.all([stopModels(), app.close()]).then(() => undefined);
      return stopping;
    },
  };
}

function servedModels(options: ServeOptions, clock: Clock, logger: Logger): ServedModel[] {
  const openEngine =
    options.openEngine ??
    ((source: ServedModelSource): GenerationEngine =>
      new LlamaEngine({ ...engineOptions(source), modelPath: source.path, clock, logger }));
  return Object.entries(options.models).map(
    ([name, source]) =>
      new ServedModel(name, {
        source,
        openEngine,
        queue: { maxDepth: options.maxQueueDepth ?? 32, timeoutMs: options.queueTimeoutMs ?? 60_000 },
        idleUnloadMs: options.idleUnloadMs,
        clock,
      }),
  );
}

function engineOptions({ path: _, tier: __, paramB: ___, ...options }: ServedModelSource): object {
  return options;
}
