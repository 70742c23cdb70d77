import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { ModelRegistry } from './model-registry.js';
import type { UploadTicket } from './models/push.js';
import { FakeCoordinator } from './testing/fake-coordinator.js';

let coordinator: FakeCoordinator;
let registry: ModelRegistry;

beforeEach(async () => {
  coordinator = new FakeCoordinator();
  await coordinator.start();
  registry = new ModelRegistry({ apiKey: 'edg_t', apiBase: coordinator.apiBase, timing: coordinator.timing });
});
afterEach(() => coordinator.stop());

const HEART = { id: 'm1', name: 'Heart' };

test('ensureModel is one request, which the coordinator does once', async () => {
  coordinator.json(502, {}).json(201, HEART);
  await expect(registry.ensureModel({ name: 'Heart', useCase: 'risk' })).resolves.toMatchObject(HEART);
  const [first, second] = coordinator.requests;
  expect(first?.path).toBe('/api/v1/models/ensure');
  expect(JSON.parse(first?.body ?? '')).toEqual({ name: 'Heart', framework: 'octomil', use_case: 'risk' });
  expect(second?.headers['idempotency-key']).toBe(first?.headers['idempotency-key']);
});

test('listModels reads page after page, and shows a model once though the pages move meanwhile', async () => {
  const models = Array.from({ length: 100 }, (_, index) => ({ id: `m${index}`, name: `n${index}` }));
  coordinator.json(200, { models }).json(200, { models: [models[99], { id: 'm100', name: 'n100' }] });
  expect(await registry.listModels({ framework: 'pytorch', isBaseline: true })).toHaveLength(101);
  expect(coordinator.requests.map(({ path }) => path)).toEqual([
    '/api/v1/models?framework=pytorch&is_baseline=true&limit=100&offset=0',
    '/api/v1/models?framework=pytorch&is_baseline=true&limit=100&offset=100',
  ]);
});

test('listModels with a limit asks for no more', async () => {
  coordinator.json(200, { models: [HEART] });
  expect(await registry.listModels({ limit: 1, offset: 3 })).toHaveLength(1);
  expect(coordinator.requests.map(({ path }) => path)).toEqual(['/api/v1/models?limit=1&offset=3']);
});

test('names stay within their segment of the path', async () => {
  coordinator.json(200, HEART).json(200, {});
  await registry.updateModel('a/b ?ü', { description: 'd', frameworkVersion: '2' });
  await registry.deleteVersion({ modelId: 'a/b ?ü', version: '1.0.0' });
  expect(coordinator.requests).toMatchObject([
    { method: 'PATCH', path: '/api/v1/models/a%2Fb%20%3F%C3%BC', body: '{"description":"d","framework_version":"2"}' },
    { method: 'DELETE', path: '/api/v1/models/a%2Fb%20%3F%C3%BC/versions/1.0.0' },
  ]);
  await expect(registry.model('..')).rejects.toMatchObject({ code: 'invalid_input' });
});

test('pullModel checks the bytes against the digest that the registry promised', async () => {
  const digest = createHash('sha256').update('weights').digest('hex');
  const send = (hash: string): void => {
    coordinator.next((_request, response) => {
      const disposition = 'attachment; filename="heart-1.0.0.safetensors"';
      response.writeHead(200, { 'x-model-hash': hash, 'content-disposition': disposition }).end('weights');
    });
  };
  send(`sha256:${digest}`);
  const pulled = await registry.pullModel({ model: 'heart', version: '1.0.0', format: 'safetensors' });
  expect(pulled).toMatchObject({ digest, fileName: 'heart-1.0.0.safetensors' });
  expect(Buffer.from(pulled.bytes).toString()).toBe('weights');
  expect(coordinator.requests[0]?.path).toBe('/api/v1/models/heart/versions/1.0.0/download?format=safetensors');
  send('0'.repeat(64));
  await expect(registry.pullModel({ model: 'heart' })).rejects.toMatchObject({ code: 'checksum_mismatch' });
});

test.each([
  ['attachment; filename="../../.ssh/authorized_keys"', 'authorized_keys'],
  ['attachment; filename="C:\\\\temp\\\\x.onnx"', 'x.onnx'],
  ['attachment; filename=".."', undefined],
  ['attachment; filename="/"', undefined],
])('a pulled file has a name, never a path: %s', async (disposition, fileName) => {
  coordinator.next((_request, response) => {
    response.writeHead(200, { 'content-disposition': disposition }).end('weights');
  });
  expect((await registry.pullModel({ model: 'heart' })).fileName).toBe(fileName);
});

test('uploads a file by ticket: the bytes go to the given URL without the key', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-upload-'));
  try {
    await writeFile(join(folder, 'model.onnx'), 'abc');
    coordinator
      .json(200, { upload_url: `${coordinator.apiBase}/bucket/1`, storage_key: 'k 1' })
      .json(200, {})
      .json(201, { version: '1.0.0', status: 'draft' });
    const path = join(folder, 'model.onnx');
    const formats = ['onnx', 'safetensors'];
    const uploaded = await registry.uploadVersionFromPath({ modelId: 'm1', filePath: path, version: '1.0.0', formats });
    expect(uploaded).toMatchObject({ version: '1.0.0', status: 'draft' });
  } finally {
    await rm(folder, { recursive: true });
  }
  const [asked, put, confirmed] = coordinator.requests;
  expect(asked?.body).toBe('version=1.0.0&filename=model.onnx&content_type=application%2Foctet-stream');
  expect(put).toMatchObject({ method: 'PUT', path: '/api/v1/bucket/1', body: 'abc' });
  expect(put?.headers).toMatchObject({ 'content-length': '3' });
  expect(put?.headers.authorization).toBeUndefined();
  const digest = createHash('sha256').update('abc').digest('hex');
  expect(confirmed?.body).toBe(
    `version=1.0.0&storage_key=k+1&file_size=3&description=&sha256=${digest}&formats=onnx%2Csafetensors`,
  );
});

