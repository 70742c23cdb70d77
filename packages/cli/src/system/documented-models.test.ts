// The snippets of the documented Models API page, as they stand there, against a real coordinator: only the base URL and
// the ids are others.
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { type Coordinator, startCoordinator } from '@octomil/coordinator';
import { ModelRegistry } from '@octomil/sdk';
import { silentLogger } from '@octomil/shared/runtime';

const DOCUMENTED_BASE = 'https://api.octomil.com';
const DOCUMENTED_ID = 'b2c3d4e5-f6a7-8901-bcde-f12345678901';
const ZONED = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/;
const WEIGHTS = Buffer.from('weights of a digit classifier');
const ONNX = Buffer.from('the same, as ONNX');
const shell = promisify(execFile);

let coordinator: Coordinator;
let registry: ModelRegistry;
let folder: string;
let modelId: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-documented-'));
  coordinator = await startCoordinator({ database: 'memory', logger: silentLogger });
  registry = new ModelRegistry({
    apiKey: coordinator.bootstrapApiKey ?? '',
    apiBase: `${coordinator.restUrl}/api/v1`,
  });
  await writeFile(join(folder, 'model.pt'), WEIGHTS);
  const model = await registry.createModel({
    framework: 'pytorch',
    frameworkVersion: '2.1.0',
    description: 'MNIST digit classifier - 3-layer CNN',
    isBaseline: true,
  });
  modelId = model.id;
  const upload = { modelId, fileName: 'model.pt', content: new Blob([WEIGHTS]) };
  for (const version of ['1.0.0', '1.1.0']) await registry.uploadVersion({ ...upload, version });
}, 240_000);
afterAll(async () => {
  await coordinator.stop();
  await rm(folder, { recursive: true });
}, 240_000);

/** Runs a snippet in a shell, in a folder that holds `model.pt`. */
async function run(snippet: string): Promise<string> {
  const command = snippet.replaceAll(DOCUMENTED_BASE, coordinator.restUrl).replaceAll(DOCUMENTED_ID, modelId);
  const env = { ...process.env, OCTOMIL_API_KEY: coordinator.bootstrapApiKey };
  return (await shell('bash', ['-c', command], { cwd: folder, env, timeout: 20_000 })).stdout;
}

async function json(snippet: string): Promise<Record<string, unknown>> {
  return JSON.parse(await run(snippet)) as Record<string, unknown>;
}

test('list models (cURL)', async () => {
  const answer = await json(`curl "https://api.octomil.com/api/v1/models?framework=pytorch&limit=10" \\
-H "Authorization: Bearer $OCTOMIL_API_KEY"`);
  expect(answer).toMatchObject({ total: 1, limit: 10, offset: 0 });
  expect(answer['models']).toEqual([
    expect.objectContaining({
      id: modelId,
      round_id: null,
      model_path: expect.any(String),
      model_size_bytes: WEIGHTS.length,
      model_hash: `sha256:${createHash('sha256').update(WEIGHTS).digest('hex')}`,
      framework: 'pytorch',
      framework_version: '2.1.0',
      accuracy: null,
      loss: null,
      is_baseline: true,
      description: 'MNIST digit classifier - 3-layer CNN',
      created_at: expect.stringMatching(ZONED),
    }),
  ]);
});

test('list models (Python, in TypeScript)', async () => {
  const lines: string[] = [];
  for (const model of await registry.listModels({ framework: 'pytorch', limit: 10 })) {
    lines.push(`${model.id}: ${model['description']}`);
  }
  expect(lines).toEqual([`${modelId}: MNIST digit classifier - 3-layer CNN`]);
  await expect(registry.listModels({ framework: 'sklearn' })).resolves.toEqual([]);
});

test('retrieve a model', async () => {
  const answer = await json(`curl https://api.octomil.com/api/v1/models/b2c3d4e5-f6a7-8901-bcde-f12345678901 \\
-H "Authorization: Bearer $OCTOMIL_API_KEY"`);
  expect(answer).toMatchObject({ id: modelId, framework: 'pytorch', is_baseline: true });
  const versions = answer['versions'] as Record<string, unknown>[];
  expect(versions.find(({ version }) => version === 1)).toMatchObject({
    version: 1,
    format: 'pytorch',
    model_size_bytes: WEIGHTS.length,
    uploaded_at: expect.stringMatching(ZONED),
  });
});

