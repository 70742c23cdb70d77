import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { createMetrics, silentLogger, systemClock } from '@octomil/shared/runtime';
import { sql } from 'kysely';
import { type App, createApp } from '../http/index.js';
import { openRunDatabase } from '../testing/databases.js';
import { openRolloutBench, type RolloutBench } from '../testing/rollout-bench.js';
import { EventSweeper } from './event-sweeper.js';
import { createInferenceService, type InferenceService } from './inference-service.js';

type Json = Record<string, unknown>;
let bench: RolloutBench;
let app: App;
let service: InferenceService;
let ollama: Server;
let deviceId = '';
let version = { id: '', version: '' };

beforeAll(async () => {
  bench = await openRolloutBench(openRunDatabase);
  [deviceId = ''] = await bench.devices([0.1]);
  version = await bench.version();
  ollama = createServer((request, response) => {
    request.resume();
    response.write(`${JSON.stringify({ message: { content: 'Cherry' }, done: false })}\n`);
    response.end(`${JSON.stringify({ done: true, done_reason: 'stop', prompt_eval_count: 5, eval_count: 1 })}\n`);
  }).listen(0, '127.0.0.1');
  await once(ollama, 'listening');
  app = await createApp({
    // Keys of these tests read `edg_<organization>.<scope>.<scope>`; credentials `odc_<device>`.
    authenticator: {
      verifyKey: async (key) => {
        const [organizationId = '', ...scopes] = key.slice(4).split('.');
        if (!key.startsWith('edg_')) throw new OctomilError('invalid_api_key', 'unknown');
        return { kind: 'key', organizationId, keyId: 'k', scopes };
      },
      verifyDeviceCredential: async (credential) => ({
        organizationId: bench.organizationId,
        deviceId: credential.slice(4),
      }),
    },
    logger: silentLogger,
    clock: systemClock,
    metrics: createMetrics({ processMetrics: false }),
  });
  service = createInferenceService({
    database: bench.database,
    config: {
      ollamaBaseUrl: `http://127.0.0.1:${(ollama.address() as AddressInfo).port}`,
      openAiEndpoint: undefined,
      openAiApiKey: undefined,
      timeoutMs: 5_000,
      maxShareRatio: 0.8,
    },
    clock: systemClock,
    logger: silentLogger,
  });
  service.register(app);
  service.start();
}, 240_000);
afterAll(async () => {
  await service.stop();
  await app.close();
  ollama.closeAllConnections();
  ollama.close();
  await bench.close();
}, 180_000);

async function ask(
  method: 'GET' | 'POST' | 'PUT',
  path: string,
  payload?: object,
  { scopes = 'admin', token, headers = {} }: { scopes?: string; token?: string; headers?: Record<string, string> } = {},
) {
  const response = await app.inject({
    method,
    url: path,
    headers: { authorization: `Bearer ${token ?? `edg_${bench.organizationId}.${scopes}`}`, ...headers },
    ...(payload === undefined ? {} : { payload }),
  });
  const text = response.body;
  return {
    status: response.statusCode,
    text,
    headers: response.headers,
    body: (text.startsWith('{') ? JSON.parse(text) : {}) as Json,
  };
}

const event = (session: string, fields: Json = {}) => ({
  device_id: deviceId,
  model_id: bench.model.name,
  version: version.version,
  modality: 'text',
  session_id: session,
  event_type: 'generation_completed',
  timestamp_ms: Date.now(),
  org_id: 'whatever',
  metrics: { ttfc_ms: 20, total_chunks: 10, total_duration_ms: 100, throughput: 100, inner: {} },
  ...fields,
});

