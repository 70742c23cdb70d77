import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { createMetrics, silentLogger, systemClock } from '@octomil/shared/runtime';
import { type App, createApp } from '../http/index.js';
import type { Model } from '../models/model-store.js';
import { insertOrganization } from '../testing/enrolled-device.js';
import { openTestDatabase } from '../testing/index.js';
import { openRolloutBench, type RolloutBench } from '../testing/rollout-bench.js';
import { registerRolloutRoutes } from './routes.js';

type Json = Record<string, unknown>;
let bench: RolloutBench;
let app: App;
let strangerId: string;
let model: Model;
let version: string;

beforeAll(async () => {
  bench = await openRolloutBench(openTestDatabase);
  strangerId = await insertOrganization(bench.database);
  app = await createApp({
    // Keys of these tests read `edg_<organization>.<scope>.<scope>`.
    authenticator: {
      verifyKey: async (key) => {
        const [organizationId = '', ...scopes] = key.slice(4).split('.');
        return { kind: 'key', organizationId, keyId: 'k', scopes };
      },
      verifyDeviceCredential: () => Promise.reject(new OctomilError('authentication_failed', 'no devices here')),
    },
    logger: silentLogger,
    clock: systemClock,
    metrics: createMetrics({ processMetrics: false }),
  });
  registerRolloutRoutes(app, { rollouts: bench.service, registry: { models: bench.models } });
  ({ model, version } = await newModel('risk of falls / ward 7 ü'));
  await bench.devices(Array.from({ length: 10 }, (_, index) => index / 10));
}, 240_000);
afterAll(async () => {
  await app.close();
  await bench.close();
}, 180_000);

async function newModel(name: string = randomUUID()): Promise<{ model: Model; version: string }> {
  const created = await bench.models.create(bench.organizationId, { name });
  return { model: created, version: (await bench.version('published', created)).version };
}

async function ask(
  method: 'GET' | 'POST' | 'DELETE',
  path: string,
  payload?: object,
  key = `edg_${bench.organizationId}.rollouts:write`,
): Promise<{ status: number; body: Json }> {
  const response = await app.inject({
    method,
    url: `/api/v1/models${path}`,
    headers: { authorization: `Bearer ${key}` },
    ...(payload === undefined ? {} : { payload }),
  });
  return { status: response.statusCode, body: response.json() as Json };
}

const FIELDS = [
  'id',
  'model_id',
  'version',
  'version_id',
  'previous_version',
  'status',
  'rollout_percentage',
  'target_percentage',
  'increment_step',
  'advance_every_seconds',
  'stage',
  'stage_started_at',
  'next_stage_at',
  'selector',
  'health',
  'reason_code',
  'reason',
  'created_by',
  'created_at',
  'started_at',
  'finished_at',
  'updated_at',
];

