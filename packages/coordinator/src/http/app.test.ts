import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { ERROR_CODES, OctomilError } from '@octomil/shared/errors';
import { type Clock, createMetrics, silentLogger, systemClock } from '@octomil/shared/runtime';
import { Type } from 'typebox';
import { type App, createApp } from './app.js';
import { RateLimits } from './rate-limit.js';
import { type CountStore, SharedCounts } from './shared-counts.js';

/** A clock that stands still until it is told to go on. */
function stoppedClock(): Clock & { nowMs: number; wake(): void } {
  const waiting: (() => void)[] = [];
  return {
    ...systemClock,
    nowMs: 1_000_000_000_000,
    now() {
      return this.nowMs;
    },
    after(_delayMs, callback) {
      waiting.push(callback);
      return () => undefined;
    },
    wake() {
      for (const callback of waiting.splice(0)) callback();
    },
  };
}

async function open(limits?: RateLimits): Promise<App> {
  const app = await createApp({
    authenticator: {
      async verifyKey(key) {
        if (!key.startsWith('good')) throw new OctomilError('invalid_api_key', 'not known');
        return { kind: 'key', organizationId: 'o', keyId: key, scopes: ['admin'] };
      },
      verifyDeviceCredential: async () => ({ organizationId: 'o', deviceId: 'd' }),
    },
    logger: silentLogger,
    clock: systemClock,
    metrics: createMetrics({ processMetrics: false }),
    ...(limits === undefined ? {} : { limits }),
  });
  app.get(
    '/api/v1/models/:id',
    { schema: { summary: 'One', params: Type.Object({ id: Type.String() }) } },
    async ({ params }) => params,
  );
  app.post('/api/v1/models', { schema: { body: Type.Object({ name: Type.String() }) } }, async () => ({}));
  app.get('/public', { config: { access: 'public' } }, async () => ({}));
  return app;
}

const get = (app: App, url: string, key = 'good') => app.inject({ url, headers: { authorization: `Bearer ${key}` } });

describe('failures', () => {
  let app: App;
  beforeAll(async () => {
    app = await open();
  });
  afterAll(() => app.close());

  const json = { authorization: 'Bearer good', 'content-type': 'application/json' };
  test.each([
    ['an unknown route', 404, 'not_found', { url: '/api/v1/nothing' }],
    ['a method that a path does not have', 405, 'method_not_allowed', { method: 'DELETE', url: '/api/v1/models/a' }],
    ['no key', 401, 'unauthorized', { url: '/api/v1/models/a' }],
    ['malformed JSON', 400, 'bad_request', { method: 'POST', url: '/api/v1/models', headers: json, payload: '{"a"' }],
    ['an empty JSON body', 400, 'bad_request', { method: 'POST', url: '/api/v1/models', headers: json, payload: '' }],
    [
      'a field of another type',
      400,
      'bad_request',
      { method: 'POST', url: '/api/v1/models', headers: json, payload: '{"name":[]}' },
    ],
    [
      'a body that is too large',
      413,
      'payload_too_large',
      { method: 'POST', url: '/api/v1/models', headers: json, payload: `"${'a'.repeat(2 ** 20)}"` },
    ],
    [
      'a media type that is not read',
      415,
      'unsupported_media_type',
      { method: 'POST', url: '/api/v1/models', headers: { ...json, 'content-type': 'text/csv' }, payload: 'a,b' },
    ],
    ['an address that cannot be decoded', 400, 'bad_request', { url: '/api/v1/models/%E0%A4%A', headers: json }],
    [
      'an address that is far too long',
      414,
      'uri_too_long',
      { url: `/api/v1/models/${'a'.repeat(13_000)}`, headers: json },
    ],
  ] as const)('%s has the one body', async (_, status, error, request) => {
    const answer = await app.inject(request as never);
    expect(answer.statusCode).toBe(status);
    const body = answer.json();
    expect(body).toMatchObject({
      error,
      retryable: false,
      category: expect.any(String),
      request_id: answer.headers['x-request-id'] ?? body.request_id,
    });
    expect(ERROR_CODES).toHaveProperty(body.code);
    expect(body.detail).toBe(body.message);
    expect(body.message.length).toBeGreaterThan(10);
    expect(answer.body).not.toBe('{"detail":"Not Found"}');
  });

  test('the field is named, and so are the methods that are allowed', async () => {
    const wrong = await app.inject({ method: 'POST', url: '/api/v1/models', headers: json, payload: '{"name":[]}' });
    expect(wrong.json().message).toContain('name');
    const { headers } = await app.inject({ method: 'PUT', url: '/api/v1/models' });
    expect(headers['allow']).toBe('POST');
  });

  test('names in paths may hold spaces, slashes, unicode and a thousand characters', async () => {
    for (const name of ['a b', 'a/b', '心臓 ❤️', '..', 'x'.repeat(1000), '漢'.repeat(1000), '%', '?#&']) {
      const answer = await get(app, `/api/v1/models/${encodeURIComponent(name)}`);
      // A URL takes `..` for the folder above, whoever reads it.
      if (name !== '..') expect(answer.json()).toEqual({ id: name });
      expect(answer.statusCode).toBeLessThan(500);
    }
  });
});

