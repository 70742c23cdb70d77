import type { ServerResponse } from 'node:http';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { OctomilClientError } from './client-error.js';
import { HttpClient } from './http-client.js';
import { FakeCoordinator } from './testing/fake-coordinator.js';

let coordinator: FakeCoordinator;
let http: HttpClient;

beforeEach(async () => {
  coordinator = new FakeCoordinator();
  await coordinator.start();
  http = new HttpClient({ apiKey: 'edg_test', apiBase: `${coordinator.apiBase}/`, timing: coordinator.timing });
});
afterEach(() => coordinator.stop());

async function failure(promise: Promise<unknown>): Promise<OctomilClientError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof OctomilClientError)) throw error;
  return error;
}

test('sends the key, the query and JSON, and reads JSON', async () => {
  coordinator.json(200, { ok: 1 });
  const answer = await http.json('POST', '/models', { json: { name: 'a' }, query: { limit: 3, offset: undefined } });
  expect(answer).toEqual({ ok: 1 });
  expect(coordinator.requests[0]).toMatchObject({
    method: 'POST',
    path: '/api/v1/models?limit=3',
    body: '{"name":"a"}',
  });
  expect(coordinator.requests[0]?.headers).toMatchObject({
    authorization: 'Bearer edg_test',
    'content-type': 'application/json',
  });
});

test('a base without /api/v1 is named where nothing is found, and one with it is not', async () => {
  const missing = { code: 'not_found', message: 'there is no route GET /models' };
  coordinator
    .json(404, missing)
    .json(404, missing)
    .next((_request, response) => response.end('<!doctype html>'));
  const { origin } = new URL(coordinator.apiBase);
  const short = new HttpClient({ apiKey: 'edg_test', apiBase: origin, timing: coordinator.timing });
  expect((await failure(short.json('GET', '/models'))).reason).toBe(
    `there is no route GET /models; apiBase "${origin}" does not end in /api/v1, as a coordinator's does: try ${origin}/api/v1`,
  );
  expect((await failure(http.json('GET', '/models'))).reason).toBe('there is no route GET /models');
  expect((await failure(short.json('GET', '/models'))).reason).toContain(`try ${origin}/api/v1`);
});

test('the key does not travel to an absolute URL', async () => {
  coordinator.json(200, {});
  await http.bytes('PUT', `${coordinator.apiBase}/bucket`, { body: new Uint8Array([1]) });
  expect(coordinator.requests[0]?.headers.authorization).toBeUndefined();
});

test('repeats a GET after 502 and 504 with doubling waits, and gives up with the last error', async () => {
  for (const status of [502, 504, 502, 504]) coordinator.json(status, {});
  const error = await failure(http.json('GET', '/models'));
  expect(error).toMatchObject({ code: 'request_timeout', status: 504 });
  expect(coordinator.waitsMs).toEqual([250, 500, 1000]);
});

test('waits as long as Retry-After says, also for a POST, which was not carried out', async () => {
  coordinator.json(429, { code: 'rate_limited', message: 'slow down' }, { 'retry-after': '7' }).json(200, { ok: 1 });
  await expect(http.json('POST', '/models', { json: {} })).resolves.toEqual({ ok: 1 });
  expect(coordinator.waitsMs).toEqual([7000]);
});

test('does not wait a Retry-After of more than a minute', async () => {
  coordinator.json(503, {}, { 'retry-after': '61' });
  expect(await failure(http.json('GET', '/models'))).toMatchObject({ retryAfterSeconds: 61 });
  expect(coordinator.requests).toHaveLength(1);
});

test('a POST is repeated under one Idempotency-Key, and the next POST has another', async () => {
  coordinator.json(502, {}).next((_request, response) => response.destroy());
  coordinator.json(504, {}).json(201, { id: 1 }).json(201, { id: 2 });
  await http.json('POST', '/models', { json: {} });
  await http.json('POST', '/models', { json: {} });
  const keys = coordinator.requests.map(({ headers }) => headers['idempotency-key']);
  expect(keys[0]).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  expect(new Set(keys.slice(0, 4)).size).toBe(1);
  expect(keys[4]).not.toBe(keys[0]);
});

test('waits for the first sending of a key that is still being carried out', async () => {
  coordinator.json(409, { code: 'conflict', message: 'in progress' }, { 'retry-after': '1' }).json(201, { id: 1 });
  await expect(http.json('POST', '/models', { json: {} })).resolves.toEqual({ id: 1 });
  expect(coordinator.waitsMs).toEqual([1000]);
});

test('never repeats a POST after 500: it was carried out, and failed', async () => {
  coordinator.json(500, {});
  expect((await failure(http.json('POST', '/models', { json: {} }))).status).toBe(500);
  expect(coordinator.requests).toHaveLength(1);
});