test('the whole life of a rollout, by the name of the model', async () => {
  const base = `/${encodeURIComponent(model.name)}/rollouts`;
  const draft = await ask('POST', base, { version });
  expect(draft).toMatchObject({
    status: 201,
    body: {
      status: 'draft',
      version,
      rollout_percentage: 10,
      target_percentage: 100,
      increment_step: 10,
      stage: 0,
      started_at: null,
      created_by: 'key:k',
      created_at: expect.stringMatching(/Z$/),
      health: { min_devices: 1, on_breach: 'rollback' },
    },
  });
  expect(Object.keys(draft.body)).toEqual(FIELDS);
  const one = `${base}/${draft.body['id']}`;
  expect((await ask('GET', `${base}/active`)).body).toEqual([]);
  expect(await ask('POST', `${one}/start`, {})).toMatchObject({ status: 200, body: { status: 'active', stage: 1 } });
  expect((await ask('GET', `${base}/active`)).body).toMatchObject([{ rollout_percentage: 10 }]);
  expect(await ask('POST', `${one}/advance`)).toMatchObject({ status: 200, body: { rollout_percentage: 20 } });
  expect(await ask('POST', `${one}/advance`, { custom_increment: 12.5 })).toMatchObject({
    body: { rollout_percentage: 32.5 },
  });
  expect(await ask('POST', `${one}/pause`, { reason: 'lunch' })).toMatchObject({
    body: { status: 'paused', reason: 'lunch' },
  });
  expect(await ask('POST', `${one}/resume`, {})).toMatchObject({ body: { status: 'active' } });
  expect(await ask('POST', `${one}/update-percentage`, { percentage: 50, reason: 'fine' })).toMatchObject({
    body: { rollout_percentage: 50, reason: 'fine' },
  });
  expect((await ask('GET', one)).body).toMatchObject({
    devices: { in_stage: 5, active: 0, pending: 0, failed: 0 },
    gate: { verdict: 'wait' },
  });
  const devices = await ask('GET', `${one}/affected-devices?limit=2`);
  expect(devices).toMatchObject({
    body: { total: 5, total_is_exact: true, limit: 2, offset: 0, next_cursor: expect.any(String) },
  });
  expect(devices.body['devices']).toHaveLength(2);
  expect(await ask('POST', `${one}/rollback`, { reason: 'worse' })).toMatchObject({
    body: { status: 'rolling_back', reason: 'worse' },
  });
  const history = (await ask('GET', `${one}/status-history`)).body as unknown as Json[];
  expect(history.map((entry) => [entry['to_status'], entry['to_percentage'], entry['actor'], entry['reason']])).toEqual(
    [
      ['draft', 0, 'key:k', null],
      ['active', 10, 'key:k', null],
      ['active', 20, 'key:k', null],
      ['active', 32.5, 'key:k', null],
      ['paused', 32.5, 'key:k', 'lunch'],
      ['active', 32.5, 'key:k', null],
      ['active', 50, 'key:k', 'fine'],
      ['rolling_back', 50, 'key:k', 'worse'],
    ],
  );
  expect((await ask('GET', `${base}?status_filter=rolling_back`)).body).toHaveLength(1);
  expect((await ask('GET', `${base}?status_filter=draft`)).body).toEqual([]);
  const id = Number(draft.body['id']);
  await bench.service.wake(id);
  expect(await ask('DELETE', one)).toMatchObject({ status: 200, body: { id, deleted: true } });
  expect(await ask('GET', one)).toMatchObject({ status: 404, body: { code: 'not_found' } });
});

test.each([
  [{}, 'version'],
  [{ version: 1.5 }, 'version'],
  [{ version: '1.0.0', rollout_percentage: '10' }, 'rollout_percentage'],
  [{ version: '1.0.0', rollout_percentage: 101 }, 'rollout_percentage'],
  [{ version: '1.0.0', rollout_percentage: -1 }, 'rollout_percentage'],
  [{ version: '1.0.0', target_percentage: 0 }, 'target_percentage'],
  [{ version: '1.0.0', increment_step: 0 }, 'increment_step'],
  [{ version: '1.0.0', start_immediately: 'soon' }, 'start_immediately'],
  [{ version: '1.0.0', advance_every_seconds: 0 }, 'advance_every_seconds'],
  [
    { version: '1.0.0', rollout_percentage: 60, target_percentage: 50 },
    'rollout_percentage 60 is above target_percentage 50',
  ],
  [{ version: '1.0.0', selector: { labels: { a: 7 } } }, 'selector.labels.a'],
  [{ version: '1.0.0', selector: 'all' }, 'selector'],
  [{ version: '1.0.0', health: { min_devices: 'two' } }, 'health.min_devices'],
  [{ version: '1.0.0', reason: 'x'.repeat(1001) }, 'reason'],
])('a body of %j is refused and names %s', async (payload, named) => {
  const answer = await ask('POST', `/${model.id}/rollouts`, payload);
  expect(answer).toMatchObject({ status: 400, body: { code: 'invalid_input' } });
  expect(String(answer.body['message'])).toContain(named);
});

