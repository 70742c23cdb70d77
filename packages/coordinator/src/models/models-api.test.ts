import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { readdir, rm } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { silentLogger } from '@octomil/shared/runtime';
import { encodeWeights } from '@octomil/shared/tensors';
import { type Coordinator, startCoordinator } from '../start-coordinator.js';
import { testDatabaseDump } from '../testing/index.js';
import { ArtifactObjects } from './artifact-objects.js';

type Json = Record<string, unknown>;
let coordinator: Coordinator;
let key: string;
let modelId: string;
let base: string;

beforeAll(async () => {
  coordinator = await startCoordinator({
    database: 'memory',
    databaseDump: await testDatabaseDump(),
    logger: silentLogger,
  });
  key = coordinator.bootstrapApiKey ?? '';
}, 60_000);
afterAll(() => coordinator.stop());
beforeEach(async () => {
  modelId = String((await json('POST', '/models', { name: randomUUID() })).body['id']);
  base = `/models/${modelId}/versions`;
});

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const url = (path: string) => `${coordinator.restUrl}/api/v1${path}`;
const authorization = () => ({ authorization: `Bearer ${key}` });

async function answer(response: Response): Promise<{ status: number; body: Json; headers: Headers }> {
  return { status: response.status, body: (await response.json()) as Json, headers: response.headers };
}

async function json(method: string, path: string, body?: unknown) {
  const headers = { ...authorization(), ...(body === undefined ? {} : { 'content-type': 'application/json' }) };
  return answer(
    await fetch(url(path), { method, headers, ...(body === undefined ? {} : { body: JSON.stringify(body) }) }),
  );
}

async function form(path: string, fields: Record<string, string>) {
  return answer(
    await fetch(url(path), { method: 'POST', headers: authorization(), body: new URLSearchParams(fields) }),
  );
}

type Files = Record<string, { bytes: Uint8Array; name: string }>;

function multipart(path: string, fields: Record<string, string>, files: Files) {
  const body = new FormData();
  // Files first: published clients do so too.
  for (const [field, { bytes, name }] of Object.entries(files))
    body.set(field, new Blob([new Uint8Array(bytes)]), name);
  for (const [field, value] of Object.entries(fields)) body.set(field, value);
  return fetch(url(path), { method: 'POST', headers: authorization(), body }).then(answer);
}

const upload = (fields: Record<string, string>, bytes: Uint8Array = randomBytes(1000), name = 'model.pt') =>
  multipart(`${base}/upload`, fields, { file: { bytes, name } });

const download = (path: string, headers: Record<string, string> = {}, method = 'GET') =>
  fetch(url(path), { method, headers: { ...authorization(), ...headers }, redirect: 'error' });

async function storedKeys(prefix: string): Promise<string[]> {
  const found: string[] = [];
  for await (const { key: name } of coordinator.context.objects.list(prefix)) found.push(name);
  return found;
}

const weights = () =>
  encodeWeights([{ name: 'w', shape: [100], data: new Float32Array(100).map(() => Math.random()) }]);

