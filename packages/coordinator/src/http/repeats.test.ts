import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { silentLogger } from '@octomil/shared/runtime';
import { type Coordinator, startCoordinator } from '../start-coordinator.js';
import { testDatabaseDump } from '../testing/index.js';

type Json = Record<string, unknown>;
let coordinator: Coordinator;
let admin: string;

beforeAll(async () => {
  coordinator = await startCoordinator({
    database: 'memory',
    databaseDump: await testDatabaseDump(),
    logger: silentLogger,
  });
  admin = coordinator.bootstrapApiKey ?? '';
}, 240_000);
afterAll(() => coordinator.stop());

async function send(method: string, path: string, body?: Json | URLSearchParams, headers: Json = {}) {
  const response = await fetch(path.startsWith('http') ? path : `${coordinator.restUrl}/api/v1${path}`, {
    method,
    headers: {
      authorization: `Bearer ${admin}`,
      ...(body === undefined || body instanceof URLSearchParams ? {} : { 'content-type': 'application/json' }),
      ...(headers as Record<string, string>),
    },
    ...(body === undefined ? {} : { body: body instanceof URLSearchParams ? body : JSON.stringify(body) }),
  });
  return { status: response.status, body: (await response.json()) as Json };
}

/** Sends the same three times, as published clients do after lost answers: without a key. */
async function thrice(path: string, body: Json | URLSearchParams = {}) {
  return [await send('POST', path, body), await send('POST', path, body), await send('POST', path, body)] as const;
}

const count = async (path: string, field: string): Promise<number> => {
  const { body } = await send('GET', path);
  return ((Array.isArray(body) ? body : body[field]) as unknown[]).length;
};

test.each([
  ['/models', { name: 'heart' }, 'models', 'model_id'],
  ['/federations', { name: 'north' }, 'federations', 'federation_id'],
  ['/organizations', { name: 'other' }, 'organizations', 'org_id'],
])('making the same at %s again names the one there is', async (path, body, field, idField) => {
  const before = await count(path, field);
  const [first, second, third] = await thrice(path, body);
  expect([first.status, second.status, third.status]).toEqual([201, 409, 409]);
  expect(third.body).toMatchObject({ code: 'conflict', details: { [idField]: first.body['id'] } });
  expect(await count(path, field)).toBe(before + 1);
});

test('a device is registered once, and a model is ensured once', async () => {
  const devices = await thrice('/devices/register', { device_identifier: 'laptop-1' });
  expect(new Set(devices.map(({ body }) => body['id'])).size).toBe(1);
  expect(await count('/devices', 'devices')).toBe(1);
  const models = await thrice('/models/ensure', { name: 'lung' });
  expect(models.map(({ status }) => status)).toEqual([201, 200, 200]);
  expect(new Set(models.map(({ body }) => body['id'])).size).toBe(1);
});

test('a version is confirmed and published once', async () => {
  await send('POST', '/models/ensure', { name: 'liver' });
  const base = '/models/liver/versions';
  const bytes = new Uint8Array(1000).fill(3);
  const target = await send(
    'POST',
    `${base}/upload-url`,
    new URLSearchParams({ version: '1.0.0', filename: 'm.onnx', content_type: 'application/octet-stream' }),
  );
  const put = await fetch(String(target.body['upload_url']), { method: 'PUT', body: bytes });
  expect(put.status).toBe(200);
  const form = new URLSearchParams({
    version: '1.0.0',
    storage_key: String(target.body['storage_key']),
    file_size: '1000',
    description: '',
  });
  const confirmed = await thrice(`${base}/confirm-upload`, form);
  for (const { status } of confirmed) expect([200, 201, 409]).toContain(status);
  expect(await count(base, 'versions')).toBe(1);
  for (const { status } of await thrice(`${base}/1.0.0/publish`)) expect([200, 409]).toContain(status);
  const { body } = await send('GET', `${base}/1.0.0`);
  expect(body).toMatchObject({ status: 'published', version: '1.0.0' });
});

test('what has no name of its own is done once with a key', async () => {
  for (const [path, body] of [
    ['/api-keys', { name: 'ci', scopes: ['models:read'] }],
    ['/enrollment-tokens', { labels: { site: 'a' } }],
  ] as const) {
    const headers = { 'idempotency-key': `for ${path}` };
    const answers = [];
    for (let i = 0; i < 3; i++) answers.push(await send('POST', path, body, headers));
    expect(answers.map(({ status }) => status)).toEqual([201, 201, 201]);
    expect(answers[1]).toEqual(answers[0]);
    expect(answers[2]).toEqual(answers[0]);
  }
  const keys = (await send('GET', '/api-keys')).body as unknown as Json[];
  expect(keys.filter(({ name }) => name === 'ci')).toHaveLength(1);
});
