import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { sealFeatureSpec } from '@octomil/shared/features';
import { silentLogger } from '@octomil/shared/runtime';
import { type Coordinator, startCoordinator } from '../start-coordinator.js';
import { testDatabaseDump } from '../testing/index.js';
import { ROUTE_VISIBILITY, VISIBILITY_RULES, type VisibilityRule } from './visibility-table.js';

type Json = Record<string, unknown>;
/** In everything of the owner's that neither a member nor an outsider may read. */
const SECRET = 'LEAKED';

let coordinator: Coordinator;
let modelServer: Server;
let owner: string;
let member: string;
let outsider: string;
let ids: Record<string, string>;
let routes: { method: string; path: string; label: string }[];

beforeAll(async () => {
  modelServer = await startModelServer();
  coordinator = await startCoordinator({
    database: 'memory',
    databaseDump: await testDatabaseDump(),
    logger: silentLogger,
    // Every route is asked with the same keys.
    environment: {
      OCTOMIL_RATE_LIMIT: '0',
      OLLAMA_BASE_URL: `http://127.0.0.1:${(modelServer.address() as AddressInfo).port}`,
    },
  });
  const operator = coordinator.bootstrapApiKey ?? '';
  const organization = async (name: string) => (await send(operator, 'POST', '/api/v1/organizations', { name })).body;
  const [first, second, third] = [
    await organization('owner'),
    await organization('member'),
    await organization('outsider'),
  ];
  [owner, member, outsider] = [String(first['api_key']), String(second['api_key']), String(third['api_key'])];
  ids = await seed(String(first['id']), String(second['id']));
  const openapi = (await (await fetch(`${coordinator.restUrl}/openapi.json`)).json()) as {
    paths: Record<string, Record<string, unknown>>;
  };
  routes = Object.entries(openapi.paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((name) => {
      const method = name.toUpperCase();
      return { method, path, label: `${method} ${named(path)}` };
    }),
  );
}, 300_000);
afterAll(async () => {
  await coordinator.stop();
  modelServer.closeAllConnections();
  modelServer.close();
});

test('every route is in the table of who sees what, and nothing else is', () => {
  expect(routes.map(({ label }) => label).sort()).toEqual(Object.keys(ROUTE_VISIBILITY).sort());
});

test('no route tells an outsider or a member more than the table says', async () => {
  const problems: unknown[] = [];
  // Leaving comes last: after it, the member is none.
  const inOrder = routes.toSorted((a, b) => Number(a.path.endsWith('/leave')) - Number(b.path.endsWith('/leave')));
  for (const { method, path, label } of inOrder) {
    const rule: VisibilityRule = ROUTE_VISIBILITY[label] ?? 'private';
    if (rule === 'public') continue;
    const where = named(path).replaceAll(/\{(\w+)\}/g, (_, name: string) =>
      encodeURIComponent(ids[name] ?? randomUUID()),
    );
    for (const [who, key] of [
      ['outsider', outsider],
      ['member', member],
    ] as const) {
      const expected = VISIBILITY_RULES[rule][who];
      const { status, text } = await send(
        key,
        method,
        `${where}${queryFor(label)}`,
        bodyFor(label, method),
        contentType(label),
      );
      const right = expected === undefined ? status < 500 : expected === 200 ? status < 300 : status === expected;
      if (!right) problems.push({ label, who, status, expected, text: text.slice(0, 300) });
      if (text.includes(SECRET)) problems.push({ label, who, leaks: text.slice(0, 300) });
      // Of the session's federation an outsider does not even learn the name.
      if (who === 'outsider' && rule !== 'own' && text.includes('shared with members'))
        problems.push({ label, who, leaks: text.slice(0, 300) });
    }
  }
  expect(problems).toEqual([]);
});

test('what is read of the owner stays as it was, and the owner still sees it', async () => {
  const device = await send(owner, 'GET', `/api/v1/devices/${ids['device']}`);
  expect(device.body).toMatchObject({ device_identifier: `${SECRET}-device`, status: expect.stringMatching(/line$/) });
  const session = await send(owner, 'GET', `/api/v1/training/sessions/${ids['session']}`);
  expect(session.body).toMatchObject({ status: 'running', reason: `${SECRET} site refused` });
  const round = await send(owner, 'GET', `/api/v1/training/rounds/${ids['round']}`);
  expect(round.body['assignments']).toMatchObject([{ device: `${SECRET}-device` }]);
  const model = await send(owner, 'GET', `/api/v1/models/${ids['model']}`);
  expect((model.body['versions'] as Json[]).map(({ version }) => version)).toEqual([2, 1]);
  const policy = await send(owner, 'GET', '/api/v1/route/policy');
  expect(policy.body['complex_indicators']).toEqual([SECRET]);
  // What others said about the owner's model and device counts for themselves.
  const metrics = await send(owner, 'GET', `/api/v1/inference/metrics${METRICS_QUERY}&model_id=${ids['model']}`);
  expect(metrics.body['metrics']).toMatchObject([
    { model: 'shared model', version: `1.1.0-${SECRET}`, device_id: ids['device'], completed: 1 },
  ]);
});