describe('documents', () => {
  test('OpenAPI says who may, what fails and how to repeat; the page loads nothing from elsewhere', async () => {
    const app = await open();
    const document = (await app.inject('/openapi.json')).json();
    const { get: read } = document.paths['/api/v1/models/{id}'];
    expect(read).toMatchObject({ summary: 'One', tags: ['models'], operationId: 'getModelsId' });
    expect(read.responses['200'].description).toBe('Success');
    expect(read.responses.default.content['application/json'].schema.$ref).toBe('#/components/schemas/Error');
    expect(document.components.schemas.Error.properties.code.enum).toContain('rate_limited');
    expect(document.security).toEqual([{ bearer: [] }]);
    expect(document.paths['/public'].get.security).toEqual([]);
    const { post } = document.paths['/api/v1/models'];
    expect(post.parameters).toContainEqual(expect.objectContaining({ name: 'Idempotency-Key', in: 'header' }));

    const page = await app.inject('/docs');
    expect(page.statusCode).toBe(200);
    expect(page.headers['content-type']).toContain('text/html');
    expect(page.headers['content-security-policy']).toContain("default-src 'none'");
    expect(page.headers['content-security-policy']).not.toMatch(/https?:|\.io/);
    const files = [...page.body.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, file]) => file ?? '');
    expect(files.length).toBeGreaterThan(3);
    for (const file of files) {
      expect(file).not.toMatch(/^(https?:)?\/\//);
      expect((await app.inject(new URL(file, 'http://x/docs').pathname)).statusCode).toBe(200);
    }
    const initializer = await app.inject('/docs/static/swagger-initializer.js');
    expect(initializer.body).toContain('/openapi.json');
    await app.close();
  });
});

describe('limits', () => {
  test('a key beyond its rate waits for the next second; another key does not', async () => {
    const clock = stoppedClock();
    const app = await open(new RateLimits({ clock, perSecond: 3 }));
    const statuses = async (key: string, times: number) => {
      const answers = [];
      for (let i = 0; i < times; i++) answers.push(await get(app, '/api/v1/models/a', key));
      return answers;
    };
    const answers = await statuses('good-1', 5);
    expect(answers.map(({ statusCode }) => statusCode)).toEqual([200, 200, 200, 429, 429]);
    expect(answers[4]?.headers['retry-after']).toBe('1');
    expect(answers[4]?.json()).toMatchObject({ error: 'rate_limited', code: 'rate_limited', category: 'network' });
    expect((await statuses('good-2', 1))[0]?.statusCode).toBe(200);
    clock.nowMs += 1000;
    expect((await statuses('good-1', 1))[0]?.statusCode).toBe(200);
    await app.close();
  });

  test('an address that guesses keys waits, but keys known from there go on', async () => {
    const clock = stoppedClock();
    const app = await open(new RateLimits({ clock, perSecond: 100, failuresPerMinute: 3 }));
    const status = async (key: string) => (await get(app, '/api/v1/models/a', key)).statusCode;
    expect(await status('bad')).toBe(401);
    expect(await status('good')).toBe(200);
    expect([await status('bad'), await status('bad'), await status('bad')]).toEqual([401, 401, 429]);
    expect(await status('good')).toBe(200);
    expect(await status('good, but never seen')).toBe(401);
    const refused = await get(app, '/api/v1/models/a', 'good-unseen');
    expect(refused.statusCode).toBe(429);
    expect(Number(refused.headers['retry-after'])).toBeGreaterThan(0);
    clock.nowMs += 60_000;
    expect(await status('good-unseen')).toBe(200);
    await app.close();
  });

  test('a public route that reads keys itself is no way round it', async () => {
    const app = await open(new RateLimits({ clock: stoppedClock(), perSecond: 100, failuresPerMinute: 2 }));
    app.post('/enter', { config: { access: 'public', readsBearer: true } }, async ({ headers }) => {
      if (headers.authorization === 'Bearer good') return {};
      throw new OctomilError('invalid_api_key', 'not known');
    });
    const enter = async (key: string) =>
      (await app.inject({ method: 'POST', url: '/enter', headers: { authorization: `Bearer ${key}` } })).statusCode;
    expect([await enter('bad'), await enter('good'), await enter('bad')]).toEqual([401, 200, 401]);
    expect([await enter('bad'), await enter('good')]).toEqual([429, 200]);
    await app.close();
  });

  test('coordinators add up what they counted, and go on alone without a store', async () => {
    const totals = new Map<string, number>();
    let away = false;
    const store: CountStore = {
      async addAll(counts) {
        if (away) throw new OctomilError('network_unavailable', 'gone');
        return counts.map(([name, by]) => {
          totals.set(name, (totals.get(name) ?? 0) + by);
          return totals.get(name) ?? 0;
        });
      },
    };
    const clock = stoppedClock();
    const make = () =>
      new RateLimits({ clock, perSecond: 10, shared: new SharedCounts({ store, clock, logger: silentLogger }) });
    const [one, two] = [make(), make()];
    const exchange = async () => {
      clock.wake();
      await new Promise(setImmediate);
    };
    for (let i = 0; i < 6; i++) one.count('key');
    await exchange();
    two.count('key');
    await exchange();
    for (let i = 0; i < 3; i++) two.count('key');
    expect(() => two.count('key')).toThrow('rate_limited');
    away = true;
    clock.nowMs += 1000;
    for (let i = 0; i < 10; i++) two.count('key');
    await exchange();
    expect(() => two.count('key')).toThrow('rate_limited');
  });
});