describe('models', () => {
  test('without limit and organization a page of 20; with the organization alone, all; 100 at most', async () => {
    for (let index = 0; index < 22; index++) await json('POST', '/models', { framework: 'pages' });
    const page = await json('GET', '/models?framework=pages');
    expect(page.body).toMatchObject({ total: 22, limit: 20, offset: 0 });
    expect(page.body['models']).toHaveLength(20);
    const all = await json('GET', '/models?framework=pages&org_id=default');
    expect(all.body['models']).toHaveLength(22);
    expect((await json('GET', '/models?framework=pages&limit=1&offset=21')).body['models']).toHaveLength(1);
    for (const query of ['limit=101', 'limit=0', 'limit=x', 'offset=-1', 'is_baseline=perhaps']) {
      const wrong = await json('GET', `/models?${query}`);
      expect(wrong).toMatchObject({ status: 400, body: { error: 'bad_request' } });
      expect(String(wrong.body['message'])).toContain(query.split('=')[0]);
    }
  });

  test('as documented: created without a name, listed by filters, changed, deleted', async () => {
    const created = await json('POST', '/models', {
      framework: 'pytorch',
      framework_version: '2.1.0',
      description: 'MNIST digit classifier - 3-layer CNN',
      is_baseline: true,
    });
    expect(created).toMatchObject({
      status: 201,
      body: { framework: 'pytorch', framework_version: '2.1.0', is_baseline: true, round_id: null, model_path: null },
    });
    expect(created.body['name']).toMatch(/^model-[0-9a-f]{10}$/);
    expect(created.body['created_at']).toMatch(/Z$/);
    const listed = await json('GET', '/models?framework=pytorch&is_baseline=true&limit=10');
    expect(listed.body).toMatchObject({ total: 1, models: [{ id: created.body['id'] }] });
    const path = `/models/${created.body['id']}`;
    expect(await json('PATCH', path, { name: 'digits', use_case: 'vision' })).toMatchObject({
      body: { name: 'digits', use_case: 'vision', framework: 'pytorch' },
    });
    expect(await json('GET', '/models?use_case=vision')).toMatchObject({ body: { total: 1 } });
    expect(await json('DELETE', path)).toMatchObject({ status: 200, body: { deleted: true } });
    expect(await json('GET', path)).toMatchObject({ status: 404, body: { code: 'model_not_found' } });
  });

  test('wrong fields are named', async () => {
    for (const [field, value] of Object.entries({
      name: 7,
      description: 'x'.repeat(1001),
      framework: {},
      is_baseline: 'perhaps',
    })) {
      const refused = await json('POST', '/models', { [field]: value });
      expect(refused).toMatchObject({ status: 400, body: { code: 'invalid_input' } });
      expect(String(refused.body['message'])).toContain(field);
    }
    expect(await json('PATCH', `/models/${modelId}`, { name: 'a/b' })).toMatchObject({ status: 400 });
  });

  test('names with spaces, slashes, unicode and great length in paths are found or cleanly not', async () => {
    await json('POST', '/models', { name: 'Größe 測試 model' });
    expect(await json('GET', `/models/${encodeURIComponent('größe 測試 model')}`)).toMatchObject({
      status: 200,
      body: { name: 'Größe 測試 model' },
    });
    for (const name of ['a%2Fb', 'x'.repeat(1000), '%F0%9F%98%80'.repeat(80), `${'%E6%B8%AC'.repeat(333)}x`, '%20']) {
      for (const path of [`/models/${name}`, `/models/${name}/versions/${name}`, `${base}/${name}/download`]) {
        expect([400, 404]).toContain((await json('GET', path)).status);
      }
    }
    expect([400, 404]).toContain((await json('GET', '/models/%E0%A4%A')).status);
  });

  test('what published clients read of an architecture stands beside our own', async () => {
    await coordinator.context.registry.setArchitecture(
      modelId,
      { name: 'logistic', output: { kind: 'multiclass', classes: 3 } },
      'num>0',
    );
    expect(await json('GET', `/models/${modelId}`)).toMatchObject({
      body: { architecture: { name: 'logistic', target_col: 'num', output_type: 'multiclass', output_dim: 3 } },
    });
  });
});

