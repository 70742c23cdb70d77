import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { Client } from '../client.js';
import { FakeCoordinator } from '../testing/fake-coordinator.js';
import type { PredictionChunk } from './prediction.js';

let coordinator: FakeCoordinator;
let local: FakeCoordinator;
let client: Client;
beforeEach(async () => {
  [coordinator, local] = [new FakeCoordinator(), new FakeCoordinator()];
  await Promise.all([coordinator.start(), local.start()]);
  client = made({ reportEvents: false });
});
afterEach(async () => {
  await client.dispose();
  await Promise.all([coordinator.stop(), local.stop()]);
});

function made(options: { reportEvents: boolean; deviceId?: string }): Client {
  const { apiBase, timing } = coordinator;
  const localUrl = local.apiBase.replace('/api/v1', '');
  return new Client({ apiKey: 'edg_x', apiBase, timing, localUrl, ...options });
}

const listed = (...names: string[]): object => ({
  object: 'list',
  data: names.map((id) => ({ id, owned_by: 'octomil' })),
});
const chunk = (content: string, finish_reason: string | null = null): string =>
  `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content }, finish_reason }] })}\n\n`;
const USAGE = `data: ${JSON.stringify({ choices: [], usage: { prompt_tokens: 4, completion_tokens: 2 } })}\n\n`;
const ANSWER = `${chunk('Hel')}${chunk('lo')}${chunk('', 'stop')}${USAGE}data: [DONE]\n\n`;

test('a server on this machine that has the model answers, and is asked for its models once', async () => {
  local.json(200, listed('phi-4-mini')).events(ANSWER).events(ANSWER);
  const result = await client.predict('phi-4-mini', { input: 'hi', maxTokens: 8 });
  expect(String(result)).toBe('Hello');
  expect(result).toMatchObject({
    finishReason: 'stop',
    metrics: { route: { target: 'device', engine: 'serve' }, promptTokens: 4, completionTokens: 2, totalChunks: 2 },
  });
  expect(result.metrics.timeToFirstChunkMs).toBeGreaterThan(0);
  expect(JSON.parse(local.requests[1]?.body ?? '')).toEqual({
    model: 'phi-4-mini',
    messages: [{ role: 'user', content: 'hi' }],
    max_tokens: 8,
    stream: true,
    stream_options: { include_usage: true },
  });
  // The organization's key is none of the server's business.
  expect(local.requests[1]?.headers['authorization']).toBeUndefined();
  const stream = client.predictStream('phi-4-mini', { messages: 'again' });
  const chunks: PredictionChunk[] = [];
  for await (const piece of stream) chunks.push(piece);
  expect(chunks.join('')).toBe('Hello');
  expect(chunks.map(({ index }) => index)).toEqual([0, 1]);
  expect(stream.metrics).toMatchObject({ route: { engine: 'serve' }, totalChunks: 2 });
  expect(local.requests.map(({ path }) => path)).toEqual([
    '/v1/models',
    '/v1/chat/completions',
    '/v1/chat/completions',
  ]);
  expect(coordinator.requests).toEqual([]);
});

test('without the model here, the gateway answers, and the result says why', async () => {
  local.json(200, listed('other'));
  coordinator.json(200, { output: 'from the cloud', provider: 'ollama' });
  const { text, metrics } = await client.predict('phi-4-mini', { input: 'hi' });
  expect(text).toBe('from the cloud');
  expect(metrics.route).toMatchObject({
    target: 'cloud',
    engine: 'gateway',
    passedOver: [{ engine: 'serve', reason: expect.stringContaining('has no such model') }, { engine: 'llama.cpp' }],
  });
});

test('what is asked for is done: the cloud although the model is here, the device or nothing', async () => {
  coordinator.json(200, { output: 'cloud', provider: 'ollama' });
  expect(String(await client.predict('phi-4-mini', { input: 'hi', route: 'cloud' }))).toBe('cloud');
  expect(local.requests).toEqual([]);
  local.json(200, listed());
  await expect(client.predict('phi-4-mini', { input: 'hi', route: 'device' })).rejects.toMatchObject({
    code: 'runtime_unavailable',
    reason: expect.stringMatching(/serve: .* llama\.cpp: /),
  });
  await expect(client.predict('m', { input: 'hi', engine: 'gateway', route: 'device' })).rejects.toMatchObject({
    code: 'invalid_input',
  });
  const engine = 'mlx-lm' as 'serve';
  await expect(client.predict('m', { input: 'hi', engine })).rejects.toMatchObject({
    code: 'invalid_input',
    reason: expect.stringContaining('llama.cpp'),
  });
});

