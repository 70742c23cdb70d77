import { createHash, randomBytes } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { silentLogger } from '@octomil/shared/runtime';
import { encodeWeights } from '@octomil/shared/tensors';
import { type Coordinator, startCoordinator } from './start-coordinator.js';
import { testDatabaseDump } from './testing/index.js';

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

async function send(
  method: string,
  path: string,
  options: {
    key?: string | undefined;
    json?: unknown;
    form?: Record<string, string>;
    headers?: Record<string, string>;
  } = {},
): Promise<{ status: number; body: Json; headers: Headers }> {
  const { key = admin, json, form } = options;
  const body = form === undefined ? (json === undefined ? undefined : JSON.stringify(json)) : new URLSearchParams(form);
  const response = await fetch(`${coordinator.restUrl}${path}`, {
    method,
    headers: {
      ...(key === '' ? {} : { authorization: `Bearer ${key}` }),
      ...(json === undefined ? {} : { 'content-type': 'application/json' }),
      ...options.headers,
    },
    ...(body === undefined ? {} : { body }),
    redirect: 'error',
  });
  return { status: response.status, body: (await response.json()) as Json, headers: response.headers };
}

describe('health and errors', () => {
  test('answers that it lives, that it is ready, and its metrics', async () => {
    expect(await send('GET', '/healthz', { key: '' })).toMatchObject({ status: 200, body: { status: 'ok' } });
    expect(await send('GET', '/readyz', { key: '' })).toMatchObject({
      status: 200,
      body: { status: 'ready', checks: { database: 'ok', objects: 'ok' } },
    });
    const metrics = await (await fetch(`${coordinator.restUrl}/metrics`)).text();
    expect(metrics).toContain('octomil_http_request_seconds_count{method="GET",route="/healthz",status="200"}');
    const openapi = await send('GET', '/openapi.json', { key: '' });
    expect(openapi.body['paths']).toHaveProperty('/api/v1/models/{id}');
  });

  test('a missing route is not mistaken for a server that is starting', async () => {
    const { status, body } = await send('GET', '/api/v1/nothing', { headers: { 'x-request-id': 'my-request' } });
    expect(status).toBe(404);
    expect(body).toMatchObject({ error: 'not_found', code: 'not_found', retryable: false, request_id: 'my-request' });
    expect(body['detail']).not.toBe('Not Found');
  });

  test('bad bodies say which field is wrong', async () => {
    const wrong = await send('POST', '/api/v1/models', { json: { name: 7, is_baseline: 'perhaps' } });
    expect(wrong).toMatchObject({ status: 400, body: { error: 'bad_request', code: 'invalid_input' } });
    expect(String(wrong.body['message'])).toContain('is_baseline');
    const broken = await fetch(`${coordinator.restUrl}/api/v1/models`, {
      method: 'POST',
      headers: { authorization: `Bearer ${admin}`, 'content-type': 'application/json' },
      body: '{"name":',
    });
    expect(broken.status).toBe(400);
    const large = await send('POST', '/api/v1/models', { json: { name: 'x'.repeat(1024 * 1024) } });
    expect(large).toMatchObject({ status: 413, body: { code: 'too_large' } });
  });
});