test('inference needs its scope, and answers keys and devices', async () => {
  const body = { model_id: 'phi-4-mini', messages: [{ role: 'user', content: 'Write a haiku' }] };
  expect(await ask('POST', '/api/v1/inference', body, { scopes: 'models:read' })).toMatchObject({
    status: 403,
    body: { code: 'forbidden' },
  });
  expect((await ask('POST', '/api/v1/inference', body, { token: 'nobody' })).status).toBe(401);
  expect(await ask('POST', '/api/v1/inference', body, { scopes: 'cloud:inference' })).toMatchObject({
    status: 200,
    body: { output: 'Cherry', provider: 'ollama', model_id: 'phi-4-mini' },
  });
  const streamed = await ask('POST', '/api/v1/inference/stream', body, { token: `odc_${deviceId}` });
  expect(streamed).toMatchObject({ status: 200, text: expect.stringContaining('"token":"Cherry","done":false') });
  expect(streamed.headers['x-request-id']).toBeDefined();
  const wrong = await ask(
    'POST',
    '/v1/chat/completions',
    { model: 'm', messages: 'Hi' },
    { scopes: 'cloud:inference' },
  );
  expect(wrong).toMatchObject({ status: 400, body: { error: { param: 'messages', code: 'bad_request' } } });
  await service.intake.settle();
  const { body: figures } = await ask('GET', '/api/v1/inference/metrics?model_id=phi-4-mini&group_by=version,device');
  expect(figures['metrics']).toMatchObject([
    { version: 'cloud', device_id: '', started: 1, completed: 1, completion_tokens: 1 },
    { version: 'cloud', device_id: deviceId, started: 1, completed: 1, completion_tokens: 1 },
  ]);
});

test('events count once for each session and type, alone and in lists', async () => {
  const [one, two] = [randomUUID(), randomUUID()];
  const started = event(one, { event_type: 'generation_started', metrics: null });
  expect((await ask('POST', '/api/v1/inference/events', started, { scopes: 'telemetry:write' })).body).toEqual({
    status: 'accepted',
    accepted: 1,
    duplicates: 0,
  });
  const list = [started, event(one), event(one), event(two, { metrics: { total_duration_ms: 300 } })];
  const device = { token: `odc_${deviceId}` };
  expect((await ask('POST', '/api/v1/inference/events', { events: list }, device)).body).toMatchObject({
    accepted: 2,
    duplicates: 2,
  });
  const failed = event(randomUUID(), { event_type: 'generation_failed', error_code: 'inference_failed' });
  await ask('POST', '/api/v1/inference/events', failed);
  const model = encodeURIComponent(bench.model.name);
  const { body } = await ask('GET', `/api/v1/inference/metrics?model_id=${model}`, undefined, {
    scopes: 'models:read',
  });
  expect(body['metrics']).toEqual([
    {
      model_id: bench.model.id,
      model: bench.model.name,
      version: version.version,
      started: 1,
      completed: 2,
      failed: 1,
      failure_ratio: 1 / 3,
      prompt_tokens: 0,
      completion_tokens: 0,
      chunks: 20,
      chunks_per_second: 50,
      ttfc_ms: { mean: 20, p50: expect.closeTo(22.6, 0), p95: expect.closeTo(22.6, 0), p99: expect.closeTo(22.6, 0) },
      latency_ms: {
        mean: 200,
        p50: expect.closeTo(107.6, 0),
        p95: expect.closeTo(304.4, 0),
        p99: expect.closeTo(304.4, 0),
      },
    },
  ]);
  const byHour = await ask('GET', `/api/v1/inference/metrics?device_id=${deviceId}&group_by=hour&from=2020-01-01`);
  expect(byHour.body['metrics']).toMatchObject([{ hour: expect.stringMatching(/:00:00Z$/) }]);
  const other = await ask('GET', '/api/v1/inference/metrics', undefined, { token: 'edg_another.admin' });
  expect(other.body['metrics']).toEqual([]);
});

test('many requests at once are all counted, and `latest` is what the device runs', async () => {
  const model = await bench.models.create(bench.organizationId, { name: randomUUID() });
  const active = await bench.version('published', model);
  await bench.service.observeRaw(deviceId, [
    { modelId: model.id, versionId: active.id, rolloutId: null, state: 'active', activeVersionId: active.id },
  ]);
  const answers = await Promise.all(
    Array.from({ length: 40 }, (_, index) =>
      ask('POST', '/api/v1/inference/events', event(`many-${index % 20}`, { model_id: model.name, version: 'latest' })),
    ),
  );
  expect(answers.map(({ body }) => Number(body['accepted'])).reduce((a, b) => a + b)).toBe(20);
  const { body } = await ask('GET', `/api/v1/inference/metrics?model_id=${model.id}`);
  expect(body['metrics']).toMatchObject([{ version: active.version, completed: 20, chunks: 200 }]);
});