test('a place that fails before its first piece is left for the next; after it, the failure is told', async () => {
  local
    .json(200, listed('m'))
    .json(503, { code: 'model_load_failed', message: 'the engine is gone', error: { message: 'x', code: 'y' } })
    .events(chunk('Hel'), true);
  coordinator.json(200, { output: 'instead', provider: 'ollama' });
  const { text, metrics } = await client.predict('m', { input: 'hi' });
  expect(text).toBe('instead');
  expect(metrics.route.passedOver[0]).toMatchObject({
    engine: 'serve',
    reason: expect.stringContaining('the engine is gone'),
  });
  expect(coordinator.waitsMs).toEqual([]);
  await expect(client.predict('m', { input: 'hi' })).rejects.toMatchObject({ code: 'stream_interrupted' });
});

test('a file of this machine goes nowhere else', async () => {
  local.json(200, listed());
  await expect(client.predict('./none.gguf', { input: 'hi' })).rejects.toMatchObject({
    code: 'runtime_unavailable',
    details: { passedOver: [{ engine: 'serve' }, { engine: 'llama.cpp' }, { engine: 'gateway' }] },
  });
  expect(coordinator.requests).toEqual([]);
});

test('how a generation here went is reported in one batch, without what was said', async () => {
  local.json(200, listed('m')).events(ANSWER);
  coordinator.json(202, {});
  const reporting = made({ reportEvents: true, deviceId: 'device-7' });
  for await (const _ of reporting.predictStream('m', { input: 'a secret' }));
  await reporting.dispose();
  expect(coordinator.requests.map(({ path }) => path)).toEqual(['/api/v1/inference/events']);
  const body = coordinator.requests[0]?.body ?? '';
  expect(body).not.toContain('secret');
  expect(body).not.toContain('Hel');
  const common = { model_id: 'm', device_id: 'device-7', modality: 'text', session_id: expect.any(String) };
  expect(JSON.parse(body)).toEqual({
    events: [
      { ...common, event_type: 'generation_started', timestamp_ms: expect.any(Number) },
      {
        ...common,
        event_type: 'generation_completed',
        timestamp_ms: expect.any(Number),
        metrics: {
          ttfc_ms: expect.any(Number),
          mean_chunk_latency_ms: expect.any(Number),
          total_chunks: 2,
          total_duration_ms: expect.any(Number),
          throughput: expect.any(Number),
          prompt_tokens: 4,
          completion_tokens: 2,
        },
      },
    ],
  });
});

test('a coordinator that is away, or refuses, never disturbs a generation', async () => {
  local.json(200, listed('m')).events(ANSWER).events(chunk('Hel'), true);
  coordinator.json(403, { code: 'forbidden', message: 'no' });
  const reporting = made({ reportEvents: true });
  expect(String(await reporting.predict('m', { input: 'x' }))).toBe('Hello');
  await reporting.dispose();
  await coordinator.stop();
  const cut = async (): Promise<void> => {
    for await (const _ of reporting.predictStream('m', { input: 'x' }));
  };
  await expect(cut()).rejects.toMatchObject({ code: 'stream_interrupted' });
  await reporting.dispose();
});

test('a loaded model stays where it was found', async () => {
  local.json(200, listed('phi-4-mini', 'phi-4-mini:1.0.0')).events(ANSWER).events(ANSWER);
  const model = await client.loadModel('phi-4-mini', { version: '1.0.0', cacheSizeMb: 2048 });
  expect(model.route).toMatchObject({ engine: 'serve' });
  const prediction = await model.predict([{ role: 'user', content: 'Hello' }], { maxTokens: 128 });
  expect(prediction.text).toBe('Hello');
  expect(JSON.parse(local.requests[1]?.body ?? '')).toMatchObject({ model: 'phi-4-mini:1.0.0', max_tokens: 128 });
  let text = '';
  for await (const piece of model.stream('Hello')) text += piece.text;
  expect(text).toBe('Hello');
  await model.dispose();
  await expect(model.predict('x')).rejects.toMatchObject({ code: 'wrong_state' });
  await expect(client.loadModel('phi-4-mini', { cacheSizeMb: 0 })).rejects.toMatchObject({ code: 'invalid_input' });
});
