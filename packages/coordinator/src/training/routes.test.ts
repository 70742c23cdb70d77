import { expect, test } from '@jest/globals';
import { createMetrics, type Logger, silentLogger, systemClock } from '@octomil/shared/runtime';
import { createApp } from '../http/index.js';
import type { TrainingEngine } from './engine.js';
import { registerTrainingRoutes } from './routes.js';

test('why a stream of events broke is in the log', async () => {
  const errors: [object, string][] = [];
  const logger: Logger = { ...silentLogger, error: (fields, message) => errors.push([fields, message]) };
  const app = await createApp({
    authenticator: {
      verifyKey: async () => ({ kind: 'key', organizationId: 'o', keyId: 'k', scopes: ['training:read'] }),
      verifyDeviceCredential: () => Promise.reject(new Error('no device asks')),
    },
    logger: silentLogger,
    clock: systemClock,
    metrics: createMetrics({ processMetrics: false }),
  });
  const lost = new Error('the database went away');
  const engine = {
    clock: systemClock,
    store: { findSessions: async () => [{ id: 's', organizationId: 'o' }] },
    events: { read: () => Promise.reject(lost), follow: () => () => undefined },
  } as unknown as TrainingEngine;
  registerTrainingRoutes(app, { engine, logger });
  try {
    const url = await app.listen({ host: '127.0.0.1', port: 0 });
    const headers = { authorization: 'Bearer edg_key' };
    const response = await fetch(`${url}/api/v1/training/sessions/s/events`, { headers });
    expect(response.status).toBe(200);
    await response.text();
    expect(errors).toEqual([[{ error: lost, sessionId: 's' }, expect.stringContaining('events')]]);
  } finally {
    await app.close();
  }
});