test.each([
  [{ event_type: 'generation_paused' }, 'event_type'],
  [{ session_id: '' }, 'session_id'],
  [{ model_id: 5 }, 'model_id'],
  [{ modality: 'smell' }, 'modality'],
  [{ metrics: { ttfc_ms: -1 } }, 'metrics.ttfc_ms'],
  [{ metrics: { total_chunks: 1e12 } }, 'metrics.total_chunks'],
  [{ metrics: [] }, 'metrics'],
  [{ timestamp_ms: 'now' }, 'timestamp_ms'],
])('a wrong event is 400 and its field named: %j', async (fields, field) => {
  const good = event(randomUUID());
  const single = await ask('POST', '/api/v1/inference/events', { ...good, ...fields });
  expect(single).toMatchObject({ status: 400, body: { details: { field } } });
  const list = await ask('POST', '/api/v1/inference/events', { events: [good, { ...good, ...fields }] });
  expect(list).toMatchObject({ status: 400, body: { details: { field: `events.1.${field}` } } });
});

test('a long name of no model is kept as far as a key can hold it, and takes no other event with it', async () => {
  const noise = createHash('shake256', { outputLength: 2_400 }).update('a name').digest();
  const name = Array.from({ length: 1_200 }, (_, index) =>
    String.fromCharCode(0x4e00 + (noise.readUInt16LE(index * 2) % 20_000)),
  ).join('');
  const long = { model_id: name.slice(0, 1_000), version: name.slice(1_000) };
  const answers = await Promise.all([
    ask('POST', '/api/v1/inference/events', event(randomUUID(), long)),
    ask('POST', '/api/v1/inference/events', event(randomUUID())),
  ]);
  expect(answers).toMatchObject([{ body: { accepted: 1 } }, { body: { accepted: 1 } }]);
});

test('questions that make no sense are 400', async () => {
  for (const query of [
    'group_by=colour',
    'from=yesterday',
    'from=2026-01-02&to=2026-01-01',
    'limit=0',
    // Times that JavaScript has and PostgreSQL does not.
    'from=0000-01-01T00:00:00Z',
    'from=-200000-01-01T00:00:00Z',
    'from=2026-01-01&to=%2B275000-01-01T00:00:00Z',
    'to=0001-01-01T00:00:00Z',
  ]) {
    expect((await ask('GET', `/api/v1/inference/metrics?${query}`)).status).toBe(400);
  }
});

test('a rollout is judged by events where the device reports no counters of its own', async () => {
  const model = await bench.models.create(bench.organizationId, { name: randomUUID() });
  const next = await bench.version('published', model);
  const rollout = await bench.service.commands.create(
    model,
    {
      version: next.version,
      initialRatio: 1,
      targetRatio: 1,
      incrementRatio: 0.1,
      advanceEverySeconds: null,
      selector: undefined,
      health: undefined,
      startImmediately: true,
      reason: null,
    },
    'key:k',
  );
  const say = (health: object | null) =>
    bench.service.observeRaw(deviceId, [
      {
        modelId: model.id,
        versionId: next.id,
        rolloutId: rollout.id,
        state: 'active',
        activeVersionId: next.id,
        health,
      },
    ]);
  await say({ inferences: 0, inferenceErrors: 0, latencyMs: null, evaluation: null, baseline: null });
  const common = { model_id: model.id, version: 'latest' };
  const events = Array.from({ length: 12 }, (_, index) =>
    event(randomUUID(), { ...common, ...(index < 4 ? { event_type: 'generation_failed' } : {}) }),
  );
  await ask('POST', '/api/v1/inference/events', { events });
  const left = ['cancelled', 'context_too_large', 'invalid_input'].map((code) =>
    event(randomUUID(), { ...common, event_type: 'generation_failed', error_code: code }),
  );
  await ask('POST', '/api/v1/inference/events', { events: left });
  const judged = await bench.service.judgement(rollout);
  expect(judged?.seen.aggregate).toMatchObject({ inferences: 12, inferenceErrors: 4, latencyMs: 100, countedTimed: 8 });
  // An answer of which nobody said how long it took is no fast one.
  const untimed = Array.from({ length: 8 }, () => event(randomUUID(), { ...common, metrics: {} }));
  await ask('POST', '/api/v1/inference/events', { events: untimed });
  const mixed = await bench.service.judgement(rollout);
  expect(mixed?.seen.aggregate).toMatchObject({ inferences: 20, latencyMs: 100, countedTimed: 8 });
  await say({
    inferences: 50,
    inferenceErrors: 0,
    latencyMs: { mean: 7, p95: 8 },
    evaluation: null,
    baseline: null,
  });
  const own = await bench.service.judgement(rollout);
  expect(own?.seen.aggregate).toMatchObject({ inferences: 50, inferenceErrors: 0, latencyMs: 7, countedTimed: 50 });
});