describe('keys', () => {
  test('the bootstrap key is in a file that only its owner reads', async () => {
    const path = join(coordinator.context.config.dataDir, 'bootstrap-key');
    expect((await readFile(path, 'utf8')).trim()).toBe(admin);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
  });

  test('no key, a wrong one and a device credential of nobody are refused', async () => {
    for (const [key, code] of [
      ['', 'authentication_failed'],
      ['edg_wrong', 'invalid_api_key'],
      [`edg_${'A'.repeat(43)}`, 'invalid_api_key'],
      [`odc_${'0'.repeat(32)}_${'A'.repeat(43)}`, 'authentication_failed'],
    ]) {
      const answer = await send('GET', '/api/v1/models', { key });
      expect(answer).toMatchObject({ status: 401, body: { error: 'unauthorized', code } });
    }
  });

  test('two live keys per name, a third names them; a revoked one is told when', async () => {
    const created = await send('POST', '/api/v1/api-keys', { json: { name: 'ci', scopes: { models: 'read' } } });
    expect(created).toMatchObject({ status: 201, body: { name: 'ci', scopes: ['models:read'] } });
    const first = String(created.body['api_key']);
    const rotated = await send('POST', `/api/v1/api-keys/${created.body['id']}/rotate`, { json: {} });
    const second = String(rotated.body['key']);
    expect(rotated.status).toBe(201);
    for (const key of [first, second]) expect((await send('GET', '/api/v1/models', { key })).status).toBe(200);
    const third = await send('POST', '/api/v1/keys', { json: { name: 'ci', scopes: ['models:read'] } });
    expect(third).toMatchObject({
      status: 409,
      body: { code: 'conflict', details: { live_key_ids: [created.body['id'], rotated.body['id']] } },
    });
    const list = await send('GET', '/api/v1/api-keys');
    expect(JSON.stringify(list.body)).not.toContain(first);
    const revoked = await send('DELETE', `/api/v1/api-keys/${created.body['id']}`);
    expect(revoked.body['revoked_at']).toEqual(expect.stringMatching(/Z$/));
    const refused = await send('GET', '/api/v1/models', { key: first });
    expect(refused).toMatchObject({ status: 401, body: { code: 'invalid_api_key' } });
    expect(String(refused.body['message'])).toContain(String(revoked.body['revoked_at']));
    expect((await send('GET', '/api/v1/models', { key: second })).status).toBe(200);
  });

  test('scopes are checked, and cannot be given away by those who lack them', async () => {
    const created = await send('POST', '/api/v1/keys', {
      json: { name: 'keeper', scopes: ['keys:write', 'models:write'] },
    });
    const key = String(created.body['key']);
    expect(await send('POST', '/api/v1/enrollment-tokens', { key, json: {} })).toMatchObject({
      status: 403,
      body: { code: 'forbidden', details: { required_scope: 'devices:write' } },
    });
    expect((await send('GET', '/api/v1/models', { key })).status).toBe(200);
    const more = await send('POST', '/api/v1/keys', { key, json: { name: 'more', scopes: ['admin'] } });
    expect(more).toMatchObject({ status: 403, body: { code: 'forbidden' } });
    const odd = await send('POST', '/api/v1/keys', { json: { name: 'odd', scopes: ['everything'] } });
    expect(odd).toMatchObject({ status: 400, body: { code: 'invalid_input' } });
  });

  test('an enrolment token says where to use it and until when', async () => {
    const token = await send('POST', '/api/v1/enrollment-tokens', {
      json: { labels: { site: 'a' }, expires_in_seconds: 60 },
    });
    expect(token).toMatchObject({
      status: 201,
      body: {
        token: expect.stringMatching(/^oet_[\w-]{43}$/),
        labels: { site: 'a' },
        device_identifier: null,
        grpc_address: `grpc://${coordinator.grpcAddress}`,
      },
    });
    const bound = await send('POST', '/api/v1/enrollment-tokens', { json: { device_identifier: 'hospital-001' } });
    expect(bound).toMatchObject({ status: 201, body: { device_identifier: 'hospital-001' } });
    const odd = await send('POST', '/api/v1/enrollment-tokens', { json: { device_identifier: 'a b' } });
    expect(odd).toMatchObject({ status: 400, body: { code: 'invalid_input' } });
  });
});

test('federations are a bare list, filtered by exact name', async () => {
  const made = await send('POST', '/api/v1/federations', { json: { org_id: 'default', name: 'cardiology' } });
  expect(made.status).toBe(201);
  const list = await send('GET', '/api/v1/federations?org_id=default&name=cardiology');
  expect(list.body).toEqual([made.body]);
  expect((await send('GET', '/api/v1/federations?name=cardio')).body).toEqual([]);
  const again = await send('POST', '/api/v1/federations', { json: { name: 'cardiology' } });
  expect(again).toMatchObject({ status: 409, body: { details: { federation_id: made.body['id'] } } });
  expect((await send('GET', `/api/v1/federations/${made.body['id']}/members`)).body).toHaveLength(1);
});