describe('upload in one form', () => {
  test('answers as documented, and the model shows it', async () => {
    const bytes = randomBytes(70_000);
    const made = await upload({ format: 'pytorch', description: 'After round 18 aggregation' }, bytes);
    expect(made).toMatchObject({
      status: 201,
      body: {
        model_id: modelId,
        version: 1,
        semantic_version: '1.0.0',
        format: 'pytorch',
        model_size_bytes: 70_000,
        model_hash: `sha256:${sha256(bytes)}`,
        model_path: `artifacts/${sha256(bytes)}`,
        description: 'After round 18 aggregation',
        status: 'draft',
      },
    });
    expect(made.body['uploaded_at']).toMatch(/Z$/);
    expect(made.body['created_by']).toMatch(/^key:/);
    await upload({ version: '3.0.0' }, randomBytes(10), 'net.h5');
    const { body } = await json('GET', `/models/${modelId}`);
    expect(body['versions']).toMatchObject([
      { version: 2, semantic_version: '3.0.0', format: 'tensorflow', model_size_bytes: 10 },
      { version: 1, format: 'pytorch' },
    ]);
    expect(body).toMatchObject({ latest_version: '3.0.0', model_size_bytes: 10 });
  });

  test('a second file comes along; foreign files are kept and never opened', async () => {
    const pickle = Buffer.from('\x80\x04cos\nsystem\n(S"exit 1"\ntR.');
    const made = await multipart(
      `${base}/upload`,
      { version: '1.0.0', architecture: 'mlp', input_dim: '4', formats: 'onnx' },
      { file: { bytes: pickle, name: 'net.onnx' }, onnx_data: { bytes: randomBytes(50), name: 'net.onnx_data' } },
    );
    expect(made).toMatchObject({ status: 201, body: { format: 'onnx', formats: { onnx: {}, onnx_data: {} } } });
    const got = Buffer.from(await (await download(`${base}/1/download`)).arrayBuffer());
    expect(got.equals(pickle)).toBe(true);
  });

  test('what is wrong is refused and leaves nothing', async () => {
    await upload({ version: '1.0.0' });
    const before = await storedKeys('artifacts/');
    expect(await upload({ version: '1.0.0' })).toMatchObject({ status: 409, body: { code: 'conflict' } });
    expect(await upload({ version: 'two' })).toMatchObject({ status: 400, body: { code: 'invalid_input' } });
    expect(await upload({ format: 'no such' })).toMatchObject({ status: 400 });
    expect(await upload({ format: 'safetensors' })).toMatchObject({ status: 422, body: { code: 'corrupt_file' } });
    expect(await upload({}, new Uint8Array())).toMatchObject({ status: 400 });
    const long = await upload({ description: 'x'.repeat(1001) });
    expect(long).toMatchObject({ status: 400 });
    expect(String(long.body['message'])).toContain('description');
    const missing = await multipart(`${base}/upload`, { version: '2.0.0' }, {});
    expect(missing).toMatchObject({ status: 400 });
    expect(String(missing.body['message'])).toContain('file');
    expect(await json('POST', `${base}/upload`, {})).toMatchObject({ status: 400 });
    const other = await multipart(`${base}/upload`, {}, { weights: { bytes: randomBytes(9), name: 'a.pt' } });
    expect(String(other.body['message'])).toContain('weights');
    expect(
      await multipart('/models/unknown/versions/upload', {}, { file: { bytes: randomBytes(9), name: 'a' } }),
    ).toMatchObject({ status: 404, body: { code: 'model_not_found' } });
    expect(await storedKeys('artifacts/')).toEqual(before);
    expect(await storedKeys('uploads/')).toEqual([]);
    expect((await json('GET', base)).body).toMatchObject({ total: 1 });
  });

  test('an upload that is cut off half-way leaves nothing behind', async () => {
    const boundary = 'cut';
    const head = `--${boundary}\r\ncontent-disposition: form-data; name="file"; filename="a.pt"\r\n\r\n`;
    const sending = httpRequest(url(`${base}/upload`), {
      method: 'POST',
      headers: {
        ...authorization(),
        'content-type': `multipart/form-data; boundary=${boundary}`,
        'content-length': '1000000',
      },
    });
    sending.on('error', () => undefined);
    sending.write(head);
    sending.write(randomBytes(300_000));
    const temporary = join(coordinator.context.config.objectFolder, 'temporary');
    await until(async () => (await readdir(temporary)).length > 0);
    sending.destroy();
    await until(async () => (await readdir(temporary)).length === 0);
    expect(await storedKeys('uploads/')).toEqual([]);
    expect((await json('GET', base)).body).toMatchObject({ versions: [], total: 0 });
  });
});