test('versions must exist and be published', async () => {
  const missing = await ask('POST', `/${model.id}/rollouts`, { version: '99.0.0' });
  expect(missing).toMatchObject({ status: 404, body: { code: 'version_not_found' } });
  for (const status of ['draft', 'converting', 'deprecated'] as const) {
    const { version: unpublished } = await bench.version(status, model);
    const answer = await ask('POST', `/${model.id}/rollouts`, { version: unpublished });
    expect(answer).toMatchObject({ status: 409, body: { code: 'wrong_state', details: { status } } });
    expect(String(answer.body['message'])).toContain(status);
  }
  // Published when the draft was made, and not any more.
  const scene = await newModel();
  const draft = await ask('POST', `/${scene.model.id}/rollouts`, { version: scene.version });
  await bench.database.kysely
    .updateTable('versions')
    .set({ status: 'deprecated' })
    .where('model_id', '=', scene.model.id)
    .execute();
  expect(await ask('POST', `/${scene.model.id}/rollouts/${draft.body['id']}/start`)).toMatchObject({
    status: 409,
    body: { details: { status: 'deprecated' } },
  });
});

test('a second rollout is refused and names the first', async () => {
  const scene = await newModel();
  const base = `/${scene.model.id}/rollouts`;
  const first = await ask('POST', base, { version: scene.version, start_immediately: true });
  expect(first).toMatchObject({ status: 201, body: { status: 'active' } });
  const details = { rollout_id: first.body['id'], status: 'active' };
  const second = await ask('POST', base, { version: scene.version, start_immediately: true });
  expect(second).toMatchObject({ status: 409, body: { code: 'conflict', details } });
  // Nothing is left of it, and a draft is allowed but does not start.
  expect((await ask('GET', base)).body).toHaveLength(1);
  const draft = await ask('POST', base, { version: scene.version });
  expect(await ask('POST', `${base}/${draft.body['id']}/start`, {})).toMatchObject({ status: 409, body: { details } });
});

test('percentages go neither down nor beyond the target; both are named', async () => {
  const scene = await newModel();
  const base = `/${scene.model.id}/rollouts`;
  const start = { version: scene.version, start_immediately: true, rollout_percentage: 30, target_percentage: 60 };
  const created = await ask('POST', base, start);
  const one = `${base}/${created.body['id']}`;
  const down = await ask('POST', `${one}/update-percentage`, { percentage: 20 });
  expect(down).toMatchObject({ status: 409, body: { details: { percentage: 20, rollout_percentage: 30 } } });
  expect(String(down.body['message'])).toMatch(/30 %.*20 %/);
  const beyond = await ask('POST', `${one}/update-percentage`, { percentage: 61 });
  expect(beyond).toMatchObject({ status: 409, body: { details: { percentage: 61, target_percentage: 60 } } });
  for (const payload of [{}, { percentage: 'half' }, { percentage: 101 }]) {
    const answer = await ask('POST', `${one}/update-percentage`, payload);
    expect(answer).toMatchObject({ status: 400, body: { code: 'invalid_input' } });
    expect(String(answer.body['message'])).toContain('percentage');
  }
  expect(await ask('POST', `${one}/advance`, { custom_increment: 0 })).toMatchObject({ status: 400 });
  expect(await ask('POST', `${one}/advance`, { custom_increment: 100 })).toMatchObject({
    body: { status: 'completed', rollout_percentage: 60 },
  });
  for (const action of ['advance', 'pause', 'resume', 'start']) {
    const answer = await ask('POST', `${one}/${action}`, {});
    expect(answer).toMatchObject({ status: 409, body: { code: 'wrong_state', details: { status: 'completed' } } });
  }
  const again = await ask('POST', `${one}/update-percentage`, { percentage: 60 });
  expect(again).toMatchObject({ status: 409, body: { details: { status: 'completed' } } });
  expect(await ask('DELETE', one)).toMatchObject({ status: 409, body: { details: { status: 'completed' } } });
  expect(await ask('DELETE', `${one}?force=perhaps`)).toMatchObject({ status: 400 });
  expect(await ask('DELETE', `${one}?force=true`)).toMatchObject({ status: 200, body: { status: 'rolled_back' } });
});