describe('models', () => {
  test('a name is one model, however many ask for it at once and in whichever case', async () => {
    const answers = await Promise.all(
      Array.from({ length: 8 }, (_, index) =>
        send('POST', '/api/v1/models/ensure', { json: { name: index % 2 === 0 ? 'Ensured' : 'ensured' } }),
      ),
    );
    expect(new Set(answers.map(({ body }) => body['id'])).size).toBe(1);
    expect(answers.map(({ status }) => status).sort()).toEqual([...Array(7).fill(200), 201]);
    const taken = await send('POST', '/api/v1/models', { json: { name: 'ENSURED', model_contract: {} } });
    expect(taken).toMatchObject({
      status: 409,
      body: { code: 'conflict', details: { model_id: answers[0]?.body['id'] } },
    });
    expect(await send('GET', '/api/v1/models/eNsUrEd')).toMatchObject({ status: 200, body: { versions: [] } });
  });

  test('the list is whole without a limit, and newest first', async () => {
    for (let index = 0; index < 25; index++)
      await send('POST', '/api/v1/models', { json: { name: `listed-${index}` } });
    const { body } = await send('GET', '/api/v1/models?org_id=default');
    const models = body['models'] as Json[];
    expect(models.length).toBe(body['total']);
    expect(models.length).toBeGreaterThanOrEqual(25);
    expect(models[0]).toMatchObject({ name: 'listed-24' });
    const page = await send('GET', '/api/v1/models?limit=2&offset=1');
    expect((page.body['models'] as Json[]).map((model) => model['name'])).toEqual(['listed-23', 'listed-22']);
  });

  test('a file is uploaded in three steps, published, and comes back the same by range and whole', async () => {
    const { body: model } = await send('POST', '/api/v1/models', { json: { name: 'uploaded' } });
    const base = `/api/v1/models/${model['id']}/versions`;
    const bytes = encodeWeights([{ name: 'w', shape: [1000], data: new Float32Array(1000).fill(0.5) }]);
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    const upload = async (version: string, filename: string, content: Uint8Array) => {
      const { body: target } = await send('POST', `${base}/upload-url`, {
        form: { version, filename, content_type: 'application/octet-stream' },
      });
      const put = await fetch(String(target['upload_url']), { method: 'PUT', body: new Uint8Array(content) });
      expect(put.status).toBe(200);
      return send('POST', `${base}/confirm-upload`, {
        form: {
          version,
          storage_key: String(target['storage_key']),
          file_size: String(content.length),
          description: 'by hand',
        },
      });
    };
    const first = await upload('1.0.0', 'model.safetensors', bytes);
    expect(first).toMatchObject({
      status: 201,
      body: { version: '1.0.0', sequence: 1, status: 'draft', format: 'safetensors', model_hash: `sha256:${sha256}` },
    });
    expect(await upload('1.0.0', 'again.safetensors', bytes)).toMatchObject({
      status: 409,
      body: { code: 'conflict' },
    });
    expect(await upload('1.0.1', 'model.safetensors', randomBytes(64))).toMatchObject({
      status: 422,
      body: { code: 'corrupt_file' },
    });
    expect(await upload('1.0.0', 'model.pt', randomBytes(64))).toMatchObject({ body: { formats: { pytorch: {} } } });
    expect(await send('GET', `${base}/latest`)).toMatchObject({ status: 404, body: { code: 'version_not_found' } });
    expect(await send('POST', `${base}/1.0.0/publish`, { json: {} })).toMatchObject({ body: { status: 'published' } });
    const form = { version: '1.0.0', filename: 'model.onnx', content_type: 'application/octet-stream' };
    expect(await send('POST', `${base}/upload-url`, { form })).toMatchObject({
      status: 409,
      body: { code: 'conflict' },
    });
    expect(await send('GET', `${base}/latest`)).toMatchObject({ body: { version: '1.0.0' } });

    const download = (headers: Record<string, string> = {}, query = '') =>
      fetch(`${coordinator.restUrl}${base}/1/download${query}`, {
        headers: { authorization: `Bearer ${admin}`, ...headers },
      });
    const whole = await download();
    expect(whole.headers.get('x-model-hash')).toBe(`sha256:${sha256}`);
    expect(whole.headers.get('content-length')).toBe(String(bytes.length));
    expect(whole.headers.get('content-disposition')).toContain('uploaded-1.0.0-model.safetensors');
    expect(Buffer.from(await whole.arrayBuffer()).equals(Buffer.from(bytes))).toBe(true);
    const range = await download({ range: 'bytes=10-19' });
    expect([range.status, range.headers.get('content-range')]).toEqual([206, `bytes 10-19/${bytes.length}`]);
    expect(Buffer.from(await range.arrayBuffer()).equals(Buffer.from(bytes.subarray(10, 20)))).toBe(true);
    expect((await download({ range: `bytes=${bytes.length}-` })).status).toBe(416);
    expect((await download({ 'if-none-match': `"${sha256}"` })).status).toBe(304);
    expect((await download({}, '?format=tflite')).status).toBe(404);

    expect(
      (await fetch(`${coordinator.restUrl}/api/v1/uploads/forged.token`, { method: 'PUT', body: 'x' })).status,
    ).toBe(403);
    expect(await send('DELETE', `${base}/1.0.0`)).toMatchObject({ status: 409, body: { code: 'wrong_state' } });
  });
});

test('a port in use is named with its setting, and what had started is stopped', async () => {
  const blocker = createServer();
  await new Promise<void>((resolve) => {
    blocker.listen(0, '127.0.0.1', resolve);
  });
  const port = (blocker.address() as { port: number }).port;
  const started = startCoordinator({
    database: 'memory',
    databaseDump: await testDatabaseDump(),
    logger: silentLogger,
    environment: { OCTOMIL_REST_PORT: String(port) },
  });
  await expect(started).rejects.toMatchObject({ code: 'port_in_use', details: { port, setting: 'OCTOMIL_REST_PORT' } });
  blocker.close();
}, 180_000);
