import { OctomilError } from '@octomil/shared/errors';
import type { Metrics } from '@octomil/shared/runtime';
import type { App } from './app.js';

export interface HealthChecks {
  /** Each throws or rejects when what it looks at does not work. */
  readonly checks: Readonly<Record<string, () => Promise<void>>>;
  readonly metrics: Metrics;
  /** Sets what is counted only when somebody looks. */
  readonly measure: () => void;
}

/** A check that takes longer is a failed one. */
const CHECK_TIMEOUT_MS = 5_000;

/** `/healthz`: the process answers. `/readyz`: so do its stores. `/metrics`: Prometheus. */
export function registerHealthRoutes(app: App, { checks, metrics, measure }: HealthChecks): void {
  const config = { access: 'public' } as const;
  app.get('/healthz', { config, schema: { summary: 'Whether the process answers' } }, async () => ({ status: 'ok' }));
  // Anybody may ask, and a check costs a write to the store: who asks during one is answered by it.
  let looking: Promise<(readonly [name: string, result: string])[]> | undefined;
  const look = () =>
    Promise.all(Object.entries(checks).map(async ([name, check]) => [name, await outcome(check)] as const));
  app.get('/readyz', { config, schema: { summary: 'Whether its stores answer too' } }, async (_request, reply) => {
    looking ??= look().finally(() => {
      looking = undefined;
    });
    const results = await looking;
    const ready = results.every(([, result]) => result === 'ok');
    return reply
      .code(ready ? 200 : 503)
      .send({ status: ready ? 'ready' : 'not_ready', checks: Object.fromEntries(results) });
  });
  app.get('/metrics', { config, schema: { hide: true } }, async (_request, reply) => {
    measure();
    return reply.type(metrics.contentType).send(await metrics.render());
  });
  // What the published clients probe after sign-in: it tells a good key from a bad one.
  app.get('/api/v1/health', { schema: { summary: 'Whether the key is good', tags: ['system'] } }, async () => ({
    status: 'ok',
  }));
}

async function outcome(check: () => Promise<void>): Promise<string> {
  const { promise: expired, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new OctomilError('request_timeout', 'no answer')), CHECK_TIMEOUT_MS);
  try {
    await Promise.race([check(), expired]);
    return 'ok';
  } catch (error) {
    // Public: the code alone, never what a driver says.
    return error instanceof OctomilError ? error.code : 'failed';
  } finally {
    clearTimeout(timer);
  }
}
