import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { createMetrics, silentLogger, systemClock } from '@octomil/shared/runtime';
import { type App, createApp } from '../http/index.js';
import type { TrainingEngine } from './engine.js';
import { registerOpenRoutes } from './open-routes.js';

let app: App;
beforeAll(async () => {
  app = await createApp({
    authenticator: {
      verifyKey: async () => {
        throw new OctomilError('invalid_api_key', 'not known');
      },
      // Tokens of this test read `oda_<scope>`.
      verifyDeviceCredential: async (token) => ({ organizationId: 'o', deviceId: 'd', scopes: [token.slice(4)] }),
    },
    logger: silentLogger,
    clock: systemClock,
    metrics: createMetrics({ processMetrics: false }),
  });
  const reached = async (): Promise<never> => {
    throw new OctomilError('not_found', 'reached');
  };
  const open = { store: { device: reached }, updates: { accept: reached }, rounds: { status: reached } };
  registerOpenRoutes(app, { engine: { open } as unknown as TrainingEngine });
});
afterAll(() => app.close());

const update = { model_id: 'm', version: '1', device_id: 'd', weights_data: 'AAAA' };
test.each([
  ['POST', '/weights', update],
  ['POST', '/updates?model_id=m&version=1&device_id=d', undefined],
  ['GET', '/rounds?device_id=d', undefined],
  ['GET', '/rounds/r/status', undefined],
  ['GET', '/personalized/d', undefined],
  ['POST', '/personalized/d', update],
] as const)('%s %s needs a token that was made to train with', async (method, path, payload) => {
  const ask = async (scope: string): Promise<number> => {
    const { statusCode } = await app.inject({
      method,
      url: `/api/v1/training${path}`,
      headers: { authorization: `Bearer oda_${scope}` },
      ...(payload === undefined ? {} : { payload }),
    });
    return statusCode;
  };
  for (const scope of ['devices:heartbeat', 'telemetry:write', 'models:read']) expect(await ask(scope)).toBe(403);
  expect(await ask('devices:write')).toBe(404);
});