test.each([502, 504])('without keys, never repeats a POST after %i: it may have been carried out', async (status) => {
  const { apiBase, timing } = coordinator;
  const keyless = new HttpClient({ apiKey: 'edg_test', apiBase, timing, idempotencyKeys: false });
  coordinator.json(status, {});
  expect((await failure(keyless.json('POST', '/models', { json: {} }))).status).toBe(status);
  expect(coordinator.requests).toHaveLength(1);
  expect(coordinator.requests[0]?.headers).not.toHaveProperty('idempotency-key');
});

test('a token provider is asked once, and again after a 401; a second refusal is the answer', async () => {
  const refused: (string | undefined)[] = [];
  const { apiBase, timing } = coordinator;
  const tokens = ['oda_1', 'oda_2', 'oda_3'];
  const client = new HttpClient({
    apiBase,
    timing,
    authTokenProvider: (old) => {
      refused.push(old);
      return tokens[refused.length - 1] ?? '';
    },
  });
  const unauthorized = { code: 'token_expired', message: 'expired' };
  coordinator
    .json(200, {})
    .json(401, unauthorized)
    .json(200, { ok: 1 })
    .json(401, unauthorized)
    .json(401, unauthorized);
  await client.json('GET', '/models');
  await expect(client.json('POST', '/models', { json: {} })).resolves.toEqual({ ok: 1 });
  expect(await failure(client.json('GET', '/models'))).toMatchObject({ code: 'token_expired', status: 401 });
  expect(refused).toEqual([undefined, 'oda_1', 'oda_2']);
  expect(coordinator.requests.map(({ headers }) => headers.authorization)).toEqual(
    ['oda_1', 'oda_1', 'oda_2', 'oda_2', 'oda_3'].map((token) => `Bearer ${token}`),
  );
  expect(coordinator.waitsMs).toEqual([]);
});

test.each([
  ['throws', () => failing()],
  ['rejects', () => Promise.resolve().then(failing)],
])(
  'a token provider that %s is the cause of the failure, and is asked again by the next request',
  async (_how, fail) => {
    let asked = 0;
    const authTokenProvider = () => (++asked === 1 ? fail() : 'oda_1');
    const client = new HttpClient({ apiBase: coordinator.apiBase, authTokenProvider });
    const error = await failure(client.json('GET', '/x'));
    expect(error).toMatchObject({
      code: 'authentication_failed',
      cause: expect.objectContaining({ name: 'RangeError' }),
    });
    coordinator.json(200, { ok: 1 });
    await expect(client.json('GET', '/x')).resolves.toEqual({ ok: 1 });
  },
);

function failing(): never {
  throw new RangeError('no keychain');
}

test('requests that are refused at the same time ask for one new token', async () => {
  let asked = 0;
  const { apiBase, timing } = coordinator;
  const client = new HttpClient({ apiBase, timing, authTokenProvider: () => `oda_${++asked}` });
  for (let time = 0; time < 3; time += 1) coordinator.json(401, {});
  for (let time = 0; time < 3; time += 1) coordinator.json(200, {});
  await Promise.all(['/a', '/b', '/c'].map((path) => client.json('GET', path)));
  expect(asked).toBe(2);
});

test.each([
  ['http://10.0.0.7:8000/api/v1', 1],
  ['http://127.0.0.1.example.com/api/v1', 1],
  ['https://octomil.example/api/v1', 0],
  ['http://localhost:8000/api/v1', 0],
  ['http://[::1]:8000/api/v1', 0],
])('a key over %s warns %i times', async (apiBase, times) => {
  const warnings: string[] = [];
  const answer = () => Promise.resolve(new Response('{}'));
  const onWarning = (message: string) => warnings.push(message);
  const client = new HttpClient({ apiKey: 'edg_test', apiBase, fetch: answer, onWarning });
  await client.json('GET', '/models');
  await client.json('GET', '/models');
  expect(warnings).toHaveLength(times);
});

test('never repeats what the code says is final, whatever the status', async () => {
  coordinator.json(503, { code: 'accelerator_unavailable', message: 'no GPU' });
  expect((await failure(http.json('GET', '/models'))).code).toBe('accelerator_unavailable');
  expect(coordinator.requests).toHaveLength(1);
});

test('an error keeps code, message, details, retry class and request id', async () => {
  const body = { error: 'conflict', code: 'conflict', message: 'version 1.0.0 exists', details: { version: '1.0.0' } };
  coordinator.json(409, body, { 'x-request-id': 'req-7' });
  const error = await failure(http.json('POST', '/models', { json: {} }));
  expect(error).toMatchObject({
    name: 'OctomilClientError',
    message: '[conflict] version 1.0.0 exists',
    code: 'conflict',
    reason: 'version 1.0.0 exists',
    status: 409,
    retryClass: 'never',
    requestId: 'req-7',
    details: { version: '1.0.0' },
  });
});

