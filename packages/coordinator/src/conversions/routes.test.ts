import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { encodeModelDocument, initialWeights, modelDocument, parseArchitecture } from '@octomil/shared/models';
import { silentLogger } from '@octomil/shared/runtime';
import { encodeWeights } from '@octomil/shared/tensors';
import { type Coordinator, startCoordinator } from '../start-coordinator.js';
import { testDatabaseDump } from '../testing/index.js';

type Json = Record<string, unknown>;
let coordinator: Coordinator;
let folder: string;
let base: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-converters-'));
  const converters = join(folder, 'converters.yaml');
  const script = `const [input, output] = process.argv.slice(1); const fs = require('fs'); if (!fs.existsSync(${JSON.stringify(join(folder, 'mended'))})) throw 'broken'; fs.copyFileSync(input, output)`;
  const command = [process.execPath, '-e', script, '{input}', '{output}'];
  await writeFile(converters, JSON.stringify({ converters: [{ from: 'tensorflow', to: 'tflite', command }] }));
  coordinator = await startCoordinator({
    database: 'memory',
    databaseDump: await testDatabaseDump(),
    logger: silentLogger,
    environment: { OCTOMIL_CONVERTERS: converters },
  });
  const model = await call('POST', '/models', { name: 'converted' });
  base = `/models/${model.body['id']}/versions`;
}, 240_000);
afterAll(async () => {
  await coordinator.stop();
  await rm(folder, { recursive: true });
});

async function call(method: string, path: string, body?: Json | FormData) {
  const headers: Record<string, string> = { authorization: `Bearer ${coordinator.bootstrapApiKey}` };
  if (body !== undefined && !(body instanceof FormData)) headers['content-type'] = 'application/json';
  const response = await fetch(`${coordinator.restUrl}/api/v1${path}`, {
    method,
    headers,
    ...(body === undefined ? {} : { body: body instanceof FormData ? body : JSON.stringify(body) }),
  });
  return { status: response.status, body: (await response.json()) as Json };
}

async function upload(fields: Record<string, string>, bytes: Uint8Array, name: string) {
  const form = new FormData();
  for (const [field, value] of Object.entries(fields)) form.set(field, value);
  form.set('file', new Blob([new Uint8Array(bytes)]), name);
  return call('POST', `${base}/upload`, form);
}

async function untilStates(version: string, wanted: Json): Promise<Json> {
  const deadline = Date.now() + 20_000;
  for (;;) {
    const { body } = await call('GET', `${base}/${version}/conversions`);
    const states = Object.fromEntries((body['conversions'] as Json[]).map(({ format, state }) => [format, state]));
    if (JSON.stringify(states) === JSON.stringify(wanted)) return body;
    expect({ states, late: Date.now() > deadline }).toEqual({ states, late: false });
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test('a version converts from its upload on, is published after it, and its formats download', async () => {
  const document = modelDocument(parseArchitecture('logistic'), 3);
  const weights = encodeWeights(initialWeights(document.architecture, 3, 1));
  await upload({ version: '1.0.0' }, encodeModelDocument(document), 'model.json');
  const made = await upload({ version: '1.0.0', formats: 'onnx,pytorch' }, weights, 'weights.safetensors');
  expect(made.status).toBe(201);
  const body = await untilStates('1.0.0', { onnx: 'ready', pytorch: 'ready' });
  expect(body).toMatchObject({ version: '1.0.0', status: 'draft' });
  expect((await call('POST', `${base}/1.0.0/publish`, {})).status).toBe(200);
  const response = await fetch(`${coordinator.restUrl}/api/v1${base}/1/download?format=onnx`, {
    headers: { authorization: `Bearer ${coordinator.bootstrapApiKey}` },
  });
  expect(response.headers.get('content-disposition')).toContain('model.onnx');
  expect((await response.arrayBuffer()).byteLength).toBeGreaterThan(100);
}, 240_000);

test('a failed format says why, holds publishing back, is tried again by route or dropped', async () => {
  await upload({ version: '2.0.0', formats: 'tflite' }, Buffer.from('\x89HDF\r\n\x1a\nweights', 'latin1'), 'model.h5');
  const failed = await untilStates('2.0.0', { tflite: 'failed' });
  expect(failed).toMatchObject({ status: 'converting', conversions: [{ reason_code: 'conversion_failed' }] });
  expect(await call('POST', `${base}/2.0.0/publish`, {})).toMatchObject({ status: 409 });
  const missing = await call('GET', `${base}/2.0.0/download?format=tflite`);
  expect(missing).toMatchObject({ status: 404, body: { code: 'format_not_ready' } });
  expect(String(missing.body['message'])).toContain('broken');

  await call('POST', `${base}/2.0.0/conversions`, { formats: ['tflite'] });
  await untilStates('2.0.0', { tflite: 'failed' });
  await writeFile(join(folder, 'mended'), '');
  const again = await call('POST', `${base}/2.0.0/conversions`, { formats: ['tflite'] });
  expect(again).toMatchObject({ status: 202, body: { status: 'converting' } });
  expect(await untilStates('2.0.0', { tflite: 'ready' })).toMatchObject({ status: 'draft' });
  const ready = await call('DELETE', `${base}/2.0.0/conversions/tflite`);
  expect(ready).toMatchObject({ status: 409, body: { code: 'wrong_state', details: { state: 'ready' } } });
}, 240_000);

test('bad requests: a format that nothing makes, ill-typed fields, what is not there', async () => {
  await upload({ version: '3.0.0' }, Buffer.from('weights'), 'model.onnx');
  const refused = await call('POST', `${base}/3.0.0/conversions`, { formats: ['coreml'] });
  expect(refused).toMatchObject({ status: 422, body: { code: 'conversion_failed' } });
  expect(String(refused.body['message'])).toContain('tensorflow → tflite');
  for (const body of [{}, { formats: [] }, { formats: ['../x'] }, { formats: 'onnx' }]) {
    const wrong = await call('POST', `${base}/3.0.0/conversions`, body);
    expect(wrong.status).toBe(400);
    expect(String(wrong.body['message'])).toContain('formats');
  }
  expect((await call('GET', `${base}/9.9.9/conversions`)).status).toBe(404);
  expect((await call('GET', `/models/${'ü'.repeat(500)}%2F/versions/1/conversions`)).status).toBe(404);
  expect((await call('DELETE', `${base}/3.0.0/conversions/tflite`)).status).toBe(404);
  expect((await call('POST', `${base}/3.0.0/deprecate`, {})).status).toBe(200);
  const late = await call('POST', `${base}/3.0.0/conversions`, { formats: ['onnx', 'npz'] });
  expect([409, 422]).toContain(late.status);
}, 240_000);
