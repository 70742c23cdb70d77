import { afterEach, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { createMetrics, silentLogger, systemClock } from '@octomil/shared/runtime';
import { type App, createApp, registerHealthRoutes } from './index.js';

let app: App;

afterEach(() => app.close());

test('anybody may ask whether the stores answer, and however many do at once, the stores are asked once', async () => {
  const metrics = createMetrics({ processMetrics: false });
  const refused = () => Promise.reject(new OctomilError('invalid_api_key', 'not here'));
  app = await createApp({
    authenticator: { verifyKey: refused, verifyDeviceCredential: refused },
    logger: silentLogger,
    clock: systemClock,
    metrics,
  });
  let asked = 0;
  let answer = Promise.withResolvers<void>();
  const checks = {
    database: async () => undefined,
    objects: () => {
      asked++;
      return answer.promise;
    },
  };
  registerHealthRoutes(app, { checks, metrics, measure: () => undefined });
  const ask = async () => {
    const { statusCode, body } = await app.inject({ method: 'GET', url: '/readyz' });
    return [statusCode, JSON.parse(body)];
  };
  const many = Promise.all(Array.from({ length: 20 }, ask));
  // Answered after those were received: they are handled in order.
  await app.inject({ method: 'GET', url: '/healthz' });
  expect(asked).toBe(1);
  answer.resolve();
  const ready = { status: 'ready', checks: { database: 'ok', objects: 'ok' } };
  expect(await many).toEqual(Array.from({ length: 20 }, () => [200, ready]));
  // Asked anew afterwards.
  answer = Promise.withResolvers();
  answer.reject(new Error('with a secret in it'));
  expect(await ask()).toEqual([503, { status: 'not_ready', checks: { database: 'ok', objects: 'failed' } }]);
  expect(asked).toBe(2);
});