async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 5));
}

describe('upload in three steps', () => {
  const put = (target: unknown, bytes: Uint8Array) =>
    fetch(String(target), { method: 'PUT', body: new Uint8Array(bytes) }).then(answer);
  const begin = (fields: Record<string, string> = {}) =>
    form(`${base}/upload-url`, {
      version: '1.0.0',
      filename: 'Größe.pt',
      content_type: 'application/octet-stream',
      ...fields,
    });
  const confirm = (target: Json, size: number, fields: Record<string, string> = {}) =>
    form(`${base}/confirm-upload`, {
      version: '1.0.0',
      storage_key: String(target['storage_key']),
      file_size: String(size),
      description: '',
      ...fields,
    });

  test('in parts, which may come again and in any order, and go on after a pause', async () => {
    const bytes = randomBytes(150_000);
    const { body: target } = await begin({ size_bytes: '150000', part_size_bytes: '65536' });
    const parts = target['parts'] as { number: number; url: string }[];
    expect(parts.map(({ number }) => number)).toEqual([1, 2, 3]);
    const part = (number: number) => bytes.subarray((number - 1) * 65_536, number * 65_536);
    expect(await put(parts[2]?.url, part(3))).toMatchObject({ status: 200, body: { number: 3, size_bytes: 18_928 } });
    await put(parts[0]?.url, randomBytes(65_536));
    expect(await put(parts[0]?.url, part(1))).toMatchObject({ status: 200 });
    expect(await put(parts[1]?.url, part(1).subarray(1))).toMatchObject({
      status: 409,
      body: { code: 'transfer_incomplete' },
    });
    expect(await put(parts[1]?.url, bytes)).toMatchObject({ status: 413 });
    expect(await put(`${target['upload_url']}/parts/4`, part(1))).toMatchObject({ status: 400 });
    expect(await confirm(target, 150_000)).toMatchObject({ status: 409, body: { details: { missing_parts: [2] } } });
    expect(await answer(await fetch(String(target['upload_url'])))).toMatchObject({
      status: 200,
      body: { size_bytes: 150_000, part_count: 3, received_parts: [1, 3], received_bytes: 84_464 },
    });
    await put(parts[1]?.url, part(2));
    const made = await confirm(target, 150_000, { sha256: `sha256:${sha256(bytes).toUpperCase()}` });
    expect(made).toMatchObject({
      status: 201,
      body: { version: '1.0.0', format: 'pytorch', model_hash: `sha256:${sha256(bytes)}` },
    });
    // The answer was lost, and it is asked again.
    expect(await confirm(target, 150_000)).toMatchObject({ status: 201, body: { id: made.body['id'] } });
    expect((await json('GET', base)).body).toMatchObject({ total: 1 });
    expect(await storedKeys('uploads/')).toEqual([]);
    expect(await put(parts[0]?.url, part(1))).toMatchObject({ status: 409 });
    const file = await download(`${base}/1.0.0/download`);
    expect(Buffer.from(await file.arrayBuffer()).equals(bytes)).toBe(true);
    expect(file.headers.get('content-disposition')).toContain(`filename*=UTF-8''`);
    expect(file.headers.get('content-disposition')).toContain('Gr%C3%B6%C3%9Fe.pt');
  });

  test('whole; a wrong digest is 422 and a wrong size 409; no version takes the next number', async () => {
    const bytes = randomBytes(1000);
    const { body: target } = await begin();
    expect(await confirm(target, 1000)).toMatchObject({ status: 409, body: { code: 'transfer_incomplete' } });
    // Publishing what is not confirmed.
    expect(await json('POST', `${base}/1.0.0/publish`, {})).toMatchObject({
      status: 409,
      body: { code: 'wrong_state' },
    });
    await put(target['upload_url'], bytes);
    expect(await confirm(target, 999)).toMatchObject({ status: 409, body: { details: { received_bytes: 1000 } } });
    expect(await confirm(target, 1000, { sha256: '0'.repeat(64) })).toMatchObject({
      status: 422,
      body: { code: 'checksum_mismatch', details: { sha256: sha256(bytes) } },
    });
    expect(await storedKeys('uploads/')).toEqual([]);
    const again = await form(`${base}/upload-url`, { filename: 'a.onnx' });
    await put(again.body['upload_url'], bytes);
    const numbered = await form(`${base}/confirm-upload`, {
      storage_key: String(again.body['storage_key']),
      file_size: '1000',
    });
    expect(numbered).toMatchObject({ status: 201, body: { version: '1.0.0', sequence: 1, format: 'onnx' } });
  });

  test('wrong fields are named; keys of others are refused', async () => {
    for (const [field, value] of Object.entries({
      filename: '',
      size_bytes: 'many',
      part_size_bytes: '-1',
    })) {
      const refused = await begin({ [field]: value });
      expect(refused.status).toBe(400);
      expect(String(refused.body['message'])).toContain(field);
    }
    expect(await begin({ version: '1.2' })).toMatchObject({ status: 400 });
    expect(await begin({ size_bytes: String(2 ** 40) })).toMatchObject({ status: 413 });
    const { body: target } = await begin();
    expect(await confirm(target, 1, { version: '1.0.1' })).toMatchObject({ status: 400 });
    expect(await confirm({ storage_key: `uploads/other/1.0.0/x/y` }, 1)).toMatchObject({ status: 400 });
    expect(await confirm({ storage_key: `uploads/${modelId}/1.0.0/../../x` }, 1)).toMatchObject({ status: 409 });
    expect(await confirm(target, 1, { sha256: 'short' })).toMatchObject({ status: 400 });
    for (const stored of await storedKeys('uploads/')) await coordinator.context.objects.delete(stored);
  });
});