const PART = 16 * 1024 * 1024;

test('a large upload goes in parts, and goes on where it was cut off', async () => {
  const content = new Blob([new Uint8Array(2 * PART + 5)]);
  const url = `${coordinator.apiBase}/uploads/t`;
  coordinator
    .json(200, { upload_url: url, storage_key: 'k', part_size_bytes: PART })
    .json(200, {})
    .json(410, { code: 'ticket_expired', message: 'say' });
  let ticket: UploadTicket | undefined;
  const upload = { modelId: 'm1', version: '1.0.0', fileName: 'm.pt', content } as const;
  const onTicket = (given: UploadTicket): void => {
    ticket = given;
  };
  await expect(registry.uploadVersion({ ...upload, onTicket })).rejects.toMatchObject({ code: 'ticket_expired' });
  coordinator
    .json(200, { received_parts: [1] })
    .json(200, {})
    .json(200, {})
    .json(201, { version: '1.0.0', status: 'draft' });
  const progress: number[] = [];
  const resumed = { ...upload, resume: JSON.parse(JSON.stringify(ticket)) as UploadTicket };
  await registry.uploadVersion({ ...resumed, onProgress: (bytes) => progress.push(bytes) });
  expect(coordinator.requests.map(({ method, path }) => `${method} ${path.replace('/api/v1', '')}`)).toEqual([
    'POST /models/m1/versions/upload-url',
    ...['PUT /uploads/t/parts/1', 'PUT /uploads/t/parts/2'],
    ...['GET /uploads/t', 'PUT /uploads/t/parts/2', 'PUT /uploads/t/parts/3'],
    'POST /models/m1/versions/confirm-upload',
  ]);
  expect(coordinator.requests[0]?.body).toContain(`size_bytes=${2 * PART + 5}&part_size_bytes=${PART}`);
  expect(coordinator.requests[5]?.headers['content-length']).toBe('5');
  expect(progress).toEqual([PART, 2 * PART, 2 * PART + 5]);
}, 240_000);

test('waitUntilReady waits for the conversions, and fails with the reason of one that cannot be made', async () => {
  const url = `${coordinator.apiBase}/uploads/t`;
  const start = (): void => {
    coordinator.json(200, { upload_url: url, storage_key: 'k' }).json(200, {});
    coordinator.json(201, { version: '1.0.0', status: 'converting' });
  };
  const upload = { modelId: 'm1', version: '1.0.0', fileName: 'm.pt', content: new Blob(['x']), waitUntilReady: true };
  start();
  coordinator
    .json(200, { version: '1.0.0', status: 'converting', conversions: [{ format: 'onnx', state: 'running' }] })
    .json(200, { version: '1.0.0', status: 'draft' });
  await expect(registry.uploadVersion(upload)).resolves.toMatchObject({ status: 'draft' });
  expect(coordinator.waitsMs).toEqual([1000]);
  start();
  const failed = { format: 'tflite', state: 'failed', reason: 'no command makes tflite' };
  coordinator.json(200, { version: '1.0.0', status: 'converting', conversions: [failed] });
  await expect(registry.uploadVersion(upload)).rejects.toMatchObject({
    code: 'conversion_failed',
    reason: expect.stringContaining('tflite: no command makes tflite'),
    details: { formats: ['tflite'] },
  });
});

test('createRollout starts at once, and rollbackRollout finds the newest one', async () => {
  coordinator.json(201, { id: 7, status: 'active' });
  await registry.createRollout({ modelId: 'm1', version: '2.0.0', rolloutPercentage: 10 });
  expect(JSON.parse(coordinator.requests[0]?.body ?? '')).toEqual({
    version: '2.0.0',
    rollout_percentage: 10,
    start_immediately: true,
  });
  coordinator
    .json(200, [
      { id: 9, status: 'draft' },
      { id: 7, status: 'active' },
    ])
    .json(200, { id: 7, status: 'rolling_back' });
  await expect(registry.rollbackRollout({ modelId: 'm1', reason: 'slow' })).resolves.toMatchObject({ id: 7 });
  expect(coordinator.requests.at(-1)).toMatchObject({
    path: '/api/v1/models/m1/rollouts/7/rollback',
    body: '{"reason":"slow"}',
  });
});

test('a file that cannot be read is named before anything is asked', async () => {
  const upload = registry.uploadVersionFromPath({ modelId: 'm1', filePath: '/nowhere/x', version: '1.0.0' });
  await expect(upload).rejects.toMatchObject({ code: 'not_found', reason: '/nowhere/x cannot be read' });
  expect(coordinator.requests).toHaveLength(0);
});
