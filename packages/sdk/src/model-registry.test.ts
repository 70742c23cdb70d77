import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { ModelRegistry } from './model-registry.js';
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

test('ensureModel finds a model in any case of letters, and makes it only when there is none', async () => {
  coordinator.json(200, { models: [HEART] });
  await expect(registry.ensureModel({ name: 'heart' })).resolves.toMatchObject(HEART);
  coordinator.json(200, { models: [] }).json(201, HEART);
  await expect(registry.ensureModel({ name: 'Heart', useCase: 'risk' })).resolves.toMatchObject(HEART);
  expect(JSON.parse(coordinator.requests[2]?.body ?? '')).toMatchObject({ name: 'Heart', use_case: 'risk' });
});

test('ensureModel takes the model that somebody else made in between', async () => {
  coordinator
    .json(200, { models: [] })
    .json(409, { code: 'conflict', message: 'there is a model Heart' })
    .json(200, { models: [HEART] });
  await expect(registry.ensureModel({ name: 'Heart' })).resolves.toMatchObject({ id: 'm1' });
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
    const uploaded = await registry.uploadVersionFromPath({ modelId: 'm1', filePath: path, version: '1.0.0' });
    expect(uploaded).toMatchObject({ version: '1.0.0', status: 'draft' });
  } finally {
    await rm(folder, { recursive: true });
  }
  const [asked, put, confirmed] = coordinator.requests;
  expect(asked?.body).toBe('version=1.0.0&filename=model.onnx&content_type=application%2Foctet-stream');
  expect(put).toMatchObject({ method: 'PUT', path: '/api/v1/bucket/1', body: 'abc' });
  expect(put?.headers).toMatchObject({ 'content-length': '3' });
  expect(put?.headers.authorization).toBeUndefined();
  expect(confirmed?.body).toBe('version=1.0.0&storage_key=k+1&file_size=3&description=');
});

test('a file that cannot be read is named before anything is asked', async () => {
  const upload = registry.uploadVersionFromPath({ modelId: 'm1', filePath: '/nowhere/x', version: '1.0.0' });
  await expect(upload).rejects.toMatchObject({ code: 'not_found', reason: '/nowhere/x cannot be read' });
  expect(coordinator.requests).toHaveLength(0);
});