describe('registering a file of the store', () => {
  test('only of the organization, and only as it is', async () => {
    const bytes = randomBytes(100);
    const { body: made } = await upload({}, bytes);
    const body = { version: '2.0.0', storage_path: made['model_path'], format: 'pytorch', checksum: sha256(bytes) };
    expect(await json('POST', base, { ...body, checksum: '0'.repeat(64) })).toMatchObject({ status: 422 });
    expect(await json('POST', base, { ...body, size_bytes: 99 })).toMatchObject({ status: 400 });
    expect(await json('POST', base, { ...body, storage_path: 's3://bucket/model.pt' })).toMatchObject({ status: 400 });
    expect(await json('POST', base, { ...body, storage_path: '/etc/passwd' })).toMatchObject({ status: 400 });
    const registered = await json('POST', base, { ...body, size_bytes: 100, metrics: { accuracy: 0.75 } });
    expect(registered).toMatchObject({
      status: 201,
      body: { version: '2.0.0', sequence: 2, model_hash: made['model_hash'], metrics: { accuracy: 0.75 } },
    });
    expect(await json('POST', base, body)).toMatchObject({ status: 409 });
    expect(await json('GET', `/models/${modelId}`)).toMatchObject({ body: { accuracy: 0.75 } });
    const foreign = `artifacts/${'b'.repeat(64)}`;
    await coordinator.context.objects.put(foreign, bytes);
    expect(await json('POST', base, { ...body, version: '3.0.0', storage_path: foreign })).toMatchObject({
      status: 404,
      body: { code: 'not_found' },
    });
  });
});