test('who is invited learns that there is a federation, and what is in it after joining; who leaves takes along what it shared', async () => {
  const { federation = '' } = ids;
  const third = String((await send(outsider, 'GET', '/api/v1/organizations/me')).body['id']);
  const path = `/api/v1/federations/${federation}`;
  const invites = await send(owner, 'POST', `${path}/invite`, { org_ids: [third] });
  expect(invites.body).toMatchObject([{ org_id: third, status: 'invited', joined_at: null }]);
  expect((await send(owner, 'POST', `${path}/invite`, { org_ids: [third, randomUUID()] })).status).toBe(404);
  expect((await send(outsider, 'GET', '/api/v1/federations')).body).not.toMatchObject([{ id: federation }]);
  expect((await send(outsider, 'GET', '/api/v1/federations?status=invited')).body).toMatchObject([
    { id: federation, membership: 'invited' },
  ]);
  expect((await send(outsider, 'GET', path)).body).toMatchObject({ membership: 'invited' });
  for (const end of ['members', 'models', 'privacy'])
    expect((await send(outsider, 'GET', `${path}/${end}`)).status).toBe(403);
  expect((await send(outsider, 'GET', `/api/v1/models/${ids['model']}`)).status).toBe(404);
  expect((await send(outsider, 'GET', `/api/v1/training/sessions/${ids['session']}`)).status).toBe(404);
  expect((await send(outsider, 'POST', `${path}/join`, { org_id: randomUUID() })).status).toBe(403);
  expect((await send(outsider, 'POST', `${path}/join`)).body).toMatchObject({
    org_id: third,
    status: 'active',
    joined_at: expect.stringMatching(/Z$/),
  });
  expect((await send(outsider, 'POST', `${path}/join`, { org_id: third })).status).toBe(200);
  const mine = await send(outsider, 'POST', '/api/v1/models', { name: 'joiner' });
  expect((await send(outsider, 'POST', `${path}/models`, { model_id: 'joiner' })).status).toBe(201);
  expect((await send(owner, 'GET', `/api/v1/models/${String(mine.body['id'])}`)).status).toBe(200);
  const shared = (await send(owner, 'GET', `${path}/models`)).body as unknown as Json[];
  expect(shared.map(({ name }) => name)).toContain('joiner');
  expect((await send(outsider, 'GET', `/api/v1/training/sessions/${ids['session']}`)).status).toBe(200);
  const download = `/api/v1/models/${ids['model']}/versions/1.0.0/download-url?format=safetensors`;
  const address = String((await send(outsider, 'GET', download)).body['url']);
  expect((await fetch(address)).status).toBe(200);
  expect((await send(outsider, 'POST', `${path}/leave`)).body).toMatchObject({ status: 'left' });
  // It was signed for an hour; what it opens is no longer shared with who asked.
  expect((await fetch(address)).status).toBe(404);
  expect((await send(owner, 'GET', `/api/v1/models/${String(mine.body['id'])}`)).status).toBe(404);
  expect((await send(outsider, 'GET', path)).status).toBe(404);
  expect((await send(owner, 'POST', `${path}/leave`)).status).toBe(409);
});

test('no privacy budget is pretended', async () => {
  const { body } = await send(owner, 'GET', `/api/v1/federations/${ids['federation']}/privacy`);
  expect(body).toMatchObject({
    accounted: false,
    mechanism: 'none',
    epsilon: null,
    delta: null,
    budget_remaining: null,
    rounds_consumed: 0,
  });
});

/** `{id}` by what it is the id of. */
function named(path: string): string {
  return path.replace(/\/([a-z-]+)\/\{id\}/, (whole, collection: string) => {
    const name = {
      'api-keys': 'key',
      keys: 'key',
      federations: 'federation',
      models: 'model',
      devices: 'device',
      artifacts: 'artifact',
      'device-groups': 'group',
      sessions: 'session',
      rounds: 'round',
      proposals: 'proposal',
    }[collection];
    return name === undefined ? whole : `/${collection}/{${name}}`;
  });
}

