import { randomBytes } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { silentLogger } from '@octomil/shared/runtime';
import { ArtifactObjects } from './artifact-objects.js';
import { answerOf, type Json, RegistryClient, sha256, until } from './testing/registry-client.js';

let client: RegistryClient;

beforeAll(async () => {
  client = await RegistryClient.start();
}, 240_000);
afterAll(() => client.stop());
beforeEach(() => client.newModel());

describe('upload in one form', () => {
  test('answers as documented, and the model shows it', async () => {
    const bytes = randomBytes(70_000);
    const made = await client.upload({ format: 'pytorch', description: 'After round 18 aggregation' }, bytes);
    expect(made).toMatchObject({
      status: 201,
      body: {
        model_id: client.modelId,
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
    await client.upload({ version: '3.0.0' }, randomBytes(10), 'net.h5');
    const { body } = await client.json('GET', `/models/${client.modelId}`);
    expect(body['versions']).toMatchObject([
      { version: 2, semantic_version: '3.0.0', format: 'tensorflow', model_size_bytes: 10 },
      { version: 1, format: 'pytorch' },
    ]);
    expect(body).toMatchObject({ latest_version: '3.0.0', model_size_bytes: 10 });
  });

  test('a second file comes along; foreign files are kept and never opened', async () => {
    const pickle = Buffer.from('\x80\x04cos\nsystem\n(S"exit 1"\ntR.');
    const made = await client.multipart(
      `${client.base}/upload`,
      { version: '1.0.0', architecture: 'mlp', input_dim: '4', formats: 'onnx' },
      { file: { bytes: pickle, name: 'net.onnx' }, onnx_data: { bytes: randomBytes(50), name: 'net.onnx_data' } },
    );
    expect(made).toMatchObject({ status: 201, body: { format: 'onnx', formats: { onnx: {}, onnx_data: {} } } });
    const got = Buffer.from(await (await client.download(`${client.base}/1/download`)).arrayBuffer());
    expect(got.equals(pickle)).toBe(true);
  });

  test('what is wrong is refused and leaves nothing', async () => {
    await client.upload({ version: '1.0.0' });
    const before = await client.storedKeys('artifacts/');
    expect(await client.upload({ version: '1.0.0' })).toMatchObject({ status: 409, body: { code: 'conflict' } });
    expect(await client.upload({ version: 'two' })).toMatchObject({ status: 400, body: { code: 'invalid_input' } });
    expect(await client.upload({ format: 'no such' })).toMatchObject({ status: 400 });
    expect(await client.upload({ format: 'safetensors' })).toMatchObject({
      status: 422,
      body: { code: 'corrupt_file' },
    });
    expect(await client.upload({}, new Uint8Array())).toMatchObject({ status: 400 });
    const long = await client.upload({ description: 'x'.repeat(1001) });
    expect(long).toMatchObject({ status: 400 });
    expect(String(long.body['message'])).toContain('description');
    const missing = await client.multipart(`${client.base}/upload`, { version: '2.0.0' }, {});
    expect(missing).toMatchObject({ status: 400 });
    expect(String(missing.body['message'])).toContain('file');
    expect(await client.json('POST', `${client.base}/upload`, {})).toMatchObject({ status: 400 });
    const other = await client.multipart(
      `${client.base}/upload`,
      {},
      { weights: { bytes: randomBytes(9), name: 'a.pt' } },
    );
    expect(String(other.body['message'])).toContain('weights');
    expect(
      await client.multipart('/models/unknown/versions/upload', {}, { file: { bytes: randomBytes(9), name: 'a' } }),
    ).toMatchObject({ status: 404, body: { code: 'model_not_found' } });
    expect(await client.storedKeys('artifacts/')).toEqual(before);
    expect(await client.storedKeys('uploads/')).toEqual([]);
    expect((await client.json('GET', client.base)).body).toMatchObject({ total: 1 });
  });

  test.each([
    ['multipart/form-data', 'no boundary'],
    ['multipart/form-data; boundary=a', 'no form'],
    [
      'multipart/form-data; boundary=a',
      '--a\r\ncontent-disposition: form-data; name="file"; filename="a.pt"\r\n\r\nhalf',
    ],
    [
      'multipart/form-data; boundary=a',
      `${['file', 'onnx_data', 'third'].map((name) => `--a\r\ncontent-disposition: form-data; name="${name}"; filename="f"\r\n\r\nx\r\n`).join('')}--a--\r\n`,
    ],
    ['text/plain', 'no form'],
  ])('a form that cannot be read is 400 and leaves nothing (%s)', async (type, body) => {
    const headers = { ...client.authorization, 'content-type': type };
    const refused = await answerOf(await fetch(client.url(`${client.base}/upload`), { method: 'POST', headers, body }));
    expect(refused).toMatchObject({ status: 400, body: { code: 'invalid_input' } });
    expect(await client.storedKeys('uploads/')).toEqual([]);
  });

  test('one that a client sends again under its key has one effect', async () => {
    const send = (bytes: Uint8Array) => {
      const body = new FormData();
      body.set('file', new Blob([new Uint8Array(bytes)]), 'model.pt');
      const headers = { ...client.authorization, 'idempotency-key': client.modelId };
      return fetch(client.url(`${client.base}/upload`), { method: 'POST', headers, body }).then(answerOf);
    };
    const bytes = randomBytes(200_000);
    const first = await send(bytes);
    expect(first.status).toBe(201);
    expect(await send(bytes)).toMatchObject({ status: 201, body: { id: first.body['id'] } });
    expect((await client.json('GET', client.base)).body).toMatchObject({ total: 1 });
  });

  test('an upload that is cut off half-way leaves nothing behind', async () => {
    const boundary = 'cut';
    const head = `--${boundary}\r\ncontent-disposition: form-data; name="file"; filename="a.pt"\r\n\r\n`;
    const sending = httpRequest(client.url(`${client.base}/upload`), {
      method: 'POST',
      headers: {
        ...client.authorization,
        'content-type': `multipart/form-data; boundary=${boundary}`,
        'content-length': '1000000',
      },
    });
    sending.on('error', () => undefined);
    sending.write(head);
    sending.write(randomBytes(300_000));
    const temporary = join(client.coordinator.context.config.objectFolder, 'temporary');
    await until(async () => (await readdir(temporary)).length > 0);
    sending.destroy();
    await until(async () => (await readdir(temporary)).length === 0);
    expect(await client.storedKeys('uploads/')).toEqual([]);
    expect((await client.json('GET', client.base)).body).toMatchObject({ versions: [], total: 0 });
  });
});

describe('upload in three steps', () => {
  const put = (target: unknown, bytes: Uint8Array) =>
    fetch(String(target), { method: 'PUT', body: new Uint8Array(bytes) }).then(answerOf);
  const begin = (fields: Record<string, string> = {}) =>
    client.form(`${client.base}/upload-url`, {
      version: '1.0.0',
      filename: 'Größe.pt',
      content_type: 'application/octet-stream',
      ...fields,
    });
  const confirm = (target: Json, size: number, fields: Record<string, string> = {}) =>
    client.form(`${client.base}/confirm-upload`, {
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
    expect(await answerOf(await fetch(String(target['upload_url'])))).toMatchObject({
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
    expect((await client.json('GET', client.base)).body).toMatchObject({ total: 1 });
    expect(await client.storedKeys('uploads/')).toEqual([]);
    expect(await put(parts[0]?.url, part(1))).toMatchObject({ status: 409 });
    const file = await client.download(`${client.base}/1.0.0/download`);
    expect(Buffer.from(await file.arrayBuffer()).equals(bytes)).toBe(true);
    expect(file.headers.get('content-disposition')).toContain(`filename*=UTF-8''`);
    expect(file.headers.get('content-disposition')).toContain('Gr%C3%B6%C3%9Fe.pt');
  });

  test('confirmed by many at once, it is one version; who was late may ask again', async () => {
    const { body: target } = await client.form(`${client.base}/upload-url`, { version: '1.0.0', filename: 'a.pt' });
    await fetch(String(target['upload_url']), { method: 'PUT', body: new Uint8Array(randomBytes(1000)) });
    const answers = await Promise.all([1, 2, 3, 4, 5].map(() => confirm(target, 1000)));
    const statuses = answers.map(({ status }) => status);
    expect(statuses).toContain(201);
    expect(statuses.filter((status) => status !== 201 && status !== 409)).toEqual([]);
    const { id } = answers[statuses.indexOf(201)]?.body ?? {};
    expect(await confirm(target, 1000)).toMatchObject({ status: 201, body: { id } });
  });

  test('whole; a wrong digest is 422 and a wrong size 409; no version takes the next number', async () => {
    const bytes = randomBytes(1000);
    const { body: target } = await begin();
    expect(await confirm(target, 1000)).toMatchObject({ status: 409, body: { code: 'transfer_incomplete' } });
    // Publishing what is not confirmed.
    expect(await client.json('POST', `${client.base}/1.0.0/publish`, {})).toMatchObject({
      status: 409,
      body: { code: 'wrong_state' },
    });
    await put(target['upload_url'], bytes);
    expect(await confirm(target, 999)).toMatchObject({ status: 409, body: { details: { received_bytes: 1000 } } });
    expect(await confirm(target, 1000, { sha256: '0'.repeat(64) })).toMatchObject({
      status: 422,
      body: { code: 'checksum_mismatch', details: { sha256: sha256(bytes) } },
    });
    expect(await client.storedKeys('uploads/')).toEqual([]);
    const again = await client.form(`${client.base}/upload-url`, { filename: 'a.onnx' });
    await put(again.body['upload_url'], bytes);
    const numbered = await client.form(`${client.base}/confirm-upload`, {
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
    expect(await confirm({ storage_key: `uploads/${client.modelId}/1.0.0/../../x` }, 1)).toMatchObject({ status: 409 });
    expect(await confirm(target, 1, { sha256: 'short' })).toMatchObject({ status: 400 });
    for (const stored of await client.storedKeys('uploads/')) await client.coordinator.context.objects.delete(stored);
  });
});

describe('registering a file of the store', () => {
  test('only of the organization, and only as it is', async () => {
    const bytes = randomBytes(100);
    const { body: made } = await client.upload({}, bytes);
    const body = { version: '2.0.0', storage_path: made['model_path'], format: 'pytorch', checksum: sha256(bytes) };
    expect(await client.json('POST', client.base, { ...body, checksum: '0'.repeat(64) })).toMatchObject({
      status: 422,
    });
    expect(await client.json('POST', client.base, { ...body, size_bytes: 99 })).toMatchObject({ status: 400 });
    expect(await client.json('POST', client.base, { ...body, storage_path: 's3://bucket/model.pt' })).toMatchObject({
      status: 400,
    });
    expect(await client.json('POST', client.base, { ...body, storage_path: '/etc/passwd' })).toMatchObject({
      status: 400,
    });
    const registered = await client.json('POST', client.base, {
      ...body,
      size_bytes: 100,
      metrics: { accuracy: 0.75 },
    });
    expect(registered).toMatchObject({
      status: 201,
      body: { version: '2.0.0', sequence: 2, model_hash: made['model_hash'], metrics: { accuracy: 0.75 } },
    });
    expect(await client.json('POST', client.base, body)).toMatchObject({ status: 409 });
    expect(await client.json('GET', `/models/${client.modelId}`)).toMatchObject({ body: { accuracy: 0.75 } });
    const foreign = `artifacts/${'b'.repeat(64)}`;
    await client.coordinator.context.objects.put(foreign, bytes);
    expect(await client.json('POST', client.base, { ...body, version: '3.0.0', storage_path: foreign })).toMatchObject({
      status: 404,
      body: { code: 'not_found' },
    });
  });
});

test('the sweep takes what was given up, and nothing else', async () => {
  const { database, objects } = client.coordinator.context;
  const bytes = randomBytes(40);
  await client.upload({ version: '1.0.0' }, bytes);
  await client.form(`${client.base}/upload-url`, { version: '2.0.0', filename: 'a.pt' });
  const orphan = `artifacts/${'c'.repeat(64)}`;
  await objects.put(orphan, bytes);
  let now = Date.now();
  const clock = { now: () => now, sleep: async () => undefined, after: () => () => undefined };
  const artifacts = new ArtifactObjects({ database, objects, clock, logger: silentLogger });
  expect(await artifacts.sweep()).toEqual({ uploads: 0, artifacts: 0 });
  now += 25 * 3_600_000;
  await artifacts.sweep();
  expect(await client.storedKeys(orphan)).toEqual([]);
  expect(await client.storedKeys('uploads/')).toHaveLength(1);
  now += 24 * 3_600_000;
  await artifacts.sweep();
  expect(await client.storedKeys('uploads/')).toEqual([]);
  expect(await client.storedKeys(`artifacts/${sha256(bytes)}`)).toHaveLength(1);
});