describe('a version', () => {
  test('is found by number, name and latest; published, given figures, deprecated, deleted', async () => {
    await upload({ version: '1.0.0' });
    await upload({ version: '1.1.0-rc.1' });
    expect(await json('GET', `${base}/2`)).toMatchObject({ body: { version: '1.1.0-rc.1', sequence: 2 } });
    expect(await json('GET', `${base}/latest`)).toMatchObject({ status: 404, body: { code: 'version_not_found' } });
    expect(await json('GET', `${base}/9`)).toMatchObject({ status: 404 });
    expect(await json('GET', `${base}/not-a-version`)).toMatchObject({ status: 404 });
    expect(await json('POST', `${base}/7.0.0/publish`, {})).toMatchObject({ status: 404 });
    expect(await json('POST', `${base}/1.0.0/publish`, {})).toMatchObject({ body: { status: 'published' } });
    expect(await json('POST', `${base}/1/publish`)).toMatchObject({ status: 200 });
    expect(await json('GET', `${base}/latest`)).toMatchObject({ body: { version: '1.0.0' } });
    expect(await json('GET', `${base}?status=published`)).toMatchObject({
      body: { total: 1, versions: [{ version: '1.0.0' }], limit: 100, offset: 0 },
    });
    expect(await json('GET', `${base}?limit=1&offset=1`)).toMatchObject({ body: { versions: [{ version: '1.0.0' }] } });
    expect(await json('GET', `${base}?status=wrong`)).toMatchObject({ status: 400 });
    await json('PATCH', `${base}/1.0.0/metrics`, { metrics: { accuracy: 0.8, loss: 0.5 } });
    expect(await json('PATCH', `${base}/1.0.0/metrics`, { metrics: { loss: 0.4 } })).toMatchObject({
      body: { metrics: { accuracy: 0.8, loss: 0.4 } },
    });
    const wrong = await json('PATCH', `${base}/1.0.0/metrics`, { metrics: 'good' });
    expect(wrong.status).toBe(400);
    expect(String(wrong.body['message'])).toContain('metrics');
    expect(await json('DELETE', `${base}/1.0.0`)).toMatchObject({
      status: 409,
      body: { details: { status: 'published' } },
    });
    expect(await json('POST', `${base}/1.0.0/deprecate`, {})).toMatchObject({ body: { status: 'deprecated' } });
    expect(await json('POST', `${base}/1.0.0/publish`, {})).toMatchObject({
      status: 409,
      body: { details: { status: 'deprecated' } },
    });
    const { body } = await json('GET', `${base}/1.0.0`);
    expect(await json('DELETE', `${base}/1.0.0`)).toMatchObject({ status: 200, body: { deleted: true } });
    expect(await json('GET', `${base}/1.0.0`)).toMatchObject({ status: 404 });
    expect(await storedKeys(String(body['model_path']))).toEqual([]);
  });

  test('a file that two versions are made of goes with the last', async () => {
    const bytes = randomBytes(64);
    const path = `artifacts/${sha256(bytes)}`;
    await upload({ version: '1.0.0' }, bytes);
    await upload({ version: '2.0.0' }, bytes);
    await json('DELETE', `${base}/1.0.0`);
    expect(await storedKeys(path)).toEqual([path]);
    await json('DELETE', `/models/${modelId}`);
    expect(await storedKeys(path)).toEqual([]);
  });

  test('in use by a rollout or a device it stays, and so does its model', async () => {
    const { database, organizationId } = coordinator.context;
    const { body } = await upload({ version: '1.0.0' });
    const rollout = await database.kysely
      .insertInto('rollouts')
      .values({
        organization_id: organizationId,
        model_id: modelId,
        version_id: String(body['id']),
        previous_version_id: null,
        state: 'paused',
        share_ratio: 0.1,
        initial_ratio: 0.1,
        target_ratio: 1,
        increment_ratio: 0.1,
        advance_every_seconds: null,
        placement_offset: 0,
        selector: '{}',
        gates: '{}',
        reason_code: null,
        reason: null,
        created_by: 'key:test',
      })
      .returning('id')
      .executeTakeFirstOrThrow();
    for (const path of [`${base}/1.0.0`, `/models/${modelId}`]) {
      const refused = await json('DELETE', path);
      expect(refused).toMatchObject({ status: 409, body: { code: 'wrong_state', details: { kind: 'rollout' } } });
      expect(String(refused.body['message'])).toContain(`rollout ${rollout.id} (paused)`);
    }
    await database.kysely.updateTable('rollouts').set({ state: 'rolled_back' }).where('id', '=', rollout.id).execute();
    expect(await json('DELETE', `/models/${modelId}`)).toMatchObject({ status: 200 });
  });

  test('a converting version names the formats that publishing waits for, and their downloads why', async () => {
    const { database } = coordinator.context;
    const { body } = await upload({ version: '1.0.0' });
    const id = String(body['id']);
    await database.kysely.updateTable('versions').set({ status: 'converting' }).where('id', '=', id).execute();
    await database.kysely
      .insertInto('conversions')
      .values({
        version_id: id,
        format: 'tflite',
        state: 'failed',
        reason_code: 'conversion_failed',
        reason: 'no room',
        owner: null,
      })
      .execute();
    const refused = await json('POST', `${base}/1.0.0/publish`, {});
    expect(refused).toMatchObject({ status: 409, body: { details: { status: 'converting', formats: ['tflite'] } } });
    expect(String(refused.body['message'])).toContain('tflite is failed: no room');
    const missing = await json('GET', `${base}/1.0.0/download?format=tflite`);
    expect(missing).toMatchObject({
      status: 404,
      body: { code: 'format_not_ready', details: { state: 'failed', formats: ['pytorch'] } },
    });
    expect(String(missing.body['message'])).toContain('no room');
  });
});