test('no key of published clients speaks for an enrolled device in events, which decide rollouts', async () => {
  const model = await bench.models.create(bench.organizationId, { name: randomUUID() });
  const [phone = ''] = await bench.devices([0.3]);
  await bench.database.kysely.updateTable('devices').set({ identity: 'shared' }).where('id', '=', phone).execute();
  const say = (scopes: string, device: string) =>
    ask('POST', '/api/v1/inference/events', event(randomUUID(), { model_id: model.id, device_id: device }), { scopes });
  for (const scopes of ['telemetry:write', 'cloud:inference', 'devices:write.telemetry:write']) {
    for (const device of [deviceId, phone, 'a name of nobody']) {
      expect((await say(scopes, device)).body).toMatchObject({ accepted: 1 });
    }
  }
  const { body } = await ask('GET', `/api/v1/inference/metrics?model_id=${model.id}&group_by=device`);
  const figures = body['metrics'] as { device_id: string; completed: number }[];
  expect(Object.fromEntries(figures.map(({ device_id, completed }) => [device_id, completed]))).toEqual({
    '': 2,
    [deviceId]: 1,
    [phone]: 3,
    'a name of nobody': 3,
  });
});

test('what is old is swept', async () => {
  await sql`update inference_events set created_at = now() - interval '8 days' where session_id like 'many-%'`.execute(
    bench.database.kysely,
  );
  const sweeper = new EventSweeper({ database: bench.database, clock: systemClock, logger: silentLogger });
  expect(await sweeper.sweep()).toBe(20);
  expect(await sweeper.sweep()).toBe(0);
});

test('the routing policy has every field that clients read, an ETag, and each organization its own', async () => {
  const first = await ask('GET', '/api/v1/route/policy', undefined, { token: `odc_${deviceId}` });
  expect(first.body).toMatchObject({
    version: 0,
    thresholds: { fast_max_words: 10, quality_min_words: 50 },
    complex_indicators: expect.arrayContaining(['refactor']),
    deterministic_enabled: true,
    ttl_seconds: 3600,
    length_weight: 0.5,
    indicator_weight: 0.5,
    fast_threshold: 0.3,
    quality_threshold: 0.7,
    indicator_normalizor: 3,
  });
  expect(first.headers['cache-control']).toBe('private, max-age=3600');
  const etag = String(first.headers['etag']);
  const again = await ask('GET', '/api/v1/route/policy', undefined, { headers: { 'if-none-match': etag } });
  expect(again.status).toBe(304);
  const put = { fast_threshold: 0.2, complex_indicators: ['sepsis'], ttl_seconds: 60 };
  expect((await ask('PUT', '/api/v1/route/policy', put, { scopes: 'models:read' })).status).toBe(403);
  expect((await ask('PUT', '/api/v1/route/policy', put)).body).toMatchObject({ version: 1, quality_threshold: 0.7 });
  await ask('PUT', '/api/v1/route/policy', put);
  const changed = await ask('GET', '/api/v1/route/policy', undefined, { headers: { 'if-none-match': etag } });
  expect(changed).toMatchObject({
    status: 200,
    body: { version: 2, complex_indicators: ['sepsis'], fast_threshold: 0.2 },
  });
  expect(await ask('PUT', '/api/v1/route/policy', { fast_threshold: 0.9 })).toMatchObject({
    status: 400,
    body: { details: { field: 'fast_threshold' } },
  });
  const other = await ask('GET', '/api/v1/route/policy', undefined, { token: 'edg_another.models:read' });
  expect(other.body).toMatchObject({ version: 0 });
});