test('create a model', async () => {
  const answer = await json(`curl -X POST https://api.octomil.com/api/v1/models \\
-H "Authorization: Bearer $OCTOMIL_API_KEY" \\
-H "Content-Type: application/json" \\
-d '{
"framework": "pytorch",
"framework_version": "2.1.0",
"description": "MNIST digit classifier - 3-layer CNN",
"is_baseline": true
}'`);
  expect(answer).toMatchObject({
    id: expect.stringMatching(/^[0-9a-f-]{36}$/),
    framework: 'pytorch',
    framework_version: '2.1.0',
    is_baseline: true,
    description: 'MNIST digit classifier - 3-layer CNN',
    created_at: expect.stringMatching(ZONED),
  });
  expect(answer['id']).not.toBe(modelId);
});

test('upload a version', async () => {
  const answer =
    await json(`curl -X POST https://api.octomil.com/api/v1/models/b2c3d4e5-f6a7-8901-bcde-f12345678901/versions/upload \\
-H "Authorization: Bearer $OCTOMIL_API_KEY" \\
-F "file=@model.pt" \\
-F "format=pytorch" \\
-F "description=After round 18 aggregation"`);
  expect(answer).toMatchObject({
    model_id: modelId,
    version: 3,
    format: 'pytorch',
    model_path: expect.any(String),
    model_size_bytes: WEIGHTS.length,
    model_hash: `sha256:${createHash('sha256').update(WEIGHTS).digest('hex')}`,
    description: 'After round 18 aggregation',
    uploaded_at: expect.stringMatching(ZONED),
  });
});

test('download a version', async () => {
  const versions = (await registry.model(modelId))['versions'] as Record<string, unknown>[];
  const third = versions.find(({ version }) => version === 3);
  await registry.uploadVersion({
    modelId,
    version: String(third?.['semantic_version']),
    fileName: 'model.onnx',
    content: new Blob([ONNX]),
  });
  const snippet = `# Download as ONNX
curl -O "https://api.octomil.com/api/v1/models/b2c3d4e5-f6a7-8901-bcde-f12345678901/versions/3/download?format=onnx" \\
-H "Authorization: Bearer $OCTOMIL_API_KEY"`;
  await run(snippet);
  expect((await readFile(join(folder, 'download'))).equals(ONNX)).toBe(true);
  const heads = await run(snippet.replace('-O', '-s -D - -o /dev/null'));
  expect(heads).toMatch(/^content-disposition: attachment; filename="[^"]+\.onnx"/im);
  expect(heads).toMatch(new RegExp(`^content-length: ${ONNX.length}\\r$`, 'im'));
  expect(heads).toMatch(/^x-model-hash: (sha256:)?[0-9a-f]{64}\r$/im);
  const missing = await run(snippet.replace('-O', '-s').replace('format=onnx', 'format=coreml'));
  expect(JSON.parse(missing)).toMatchObject({ error: 'not_found', code: 'format_not_ready' });
});

test.each([
  [400, 'bad_request', 'POST', '/api/v1/models', '{"is_baseline": "perhaps"}'],
  [401, 'unauthorized', 'GET', '/api/v1/models', undefined],
  [404, 'not_found', 'GET', '/api/v1/models/00000000-0000-0000-0000-000000000000', undefined],
  [409, 'conflict', 'POST', '/api/v1/models', '{"name": "taken"}'],
])('errors: %i is %s', async (status, error, method, path, body) => {
  await registry.ensureModel({ name: 'taken' });
  const key = status === 401 ? `edg_${'x'.repeat(43)}` : coordinator.bootstrapApiKey;
  const answer = await fetch(`${coordinator.restUrl}${path}`, {
    method,
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body }),
  });
  expect(answer.status).toBe(status);
  expect(await answer.json()).toMatchObject({ error, message: expect.any(String) });
});