describe('a download', () => {
  test('whole, by range, only when it changed, as a head, by format', async () => {
    const bytes = weights();
    await upload({ version: '1.0.0' }, bytes, 'model.safetensors');
    const etag = `"${sha256(bytes)}"`;
    const path = `${base}/1/download`;
    const whole = await download(path);
    expect(Object.fromEntries(whole.headers)).toMatchObject({
      'content-length': String(bytes.length),
      'x-model-hash': `sha256:${sha256(bytes)}`,
      'accept-ranges': 'bytes',
      'content-type': 'application/octet-stream',
      etag,
    });
    expect(Buffer.from(await whole.arrayBuffer()).equals(bytes)).toBe(true);
    for (const [range, start, end] of [
      ['bytes=5-9', 5, 10],
      ['bytes=-7', bytes.length - 7, bytes.length],
      ['bytes=20-', 20, bytes.length],
      [`bytes=0-${bytes.length * 2}`, 0, bytes.length],
    ] as const) {
      const part = await download(path, { range, 'if-range': etag });
      expect([part.status, part.headers.get('content-range')]).toEqual([
        206,
        `bytes ${start}-${end - 1}/${bytes.length}`,
      ]);
      expect(Buffer.from(await part.arrayBuffer()).equals(bytes.subarray(start, end))).toBe(true);
    }
    const changed = await download(path, { range: 'bytes=5-9', 'if-range': '"other"' });
    expect([changed.status, (await changed.arrayBuffer()).byteLength]).toEqual([200, bytes.length]);
    expect((await download(path, { range: `bytes=${bytes.length}-` })).status).toBe(416);
    for (const known of [etag, `"a", ${etag}`, '*', `W/${etag}`]) {
      expect((await download(path, { 'if-none-match': known })).status).toBe(304);
    }
    const head = await download(path, {}, 'HEAD');
    expect([head.status, head.headers.get('content-length')]).toEqual([200, String(bytes.length)]);
    expect((await download(`${path}?format=safetensors`)).status).toBe(200);
    expect((await download(`${path}?format=a%20b`)).status).toBe(400);
    expect((await fetch(url(path))).status).toBe(401);
  });

  test('by an address of its own, without a key, until it expires; and by name and tag', async () => {
    const bytes = randomBytes(500);
    await upload({ version: '1.0.0' }, bytes, 'net.onnx');
    await json('POST', `${base}/1.0.0/publish`, {});
    const { body } = await json('GET', `${base}/latest/download-url`);
    expect(body).toMatchObject({ format: 'onnx', size_bytes: 500, checksum: sha256(bytes) });
    const plain = await fetch(String(body['url']), { redirect: 'error', headers: { range: 'bytes=0-1' } });
    expect(plain.status).toBe(206);
    expect((await fetch(`${body['url']}x`)).status).toBe(403);
    expect((await json('GET', `${base}/1/download-url?format=coreml`)).body).toMatchObject({
      code: 'format_not_ready',
    });
    expect((await json('GET', `${base}/1/download-url?expires_in_seconds=0`)).status).toBe(400);
    const { body: model } = await json('GET', `/models/${modelId}`);
    const pulled = await json('POST', '/registry/pull', { name: model['name'], tag: 'latest', org_id: 'x' });
    expect(pulled).toMatchObject({
      status: 200,
      body: { name: model['name'], tag: '1.0.0', format: 'onnx', size_bytes: 500, checksum: sha256(bytes) },
    });
    const got = await fetch(String(pulled.body['download_url']));
    expect(Buffer.from(await got.arrayBuffer()).equals(bytes)).toBe(true);
    expect(await json('POST', '/registry/pull', {})).toMatchObject({ status: 400 });
    expect(await json('POST', '/registry/pull', { name: 'nobody' })).toMatchObject({ status: 404 });
  });

  test('of a file that was deleted behind our back says which, at once', async () => {
    const { body } = await upload({ version: '1.0.0' });
    await rm(join(coordinator.context.config.objectFolder, 'objects', String(body['model_path'])));
    for (const path of [`${base}/1/download`, `${base}/1/download-url?format=pytorch`]) {
      const failed = await json('GET', path);
      expect(failed).toMatchObject({ status: 502, body: { code: 'download_failed' } });
      expect(String(failed.body['message'])).toContain(String(body['model_path']));
    }
  });
});

