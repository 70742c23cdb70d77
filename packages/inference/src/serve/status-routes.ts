import type { Clock, Metrics } from '@octomil/shared/runtime';
import type { FastifyRequest } from 'fastify';
import type { RouteHost } from '../gateway/route-host.js';
import type { ModelHost } from './model-host.js';
import type { Predictor } from './predictor.js';

/** Signals of a server of models, besides those that every process has. */
const SIGNALS = {
  pending: ['octomil_serve_queue_pending', 'Requests that wait for a turn.', 'gauge'],
  active: ['octomil_serve_queue_active', 'Requests that run.', 'gauge'],
  requests: ['octomil_serve_requests_total', 'Generations and embeddings asked for.', 'counter'],
  restarts: ['octomil_serve_engine_restarts_total', 'Times that an engine process was started anew.', 'counter'],
  rssBytes: ['octomil_serve_engine_resident_bytes', 'Memory of an engine process.', 'gauge'],
} as const;

export interface StatusOptions {
  readonly host: ModelHost;
  readonly predictor: Predictor | undefined;
  readonly metrics: Metrics;
  readonly clock: Clock;
  /** Who may know more than whether the server is well. */
  readonly mayKnow: (request: FastifyRequest) => boolean;
}

/** How the server is: for people, for load balancers, and for Prometheus. */
export function registerStatusRoutes(
  app: RouteHost,
  { host, predictor, metrics, clock, mayKnow }: StatusOptions,
): void {
  const tags = ['status'];
  const startedAtMs = clock.now();

  app.get('/health', { schema: { tags, summary: 'Whether models are ready' } }, async (request) => {
    const models = host.all;
    const [first] = models;
    const states = models.map((model) => model.health.state);
    const status = states.includes('failed') ? 'degraded' : 'ok';
    if (!mayKnow(request)) return { status };
    const requests = models.reduce((sum, model) => sum + model.requests, 0);
    return {
      status,
      model: first?.name ?? null,
      engine: first?.engineName ?? 'tfjs',
      backend: first?.engineName ?? 'tfjs',
      requests_served: requests,
      uptime_seconds: Math.floor((clock.now() - startedAtMs) / 1_000),
      cache: { enabled: true },
      ...(models.length > 1
        ? { mode: 'multi-model', strategy: 'complexity', fallback_count: host.fallbacks }
        : { mode: 'single-model' }),
      models: Object.fromEntries(
        models.map((model) => [
          model.name,
          { engine: model.engineName, requests: model.requests, ...healthJson(model.health) },
        ]),
      ),
      ...(predictor === undefined ? {} : { deployed: await predictor.models() }),
    };
  });

  app.get('/v1/queue/stats', { schema: { tags, summary: 'Requests that wait and that run' } }, () => {
    const stats = host.all.map((model) => ({ name: model.name, ...model.queueStats }));
    const total = (key: 'pending' | 'active' | 'maxDepth'): number => stats.reduce((sum, one) => sum + one[key], 0);
    return {
      pending: total('pending'),
      active: total('active'),
      max_depth: total('maxDepth'),
      enabled: true,
      models: Object.fromEntries(
        stats.map(({ name, pending, active, maxDepth }) => [name, { pending, active, max_depth: maxDepth }]),
      ),
    };
  });

  app.get('/v1/routing/stats', { schema: { tags, summary: 'What the router chose' } }, () => {
    const counts = Object.fromEntries(host.routed);
    return {
      total_requests: Object.values(counts).reduce((sum, count) => sum + count, 0),
      routed_counts: counts,
      fallback_count: host.fallbacks,
      models: host.all.map(({ name }) => name),
      strategy: 'complexity',
    };
  });

  app.get('/metrics', { schema: { tags, summary: 'Figures for Prometheus' } }, async (_request, reply) =>
    reply.type(metrics.contentType).send(`${await metrics.render()}\n${renderModels(host)}`),
  );
}

function renderModels(host: ModelHost): string {
  const values = host.all.map((model) => {
    const health = model.health;
    return {
      model: model.name,
      pending: model.queueStats.pending,
      active: model.queueStats.active,
      requests: model.requests,
      restarts: 'restarts' in health ? health.restarts : 0,
      rssBytes: 'rssBytes' in health ? (health.rssBytes ?? 0) : 0,
    };
  });
  const lines = (Object.keys(SIGNALS) as (keyof typeof SIGNALS)[]).flatMap((key) => {
    const [name, help, kind] = SIGNALS[key];
    const label = (model: string): string => model.replaceAll(/[\\"]/g, '\\$&').replaceAll('\n', '\\n');
    return [
      `# HELP ${name} ${help}`,
      `# TYPE ${name} ${kind}`,
      ...values.map((value) => `${name}{model="${label(value.model)}"} ${value[key]}`),
    ];
  });
  return `${lines.join('\n')}\n`;
}

function healthJson(health: ModelHost['all'][number]['health']): object {
  if (!('restarts' in health)) return { state: health.state };
  const { state, rssBytes, restarts, reason } = health;
  return {
    state,
    restarts,
    ...(rssBytes === undefined ? {} : { rss_bytes: rssBytes }),
    ...(reason === undefined ? {} : { reason }),
  };
}
