import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { createMetrics, silentLogger, systemClock } from '@octomil/shared/runtime';
import { type App, createApp } from './app.js';

let app: App;
beforeAll(async () => {
  const refuse = async (): Promise<never> => {
    throw new OctomilError('invalid_api_key', 'not known');
  };
  app = await createApp({
    authenticator: { verifyKey: refuse, verifyDeviceCredential: refuse },
    logger: silentLogger,
    clock: systemClock,
    metrics: createMetrics({ processMetrics: false }),
  });
  app.post('/echo/:name', { config: { access: 'public' } }, async ({ body, params }) => ({ body, params }));
});
afterAll(() => app.close());

const post = (payload: string, url = '/echo/x') =>
  app.inject({ method: 'POST', url, payload, headers: { 'content-type': 'application/json' } });
const nested = (depth: number) => `${'['.repeat(depth)}${']'.repeat(depth)}`;

test('a body that nests too deep is refused before anybody walks it', async () => {
  expect((await post(nested(100))).statusCode).toBe(200);
  const refused = await post(nested(200_000));
  expect(refused.statusCode).toBe(400);
  expect(refused.json()).toMatchObject({ code: 'invalid_input', message: expect.stringContaining('100 levels') });
});

test.each([
  ['a value', '{"name":["a\\u0000"]}', '/echo/x'],
  ['a key', '{"a\\u0000":1}', '/echo/x'],
  ['the address', '{}', '/echo/a%00b'],
])('NUL in %s is the fault of who sent it', async (_, payload, url) => {
  const refused = await post(payload, url);
  expect(refused.statusCode).toBe(400);
  expect(refused.json()).toMatchObject({ code: 'invalid_input', message: expect.stringContaining('NUL') });
});

test.each(['{"name":["a\\ud800"]}', '{"\\udc00":1}'])('half a character is no text: %s', async (payload) => {
  const refused = await post(payload);
  expect(refused.statusCode).toBe(400);
  expect(refused.json()).toMatchObject({ code: 'invalid_input', message: expect.stringContaining('surrogate') });
  expect((await post('{"name":"a\\ud83d\\ude00"}')).statusCode).toBe(200);
});

test('a part of an address may be as long as a signed upload address', async () => {
  expect((await post('{}', `/echo/${'a'.repeat(600)}`)).statusCode).toBe(200);
});