test('lineage leads back to the first', async () => {
  const { database } = coordinator.context;
  const first = await upload({ version: '1.0.0' });
  const second = await upload({ version: '1.1.0' });
  await database.kysely
    .updateTable('versions')
    .set({ base_version_id: String(first.body['id']) })
    .where('id', '=', String(second.body['id']))
    .execute();
  const lineage = await json('GET', `${base}/1.1.0/lineage`);
  expect(lineage).toMatchObject({
    status: 200,
    body: {
      version: '1.1.0',
      chain: [
        { version: '1.1.0', origin: 'upload', rounds: 0, participants: 0 },
        { version: '1.0.0', base_version_id: null, digests: { pytorch: String(first.body['model_hash']).slice(7) } },
      ],
    },
  });
  expect(await json('DELETE', `${base}/1.0.0`)).toMatchObject({ status: 409, body: { details: { kind: 'version' } } });
});

test('the sweep takes what was given up, and nothing else', async () => {
  const { database, objects } = coordinator.context;
  const bytes = randomBytes(40);
  await upload({ version: '1.0.0' }, bytes);
  await form(`${base}/upload-url`, { version: '2.0.0', filename: 'a.pt' });
  const orphan = `artifacts/${'c'.repeat(64)}`;
  await objects.put(orphan, bytes);
  let now = Date.now();
  const clock = { now: () => now, sleep: async () => undefined, after: () => () => undefined };
  const artifacts = new ArtifactObjects({ database, objects, clock, logger: silentLogger });
  expect(await artifacts.sweep()).toEqual({ uploads: 0, artifacts: 0 });
  now += 25 * 3_600_000;
  await artifacts.sweep();
  expect(await storedKeys(orphan)).toEqual([]);
  expect(await storedKeys('uploads/')).toHaveLength(1);
  now += 24 * 3_600_000;
  await artifacts.sweep();
  expect(await storedKeys('uploads/')).toEqual([]);
  expect(await storedKeys(`artifacts/${sha256(bytes)}`)).toHaveLength(1);
});