function queryFor(label: string): string {
  if (label === 'GET /api/v1/training/rounds') return `?device_id=${ids['device']}`;
  if (label.startsWith('POST /api/v1/training/updates'))
    return `?device_id=${ids['device']}&model_id=${ids['model']}&version=1.0.0`;
  if (label.includes('/personalized/')) return `?model_id=${ids['model']}`;
  if (label === 'GET /api/v1/inference/metrics') return METRICS_QUERY;
  return label.endsWith('download-url') ? '?format=safetensors' : '';
}

function contentType(label: string): string | undefined {
  if (label.endsWith('/versions/upload')) return 'multipart/form-data; boundary=x';
  return /updates$|uploads|\/parts\//.test(label) ? 'application/octet-stream' : undefined;
}

/** Valid bodies, so that it is the owner's things that are refused. */
function bodyFor(label: string, method: string): unknown {
  const bodies: Record<string, unknown> = {
    'POST /api/v1/organizations': { name: 'x' },
    'POST /api/v1/api-keys': { name: 'x' },
    'POST /api/v1/keys': { name: 'y' },
    'POST /api/v1/federations': { name: randomUUID() },
    'POST /api/v1/federations/{federation}/invite': { org_ids: [ids['owner']] },
    'POST /api/v1/federations/{federation}/models': { model_id: ids['private'] },
    'PUT /api/v1/training/federations/{federation}/shared-identities': { allowed: false },
    'POST /api/v1/models': { name: randomUUID() },
    'POST /api/v1/models/ensure': { name: randomUUID() },
    'POST /api/v1/models/{model}/versions': { storage_path: 'x', format: 'safetensors' },
    'POST /api/v1/models/{model}/versions/upload-url': { version: '2.0.0', filename: 'w.safetensors' },
    'POST /api/v1/models/{model}/versions/confirm-upload': { version: '2.0.0', storage_key: 'x', file_size: 1 },
    'PATCH /api/v1/models/{model}/versions/{version}/metrics': { metrics: { accuracy: 1 } },
    'POST /api/v1/models/{model}/versions/{version}/conversions': { formats: ['onnx'] },
    'POST /api/v1/registry/pull': { name: ids['model'], tag: '1.0.0', format: 'safetensors' },
    'POST /api/v1/models/{model}/rollouts': { version: '1.0.0' },
    'POST /api/v1/models/{model}/rollouts/{rid}/update-percentage': { percentage: 90, reason: 'x' },
    'PATCH /api/v1/devices/{device}': { labels: {} },
    'POST /api/v1/devices/register': { device_identifier: 'mine' },
    'POST /api/v1/devices/heartbeat': { device_identifier: ids['device'] },
    'POST /api/v1/device-auth/bootstrap': { device_identifier: 'mine' },
    'POST /api/v1/device-auth/refresh': { refresh_token: 'odr_x' },
    'POST /api/v1/device-auth/revoke': { refresh_token: 'odr_x' },
    'POST /api/v1/device-groups': { name: randomUUID() },
    'POST /api/v1/device-groups/{group}/devices': { devices: [ids['device']] },
    'POST /api/v1/device-groups/{group}/devices/remove': { devices: [ids['device']] },
    'POST /api/v1/training/sessions': { model: ids['private'] },
    'POST /api/v1/training/sessions/dry-run': { model: ids['private'] },
    'POST /api/v1/training/weights': {
      model_id: ids['private'],
      version: '1.0.0',
      device_id: ids['device'],
      weights_data: 'AAAA',
    },
    'POST /api/v1/training/aggregate': { model_id: ids['private'] },
    'POST /api/v1/training/bases': { model_id: ids['private'], target: 'y', statistics: {} },
    'POST /api/v1/training/personalized/{device_id}': { weights_data: 'AAAA' },
    'POST /api/v1/features/proposals': { model: ids['private'], target: 'y' },
    'POST /api/v1/feature-alignment/projection-matrix': { features: ['a'], input_dim: 2 },
    'POST /api/v1/inference': { model_id: 'small', messages: QUESTION },
    'POST /api/v1/inference/stream': { model_id: 'small', messages: QUESTION },
    'POST /api/v1/inference/batch': { model_id: 'small', inputs: ['a'] },
    'POST /api/v1/embeddings': { model_id: 'small', input: 'a' },
    'POST /api/v1/cloud/chat/completions': { model: 'small', messages: QUESTION },
    'POST /v1/chat/completions': { model: 'small', messages: QUESTION },
    'POST /v1/embeddings': { model: 'small', input: 'a' },
    'POST /api/v1/inference/events': { ...generation('latest'), session_id: 'theirs' },
    'PUT /api/v1/route/policy': {},
  };
  return bodies[label] ?? (method === 'GET' || method === 'DELETE' ? undefined : {});
}