test.each([
  ['a page of a proxy', 401, '<html>who are you</html>', 'authentication_failed'],
  ['a body in the style of OpenAI', 400, '{"error":{"message":"bad","code":"invalid_input"}}', 'invalid_input'],
  ['an unknown code', 404, '{"code":"gone_fishing","message":"away"}', 'not_found'],
])('reads %s', async (_name, status, text, code) => {
  coordinator.next((_request, response) => response.writeHead(status).end(text));
  expect(await failure(http.json('GET', '/models'))).toMatchObject({ code, status });
});

test('an answer that breaks off in the middle is asked for again, under the same key', async () => {
  const cut = () =>
    coordinator.next((_request, response) => {
      response.writeHead(200, { 'content-length': '100' });
      response.write('{"half":', () => response.destroy());
    });
  cut();
  coordinator.json(200, { ok: 1 });
  await expect(http.json('GET', '/models')).resolves.toEqual({ ok: 1 });
  cut();
  coordinator.json(201, { ok: 2 });
  await expect(http.json('POST', '/models', { json: {} })).resolves.toEqual({ ok: 2 });
  const [, , first, second] = coordinator.requests.map(({ headers }) => headers['idempotency-key']);
  expect(first).toBeDefined();
  expect(second).toBe(first);
});

test('says where no coordinator answers, after trying again', async () => {
  const base = coordinator.apiBase;
  await coordinator.stop();
  const error = await failure(http.json('POST', '/models', { json: {} }));
  expect(error.code).toBe('network_unavailable');
  expect(error.reason).toContain(base);
  expect(error.reason).toContain('ECONNREFUSED');
  expect(coordinator.waitsMs).toHaveLength(3);
});

test('an answer that is not JSON names the base URL', async () => {
  coordinator.next((_request, response) => response.writeHead(200).end('<html>'));
  expect((await failure(http.json('GET', '/models'))).reason).toContain('does http://127.0.0.1');
});

test('an attempt without an answer times out and is tried again', async () => {
  coordinator.next(() => undefined).json(200, { ok: 1 });
  await expect(http.json('GET', '/models', { timeoutMs: 300 })).resolves.toEqual({ ok: 1 });
});

test.each([200, 404])('an answer of %i whose body stalls is given up', async (status) => {
  const stall = (response: ServerResponse): void =>
    void response.writeHead(status, { 'content-length': 9 }).write('{"a"');
  coordinator.next((_request, response) => stall(response)).json(200, { ok: 1 });
  const answer = http.json('GET', '/models', { timeoutMs: 50 });
  if (status === 200) await expect(answer).resolves.toEqual({ ok: 1 });
  else expect(await failure(answer)).toMatchObject({ status: 404 });
});

test('an aborted signal ends the request at once as cancelled', async () => {
  const controller = new AbortController();
  coordinator.next(() => controller.abort());
  expect((await failure(http.json('GET', '/models', { signal: controller.signal }))).code).toBe('cancelled');
  expect(coordinator.requests).toHaveLength(1);
  expect((await failure(http.json('GET', '/models', { signal: controller.signal }))).code).toBe('cancelled');
  expect(coordinator.requests).toHaveLength(1);
});

test.each([
  [{ apiKey: '' }, 'invalid_api_key'],
  [{ apiKey: 'edg_a b' }, 'invalid_api_key'],
  [{ apiKey: 'edg_a', apiBase: 'localhost:8000' }, 'invalid_input'],
])('refuses %j before any request', (options, code) => {
  expect(() => new HttpClient(options)).toThrow(expect.objectContaining({ code }));
});

test('no message holds an address that is a permission', async () => {
  const url = `${coordinator.apiBase}/uploads/permission`;
  coordinator.json(403, { detail: 'no' });
  coordinator.next((_request, response: ServerResponse) => response.end('<html>'));
  coordinator.next((_request, response: ServerResponse) => {
    response.writeHead(200, { 'content-length': 100 });
    response.write('x', () => setTimeout(() => response.destroy(), 50));
  });
  const once = { maxAttempts: 1 };
  for (let ask = 0; ask < 3; ask++) {
    const error = await failure(http.json('PUT', url, once));
    expect(`${error.message} ${JSON.stringify(error)}`).not.toContain('permission');
  }
});

test.each([Number.POSITIVE_INFINITY, 2 ** 31])('a limit of %p ms is not over at once', async (timeoutMs) => {
  coordinator.next((_request, response) => {
    setTimeout(() => response.writeHead(200).write('{"ok":'), 30);
    setTimeout(() => response.end('1}'), 60);
  });
  await expect(http.json('GET', '/models', { timeoutMs, maxAttempts: 1 })).resolves.toEqual({ ok: 1 });
});