test.each([
  ['advance', {}],
  ['update-percentage', { percentage: 100 }],
])('going past a breached gate by %s is refused, and the rollout taken back', async (action, payload) => {
  const scene = await newModel();
  const base = `/${scene.model.id}/rollouts`;
  const start = { version: scene.version, start_immediately: true, rollout_percentage: 50 };
  const { body } = await ask('POST', base, start);
  const rollout = await bench.service.store.get(scene.model.id, Number(body['id']));
  const { devices } = await bench.service.affectedDevices(rollout, { limit: 10, offset: 0 });
  // As another coordinator stores what devices say: here, the gates would be judged by themselves a moment later.
  await bench.database.kysely
    .insertInto('device_models')
    .values(
      devices.map(({ id }) => ({
        device_id: id,
        model_id: rollout.model_id,
        rollout_id: rollout.id,
        version_id: rollout.version_id,
        active_version_id: null,
        previous_version_id: null,
        state: 'failed' as const,
        reason_code: null,
        reason: null,
      })),
    )
    .execute();
  const refused = await ask('POST', `${base}/${rollout.id}/${action}`, payload);
  expect(refused).toMatchObject({ status: 409, body: { code: 'gate_breached' } });
  expect((await ask('GET', `${base}/${rollout.id}`)).body).toMatchObject({
    status: expect.stringMatching(/^roll/),
    reason_code: 'gate_breached',
  });
});

test("other organizations' rollouts do not exist, and scopes are checked", async () => {
  const created = await ask('POST', `/${model.id}/rollouts`, { version });
  const one = `/${model.id}/rollouts/${created.body['id']}`;
  const stranger = `edg_${strangerId}.admin`;
  const paths = [
    ['GET', `/${model.id}/rollouts`],
    ['GET', `/${model.id}/rollouts/active`],
    ['GET', one],
    ['GET', `${one}/status-history`],
    ['GET', `${one}/affected-devices`],
    ['POST', `${one}/start`],
    ['POST', `${one}/rollback`],
    ['DELETE', one],
  ] as const;
  for (const [method, path] of paths) {
    expect(await ask(method, path, undefined, stranger)).toMatchObject({
      status: 404,
      body: { code: 'model_not_found' },
    });
    expect((await ask(method, path, undefined, `edg_${bench.organizationId}.models:write`)).status).toBe(403);
    if (method === 'GET') continue;
    expect((await ask(method, path, undefined, `edg_${bench.organizationId}.rollouts:read`)).status).toBe(403);
  }
  const other = await newModel();
  expect(await ask('GET', `/${other.model.id}/rollouts/${created.body['id']}`)).toMatchObject({
    status: 404,
    body: { code: 'not_found' },
  });
});

test('odd paths and queries are clean refusals', async () => {
  for (const path of [
    `/${encodeURIComponent('n'.repeat(1000))}/rollouts`,
    `/${encodeURIComponent('a/b c ü')}/rollouts`,
    '/no%2Fsuch/rollouts/active',
  ]) {
    expect((await ask('GET', path)).status).toBe(404);
  }
  for (const path of [
    '/rollouts/seven',
    '/rollouts/0',
    '/rollouts/99999999999999999999',
    '/rollouts?status_filter=running',
    '/rollouts?limit=0',
    '/rollouts/1/affected-devices?limit=1001',
    '/rollouts/1/affected-devices?offset=-1',
  ]) {
    expect(await ask('GET', `/${model.id}${path}`)).toMatchObject({ status: 400, body: { code: 'invalid_input' } });
  }
  expect(await ask('GET', `/${model.id}/rollouts/${2 ** 50}`)).toMatchObject({ status: 404 });
  const { body } = await ask('POST', `/${model.id}/rollouts`, { version });
  for (const cursor of ['x', Buffer.from('[1]').toString('base64url'), Buffer.from('[2,"a"]').toString('base64url')]) {
    const path = `/${model.id}/rollouts/${body['id']}/affected-devices?cursor=${cursor}`;
    expect(await ask('GET', path)).toMatchObject({ status: 400, body: { details: { field: 'cursor' } } });
  }
  const scene = await newModel();
  const start = { version: scene.version, start_immediately: true, rollout_percentage: 100 };
  const everywhere = await ask('POST', `/${scene.model.id}/rollouts`, start);
  const nul = Buffer.from('[0.5,"\\u0000"]').toString('base64url');
  const path = `/${scene.model.id}/rollouts/${everywhere.body['id']}/affected-devices?cursor=${nul}`;
  expect(await ask('GET', path)).toMatchObject({ status: 400, body: { details: { field: 'cursor' } } });
});