async function send(
  key: string,
  method: string,
  path: string,
  json?: unknown,
  type?: string,
): Promise<{ status: number; body: Json; text: string }> {
  const body = type === undefined ? JSON.stringify(json) : type.startsWith('multipart') ? '--x--\r\n' : 'bytes';
  const response = await fetch(`${coordinator.restUrl}${path}`, {
    method,
    headers: {
      authorization: `Bearer ${key}`,
      ...(json === undefined ? {} : { 'content-type': type ?? 'application/json' }),
    },
    ...(json === undefined ? {} : { body }),
    redirect: 'error',
    signal: AbortSignal.timeout(10_000),
  });
  const text = await response.text();
  let parsed: Json = {};
  try {
    parsed = JSON.parse(text) as Json;
  } catch {
    // Bytes of a download.
  }
  return { status: response.status, body: parsed, text };
}

/** Of the owner's model on the owner's device, whoever says it. */
function generation(version: string): Json {
  return {
    device_id: ids['device'],
    model_id: ids['model'],
    version,
    modality: 'text',
    session_id: 'session',
    event_type: 'generation_completed',
    timestamp_ms: Date.now(),
    metrics: { total_chunks: 1, total_duration_ms: 1 },
  };
}

/** An Ollama that knows every model. */
async function startModelServer(): Promise<Server> {
  const server = createServer((request, response) => {
    request.resume();
    const done = { done: true, done_reason: 'stop', prompt_eval_count: 1, eval_count: 1 };
    const answers: Record<string, Json> = {
      '/api/version': { version: '1' },
      '/api/tags': { models: [{ name: 'small' }] },
      '/api/embed': { embeddings: [[1, 2]], prompt_eval_count: 1 },
    };
    response.end(`${JSON.stringify(answers[request.url ?? ''] ?? { message: { content: 'yes' }, ...done })}\n`);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

/** Something of the owner's of every kind; the model is shared with the federation that the member has joined. */
async function seed(ownerId: string, memberId: string): Promise<Record<string, string>> {
  const made = async (path: string, json: unknown) =>
    String((await send(owner, 'POST', `/api/v1${path}`, json)).body['id']);
  const model = await made('/models', { name: 'shared model' });
  const hidden = await made('/models', { name: `${SECRET} model` });
  const federation = await made('/federations', { name: 'shared with members', description: 'visible' });
  await send(owner, 'POST', `/api/v1/federations/${federation}/invite`, { org_ids: [memberId] });
  await send(member, 'POST', `/api/v1/federations/${federation}/join`, {});
  await send(owner, 'POST', `/api/v1/federations/${federation}/models`, { model_id: model });
  const device = await made('/devices/register', { device_identifier: `${SECRET}-device`, manufacturer: SECRET });
  const group = await made('/device-groups', { name: `${SECRET} group` });
  await send(owner, 'POST', `/api/v1/device-groups/${group}/devices`, { devices: [device] });
  const key = await made('/api-keys', { name: `${SECRET} key`, scopes: ['models:read'] });
  const { database, objects } = coordinator.context;
  const { kysely } = database;
  const object = await objects.put(`artifacts/${SHA}`, new Uint8Array(8));
  const version = randomUUID();
  for (const [id, number, status] of [
    [version, '1.0.0', 'published'],
    [randomUUID(), `1.1.0-${SECRET}`, 'draft'],
  ] as const) {
    await kysely
      .insertInto('versions')
      .values({
        id,
        model_id: model,
        sequence: id === version ? 1 : 2,
        version: number,
        status,
        description: '',
        base_version_id: null,
        checkpoint_id: null,
        session_id: null,
        lineage: JSON.stringify({ participants: [`${SECRET}-device`] }),
        metrics: JSON.stringify({
          accuracy: 0.9,
          evaluation: { overall: { accuracy: 0.9 }, sites: { [`${SECRET}-device`]: { accuracy: 0.8 } } },
        }),
        created_by: null,
      })
      .execute();
  }
  await kysely
    .insertInto('artifacts')
    .values({
      version_id: version,
      format: 'safetensors',
      file_name: 'w.safetensors',
      object_key: `artifacts/${SHA}`,
      sha256: SHA,
      size_bytes: object.sizeBytes,
    })
    .execute();
  const rollout = await kysely
    .insertInto('rollouts')
    .values({
      organization_id: ownerId,
      model_id: model,
      version_id: version,
      previous_version_id: null,
      state: 'draft',
      share_ratio: 0,
      initial_ratio: 0.1,
      target_ratio: 1,
      increment_ratio: 0.1,
      advance_every_seconds: null,
      placement_offset: 0,
      selector: '{}',
      gates: '{}',
      reason_code: null,
      reason: SECRET,
      created_by: `key:${SECRET}`,
    })
    .returning('id')
    .executeTakeFirstOrThrow();
  const [session, round, proposal] = [randomUUID(), randomUUID(), randomUUID()];
  await kysely
    .insertInto('training_sessions')
    .values({
      id: session,
      organization_id: ownerId,
      federation_id: federation,
      model_id: model,
      state: 'running',
      admission: 'assigned',
      config: JSON.stringify({
        rounds: 1,
        strategy: 'fedavg',
        minUpdates: 1,
        federation: 'x',
        selector: {},
        local: {},
      }),
      base_version_id: version,
      new_version: null,
      result_version_id: null,
      feature_spec_hash: null,
      reason_code: 'policy_denied',
      reason: `${SECRET} site refused`,
      created_by: `key:${SECRET}`,
    })
    .execute();
  await kysely
    .insertInto('rounds')
    .values({
      id: round,
      session_id: session,
      kind: 'evaluate',
      number: 2,
      attempt: 1,
      state: 'completed',
      seed: 1,
      base_checkpoint_id: null,
      checkpoint_id: null,
      min_updates: 1,
      target_devices: 1,
      reason_code: null,
      reason: `${SECRET} was slow`,
      owner: null,
      metrics: JSON.stringify({
        evaluation: { overall: { accuracy: 0.9 }, sites: { [`${SECRET}-device`]: { accuracy: 0.8 } } },
        drift: { [SECRET]: { rows: 100, columns: [], warnings: [SECRET] } },
        participants: [SECRET],
      }),
    })
    .execute();
  await kysely
    .insertInto('assignments')
    .values({
      id: randomUUID(),
      round_id: round,
      device_id: device,
      attempt: 1,
      state: 'done',
      lease_until: new Date(Date.now() + 60_000),
      phase: null,
      reason_code: null,
      reason: SECRET,
    })
    .execute();
  const spec = sealFeatureSpec({
    formatVersion: 1,
    layout: 'table',
    columns: [{ kind: 'numeric', name: 'age', mean: 1, deviation: 1, missingMarkers: [], missingIndicator: false }],
    target: {
      rule: { column: 'y' },
      output: { kind: 'regression' },
      classes: [],
      values: 'number',
      mean: 0,
      deviation: 1,
      missingMarkers: [],
    },
  });
  const statistics = { formatVersion: 1, rows: 10, columns: [], excluded: [{ name: 'id', reason: 'identifier' }] };
  await kysely
    .insertInto('feature_proposals')
    .values({
      id: proposal,
      organization_id: ownerId,
      federation_id: federation,
      model_id: model,
      session_id: session,
      target: 'y',
      request: JSON.stringify({ hints: { age: { unit: SECRET } } }),
      sites: JSON.stringify([{ deviceId: SECRET, name: `${SECRET}-device`, statistics }]),
      warnings: JSON.stringify([`site ${SECRET} has one class`]),
      spec_hash: spec.hash,
      document: JSON.stringify(spec),
      proposed_hash: spec.hash,
      created_by: SECRET,
      confirmed_by: SECRET,
      ended_by: SECRET,
      reason: SECRET,
    })
    .execute();
  await send(owner, 'PUT', '/api/v1/route/policy', { complex_indicators: [SECRET] });
  ids = { model, device };
  await send(owner, 'POST', '/api/v1/inference/events', generation(`1.1.0-${SECRET}`));
  await send(owner, 'POST', '/api/v1/inference', {
    model_id: `${SECRET} model`,
    messages: [{ role: 'user', content: SECRET }],
  });
  return {
    owner: ownerId,
    model,
    private: hidden,
    model_id: model,
    version: '1.0.0',
    format: 'onnx',
    federation,
    device,
    device_id: device,
    group,
    key,
    session,
    round,
    proposal,
    rid: String(rollout.id),
    artifact: version,
    org_id: ownerId,
    sha256: SHA,
    part: '0',
    number: '1',
  };
}

const SHA = 'a'.repeat(64);
const QUESTION = [{ role: 'user', content: 'a' }];
const METRICS_QUERY = '?group_by=model,version,device';
