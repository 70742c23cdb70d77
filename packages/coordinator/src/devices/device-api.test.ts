import { createHash, randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { createMetrics, silentLogger, systemClock } from '@octomil/shared/runtime';
import { FileObjectStore } from '@octomil/shared/storage';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import { type App, createApp, RateLimits } from '../http/index.js';
import { insertEnrollmentToken, insertOrganization } from '../testing/enrolled-device.js';
import { openTestDatabase } from '../testing/index.js';
import type { DesiredModelFacts, ReportedModel } from './desired-source.js';
import { hashToken, MAX_CHAINS, MAX_PAIRS_IN_CHAIN } from './device-tokens.js';
import { createDeviceService, type DeviceService, registerDeviceApi } from './index.js';

let database: Database;
let folder: string;
let objects: FileObjectStore;
let organizationId: string;
let foreignId: string;
let devices: DeviceService;
let app: App;
let desired: DesiredModelFacts[];
let observed: { deviceId: string; models: readonly ReportedModel[] }[];
let changed: string[];
let clockAheadMs: number;
/** Where the clock stands still. */
let stoppedAtMs: number | undefined;

beforeAll(async () => {
  database = await openTestDatabase();
  folder = await mkdtemp(join(tmpdir(), 'octomil-device-api-'));
  objects = await FileObjectStore.open({ folder, durable: false, clock: systemClock });
  await objects.put(`artifacts/${SHA}`, BYTES);
});
afterAll(async () => {
  await objects.close();
  await database.close();
  await rm(folder, { recursive: true });
});

beforeEach(async () => {
  organizationId = await insertOrganization(database);
  foreignId = await insertOrganization(database);
  [desired, observed, changed, clockAheadMs, stoppedAtMs] = [[], [], [], 0, undefined];
  const clock = { ...bound(systemClock), now: () => stoppedAtMs ?? systemClock.now() + clockAheadMs };
  devices = createDeviceService({ database, clock, logger: silentLogger, coordinatorId: randomUUID() });
  // Keys of these tests read `edg_<organization>.<scope>.<scope>`.
  const verifyKey = async (key: string) => {
    const [organization = '', ...scopes] = key.slice(4).split('.');
    return { kind: 'key' as const, organizationId: organization, keyId: 'k', scopes };
  };
  app = await createApp({
    authenticator: { verifyKey, verifyDeviceCredential: (credential) => devices.authenticate(credential) },
    logger: silentLogger,
    clock,
    metrics: createMetrics({ processMetrics: false }),
    limits: new RateLimits({ clock, perSecond: PER_SECOND }),
  });
  registerDeviceApi(app, {
    devices,
    verifyKey,
    database,
    objects,
    clock,
    logger: silentLogger,
    publicUrl: undefined,
    desired: {
      desiredState: async () => desired,
      desiredObject: async (_deviceId, sha256) =>
        desired.some(({ artifacts }) => artifacts.some((file) => file.sha256 === sha256))
          ? { objectKey: `artifacts/${sha256}`, sizeBytes: 1 }
          : undefined,
      observeRaw: async (deviceId, models) => observed.push({ deviceId, models }),
      devicesChanged: (ids) => changed.push(...ids),
    },
  });
});
afterEach(() => app.close());

const PER_SECOND = 100;
const BYTES = new TextEncoder().encode('weights of a small model');
const SHA = createHash('sha256').update(BYTES).digest('hex');

function bound(clock: typeof systemClock): typeof systemClock {
  return {
    now: () => clock.now(),
    after: (...a) => clock.after(...a),
    sleep: (...a) => clock.sleep(...a),
  } as typeof clock;
}

interface Asked {
  readonly token?: string;
  readonly payload?: object;
  readonly headers?: Record<string, string>;
}

async function ask(method: 'GET' | 'POST' | 'PATCH' | 'DELETE', path: string, { token, payload, headers }: Asked = {}) {
  const response = await app.inject({
    method,
    url: `/api/v1${path}`,
    headers: { ...(token === undefined ? {} : { authorization: `Bearer ${token}` }), ...headers },
    ...(payload === undefined ? {} : { payload }),
  });
  return { status: response.statusCode, body: response.json() as Record<string, unknown> };
}

const key = (...scopes: string[]): string => `edg_${[organizationId, ...scopes].join('.')}`;
const register = (payload: object, headers: Record<string, string> = {}) =>
  ask('POST', '/devices/register', { token: key('devices:register'), payload, headers });

async function bootstrap(identifier: string, more: object = {}, token = key('devices:register')) {
  const payload = { device_identifier: identifier, ...more };
  const { status, body } = await ask('POST', '/device-auth/bootstrap', { token, payload });
  return {
    status,
    body,
    access: String(body['access_token']),
    refresh: String(body['refresh_token']),
    id: String(body['device_id']),
  };
}
const refresh = (refreshToken: string) =>
  ask('POST', '/device-auth/refresh', { payload: { refresh_token: refreshToken } });
const code = ({ status, body }: { status: number; body: Record<string, unknown> }) => [status, body['code']];

test('registration keeps what is known, and says until when in the words of each client', async () => {
  const facts = { platform: 'python', battery_pct: 80, charging: true, capabilities: { python_version: '3.12' } };
  const python = await register({
    device_identifier: 'p',
    installation_id: randomUUID(),
    feature_schema: ['age', 'chol'],
    secret: 'not kept',
    manufacturer: 'x'.repeat(300),
    ...facts,
  });
  expect(python.status).toBe(201);
  expect(python.body).toMatchObject({ identity: 'shared', platform: 'python', expires_at: expect.any(Number) });
  expect(Number(python.body['expires_at'])).toBeGreaterThan(systemClock.now() / 1000);
  expect(python.body['facts']).toEqual({
    platform: 'python',
    battery_pct: 80,
    charging: true,
    python_version: '3.12',
    feature_schema: ['age', 'chol'],
  });
  const response = await app.inject({
    method: 'POST',
    url: '/api/v1/devices/register',
    headers: { 'x-api-key': key('devices:register') },
    payload: { device_identifier: 'n', platform: 'node' },
  });
  const node = response.json() as Record<string, unknown>;
  expect(node).toMatchObject({ device_id: node['id'], expires_at: expect.stringMatching(/^\d{4}-.*Z$/) });
  expect(
    (
      await ask('POST', `/devices/${String(node['id'])}/heartbeat`, {
        token: String(node['access_token']),
        payload: { metadata: { battery_level: 40 } },
      })
    ).status,
  ).toBe(200);
  const seen = await ask('GET', `/devices/${String(node['id'])}`, { token: key('devices:read') });
  expect(seen.body['facts']).toEqual({ platform: 'node', battery_level: 40 });
  const plain = await register({ device_identifier: 'plain' });
  expect(plain.body).not.toHaveProperty('access_token');
});

test('whoever holds the organization key neither speaks for an enrolled device nor changes what it says', async () => {
  const enrollmentToken = await insertEnrollmentToken(database, organizationId);
  await devices.enroll({ enrollmentToken, deviceIdentifier: 'ward', labels: {}, agentVersion: '1' });
  const again = await register({ device_identifier: 'ward', installation_id: 'i', platform: 'evil' });
  expect(again.body).toMatchObject({ identity: 'enrolled', facts: {} });
  expect(again.body).not.toHaveProperty('access_token');
  const refused = await bootstrap('ward');
  expect(code(refused)).toEqual([403, 'forbidden']);
  // The keys that published clients carry.
  const token = key('devices:heartbeat', 'control:refresh');
  const wide = key('devices:heartbeat', 'devices:write');
  const payload = { device_identifier: 'ward', battery_pct: 1, models: [], modelInventory: [] };
  const id = String(again.body['id']);
  for (const path of [
    `/devices/${id}/heartbeat`,
    '/devices/heartbeat',
    '/devices/ward/sync',
    `/devices/${id}/observed-state`,
  ]) {
    expect([path, (await ask('POST', path, { token, payload })).status]).toEqual([path, 403]);
    expect([path, (await ask('POST', path, { token: wide, payload })).status]).toEqual([path, 200]);
  }
});

test('a key that may look at devices learns what they should run, and not where to get it', async () => {
  const { modelId, versionId } = await insertVersion();
  const artifacts = [{ format: 'safetensors', fileName: 'w', sha256: SHA, sizeBytes: BYTES.length }];
  const version = { modelId, modelName: 'risk', versionId, version: '1.0.0', rolloutId: 7, artifacts };
  desired = [{ ...version, activation: 'immediate' }];
  const device = await register({ device_identifier: 'looked-at' });
  const path = `/devices/${String(device.body['id'])}/desired-state`;
  const manifest = async (...scopes: string[]) => {
    const { models } = (await ask('GET', path, { token: key(...scopes) })).body as {
      models: { artifactManifest: { downloadUrl: unknown; files: { downloadUrl: unknown }[] } }[];
    };
    const [model] = models;
    return [model?.artifactManifest.downloadUrl, model?.artifactManifest.files[0]?.downloadUrl];
  };
  expect(await manifest('devices:read')).toEqual([null, null]);
  const address = expect.stringContaining('/artifacts/download/');
  expect(await manifest('devices:read', 'models:read')).toEqual([address, address]);
  expect(await manifest('control:refresh')).toEqual([address, address]);
});

test('tokens: bootstrap, use by scope, rotate; a spent one ends the chain', async () => {
  const first = await bootstrap('phone', { org_id: 'default', scopes: ['devices:heartbeat'], access_ttl_seconds: 60 });
  expect(first.status).toBe(201);
  expect(first.body).toMatchObject({
    token_type: 'Bearer',
    expires_in: 60,
    org_id: organizationId,
    device_identifier: 'phone',
    scopes: ['devices:heartbeat'],
    expires_at: expect.stringMatching(/Z$/),
  });
  const beat = (token: string) => ask('POST', `/devices/${first.id}/heartbeat`, { token, payload: {} });
  expect((await beat(first.access)).status).toBe(200);
  expect(code(await ask('GET', `/devices/${first.id}`, { token: first.access }))).toEqual([403, 'forbidden']);
  const other = await bootstrap('other');
  expect((await ask('POST', `/devices/${other.id}/heartbeat`, { token: first.access, payload: {} })).status).toBe(403);

  const second = await refresh(first.refresh);
  expect(second).toMatchObject({ status: 200, body: { device_id: first.id, scopes: ['devices:heartbeat'] } });
  // The answer was lost: the same token again, at once.
  const third = await refresh(first.refresh);
  expect(third.status).toBe(200);
  // The lost one turns up with somebody: nobody can say who is who.
  expect(code(await refresh(String(second.body['refresh_token'])))).toEqual([401, 'authentication_failed']);
  expect(code(await refresh(String(third.body['refresh_token'])))).toEqual([401, 'authentication_failed']);
  expect(code(await beat(String(third.body['access_token'])))).toEqual([401, 'authentication_failed']);
  expect(code(await beat(first.access))).toEqual([401, 'authentication_failed']);
  // Others of the organization are not touched.
  expect((await ask('POST', `/devices/${other.id}/heartbeat`, { token: other.access, payload: {} })).status).toBe(200);
});

test('a device keeps the tokens of so many installations, and of each so many pairs', async () => {
  const { id } = await devices.records.register(organizationId, 'crowded', {});
  const pairs: Awaited<ReturnType<typeof devices.tokens.issue>>[] = [];
  for (let index = 0; index <= MAX_CHAINS; index++) pairs.push(await devices.tokens.issue(id, ['devices:heartbeat']));
  const count = async (): Promise<number> =>
    (
      await sql<{ rows: number }>`select count(*) as rows from device_tokens where device_id = ${id}`.execute(
        database.kysely,
      )
    ).rows[0]?.rows ?? 0;
  expect(await count()).toBe(MAX_CHAINS);
  expect((await refresh(pairs[0]?.refreshToken ?? '')).status).toBe(401);
  const newest = pairs.at(-1)?.refreshToken ?? '';
  await sql`insert into device_tokens (id, device_id, chain_id, access_hash, refresh_hash, scopes, access_ttl_seconds,
      access_expires_at, refresh_expires_at, replaced_by, created_at)
    select gen_random_uuid()::text, device_id, chain_id, 'a' || n, 'r' || n, scopes, 60, access_expires_at,
      refresh_expires_at, 'next', now() - make_interval(mins => n)
    from device_tokens, generate_series(1, 2 * ${MAX_PAIRS_IN_CHAIN}::integer) n
    where refresh_hash = ${hashToken(newest)}`.execute(database.kysely);
  const next = await refresh(newest);
  expect(next.status).toBe(200);
  expect(await count()).toBe(MAX_CHAINS - 1 + MAX_PAIRS_IN_CHAIN + 1);
  expect((await refresh(String(next.body['refresh_token']))).status).toBe(200);
});

test('a refresh token that was spent for a while is a theft, not a lost answer', async () => {
  const first = await bootstrap('old');
  const second = await refresh(first.refresh);
  const third = await refresh(String(second.body['refresh_token']));
  expect(third.status).toBe(200);
  expect((await refresh(first.refresh)).status).toBe(401);
  expect((await refresh(String(third.body['refresh_token']))).status).toBe(401);
  const a = await bootstrap('old');
  await refresh(a.refresh);
  await database.kysely
    .updateTable('device_tokens')
    .set({ created_at: new Date(0) })
    .where('device_id', '=', a.id)
    .execute();
  expect((await refresh(a.refresh)).status).toBe(401);
});

test('of refreshes at the same moment, the chain has one live pair', async () => {
  const first = await bootstrap('busy');
  const answers = await Promise.all([refresh(first.refresh), refresh(first.refresh)]);
  expect(answers.map(({ status }) => status)).toEqual([200, 200]);
  const live = await database.kysely
    .selectFrom('device_tokens')
    .select('id')
    .where('device_id', '=', first.id)
    .where('revoked_at', 'is', null)
    .where('replaced_by', 'is', null)
    .execute();
  expect(live).toHaveLength(1);
});

test('an access token ends by its time, by its revocation and with its device', async () => {
  const short = await bootstrap('short', { access_ttl_seconds: 10 });
  const self = (id: string, token: string) => ask('GET', `/devices/${id}`, { token });
  expect((await self(short.id, short.access)).status).toBe(200);
  clockAheadMs = 11_000;
  await database.kysely
    .updateTable('device_tokens')
    .set({ access_expires_at: new Date(Date.now() - 1000) })
    .where('device_id', '=', short.id)
    .execute();
  expect(code(await self(short.id, short.access))).toEqual([401, 'token_expired']);
  const left = await bootstrap('left');
  expect((await self(left.id, left.access)).status).toBe(200);
  expect(await ask('POST', '/device-auth/revoke', { payload: { refresh_token: left.refresh } })).toMatchObject({
    status: 200,
    body: { revoked: true },
  });
  expect((await self(left.id, left.access)).status).toBe(401);
  expect((await refresh(left.refresh)).status).toBe(401);
  expect((await ask('POST', '/device-auth/revoke', { payload: { refresh_token: 'odr_unknown' } })).status).toBe(200);
  const lost = await bootstrap('lost');
  await self(lost.id, lost.access);
  await ask('POST', `/devices/${lost.id}/revoke`, { token: key('devices:write'), payload: {} });
  expect(code(await self(lost.id, lost.access))).toEqual([403, 'device_revoked']);
  expect(code(await refresh(lost.refresh))).toEqual([403, 'device_revoked']);
  expect(code(await bootstrap('lost'))).toEqual([403, 'device_revoked']);
});

test('an enrolment token buys tokens for a device of its own identity, once', async () => {
  const enrollmentToken = await insertEnrollmentToken(database, organizationId);
  // It lets a device in, and lets nobody read every model; refused before it is spent.
  expect((await bootstrap('site', { scopes: ['devices:write', 'models:read'] }, enrollmentToken)).status).toBe(403);
  const made = await bootstrap('site', {}, enrollmentToken);
  expect(made).toMatchObject({ status: 201, body: { scopes: ['devices:write'] } });
  expect((await ask('GET', `/devices/${made.id}`, { token: made.access })).body).toMatchObject({
    identity: 'enrolled',
  });
  expect(code(await bootstrap('site', {}, enrollmentToken))).toEqual([409, 'enrollment_token_used']);
  // Enrolled again, the older tokens are nobody's.
  await bootstrap('site', {}, await insertEnrollmentToken(database, organizationId, { deviceIdentifier: 'site' }));
  expect((await ask('GET', `/devices/${made.id}`, { token: made.access })).status).toBe(401);
});

test('an enrolment token that bought no tokens is not spent, and its device is not made', async () => {
  const enrollmentToken = await insertEnrollmentToken(database, organizationId);
  await sql`alter table device_tokens add constraint none check (false) not valid`.execute(database.kysely);
  try {
    expect((await bootstrap('unlucky', {}, enrollmentToken)).status).toBe(500);
  } finally {
    await sql`alter table device_tokens drop constraint none`.execute(database.kysely);
  }
  expect((await ask('GET', '/devices/unlucky', { token: key('devices:read') })).status).toBe(404);
  expect((await bootstrap('unlucky', {}, enrollmentToken)).status).toBe(201);
});

test.each([
  [{ device_identifier: 'x', scopes: ['admin'] }, 'scopes'],
  [{ device_identifier: 'x', access_ttl_seconds: 86_401 }, 'access_ttl_seconds'],
  [{}, 'device_identifier'],
  [{ device_identifier: 'a b' }, 'device identifier'],
])('a bootstrap that asks for what cannot be is refused, naming the field: %j', async (payload, field) => {
  const answer = await ask('POST', '/device-auth/bootstrap', { token: key('devices:register'), payload });
  expect([answer.status, String(answer.body['message'])]).toEqual([400, expect.stringContaining(field)]);
});

test('bootstrap needs a token or a key that may do it, and gives away no more than the key has', async () => {
  const payload = { device_identifier: 'x' };
  expect((await ask('POST', '/device-auth/bootstrap', { payload })).status).toBe(401);
  expect((await bootstrap('x', {}, key('models:read'))).status).toBe(403);
  expect((await bootstrap('x', { scopes: ['models:read'] })).status).toBe(403);
  expect((await bootstrap('x', { scopes: ['models:read'] }, key('devices:register', 'models:read'))).status).toBe(201);
});

test('bootstraps count as requests of their key', async () => {
  const token = key('devices:register');
  stoppedAtMs = systemClock.now();
  const answers = await Promise.all(Array.from({ length: 3 * PER_SECOND }, () => bootstrap('busy', {}, token)));
  const statuses = new Set(answers.map(({ status }) => status));
  expect([...statuses].sort()).toEqual([201, 429]);
});

test('groups: many devices at once, all or none, and only the own ones', async () => {
  const write = { token: key('devices:write') };
  const group = await ask('POST', '/device-groups', { ...write, payload: { name: 'wards & co/1', description: 'd' } });
  expect(group).toMatchObject({ status: 201, body: { name: 'wards & co/1', device_count: 0 } });
  expect((await ask('POST', '/device-groups', { ...write, payload: { name: 'wards & co/1' } })).status).toBe(409);
  const path = `/device-groups/${encodeURIComponent('wards & co/1')}`;
  const ids = await Promise.all(
    ['a', 'b', 'c'].map(async (name) => String((await register({ device_identifier: name })).body['id'])),
  );
  changed = [];
  const unknown = await ask('POST', `${path}/devices`, { ...write, payload: { devices: [ids[0], 'nobody'] } });
  expect(code(unknown)).toEqual([404, 'device_not_registered']);
  const added = await ask('POST', `${path}/devices`, { ...write, payload: { devices: [ids[0], 'b', 'b', ids[1]] } });
  expect(added.body).toMatchObject({ changed: 2, device_count: 2 });
  expect([...changed].sort()).toEqual([ids[0], ids[1]].sort());
  expect((await ask('POST', `${path}/devices`, { ...write, payload: { devices: ['a'] } })).body['changed']).toBe(0);
  const members = await ask('GET', `${path}/devices?limit=1`, write);
  expect(members.body).toMatchObject({ total: 2, devices: [{ id: ids[1] }], next_cursor: ids[1] });
  const rest = await ask('GET', `${path}/devices?limit=1&cursor=${ids[1]}`, write);
  expect(rest.body).toMatchObject({ devices: [{ id: ids[0] }], next_cursor: null });
  expect((await ask('GET', `/devices?group=${encodeURIComponent('wards & co/1')}`, write)).body['total']).toBe(2);
  expect((await ask('GET', `/devices/${ids[0]}`, write)).body['groups']).toMatchObject([{ name: 'wards & co/1' }]);
  const foreign = { token: `edg_${foreignId}.admin` };
  for (const [method, end, payload] of [
    ['GET', '', undefined],
    ['PATCH', '', { name: 'mine' }],
    ['DELETE', '', undefined],
    ['GET', '/devices', undefined],
    ['POST', '/devices', { devices: ['a'] }],
  ] as const) {
    const answer = await ask(method, `/device-groups/${String(group.body['id'])}${end}`, {
      ...foreign,
      ...(payload === undefined ? {} : { payload }),
    });
    expect([method, end, answer.status]).toEqual([method, end, 404]);
  }
  const mine = await ask('POST', '/device-groups', { ...foreign, payload: { name: 'theirs' } });
  expect(
    (
      await ask('POST', `/device-groups/${String(mine.body['id'])}/devices`, {
        ...foreign,
        payload: { devices: [ids[0]] },
      })
    ).status,
  ).toBe(404);
  expect((await ask('DELETE', `${path}/devices/${ids[0]}`, write)).body['changed']).toBe(1);
  expect((await ask('PATCH', path, { ...write, payload: { name: 'wards' } })).body['name']).toBe('wards');
  expect((await ask('DELETE', '/device-groups/wards', write)).body).toEqual({ id: group.body['id'], deleted: true });
  expect((await ask('GET', '/device-groups/wards', write)).status).toBe(404);
});

test('a group that a rollout means is neither deleted nor renamed', async () => {
  const write = { token: key('devices:write') };
  await ask('POST', '/device-groups', { ...write, payload: { name: 'canary' } });
  const { modelId, versionId } = await insertVersion();
  await database.kysely
    .insertInto('rollouts')
    .values({
      organization_id: organizationId,
      model_id: modelId,
      version_id: versionId,
      previous_version_id: null,
      state: 'active',
      share_ratio: 1,
      initial_ratio: 1,
      target_ratio: 1,
      increment_ratio: 1,
      advance_every_seconds: null,
      placement_offset: 0,
      selector: JSON.stringify({ groups: ['canary'] }),
      gates: '{}',
      reason_code: null,
      reason: null,
      created_by: 'test',
    })
    .execute();
  expect(code(await ask('DELETE', '/device-groups/canary', write))).toEqual([409, 'wrong_state']);
  expect(code(await ask('PATCH', '/device-groups/canary', { ...write, payload: { name: 'x' } }))).toEqual([
    409,
    'wrong_state',
  ]);
  await database.kysely.updateTable('rollouts').set({ state: 'rolled_back' }).where('model_id', '=', modelId).execute();
  expect((await ask('DELETE', '/device-groups/canary', write)).status).toBe(200);
});

test('labels of the organization win, and null takes them away', async () => {
  const write = { token: key('devices:write') };
  const id = String((await register({ device_identifier: 'l' })).body['id']);
  changed = [];
  const set = await ask('PATCH', `/devices/${id}`, { ...write, payload: { labels: { tier: 'gold', ward: '7' } } });
  expect(set.body['labels']).toEqual({ tier: 'gold', ward: '7' });
  expect(changed).toEqual([id]);
  expect((await ask('GET', '/devices?label=tier%3Dgold&label=ward%3D7&search=l', write)).body['total']).toBe(1);
  expect((await ask('GET', '/devices?label=tier%3Dtin', write)).body['total']).toBe(0);
  expect((await ask('GET', '/devices?search=_', write)).body['total']).toBe(0);
  expect((await ask('GET', '/devices?label=tier', write)).status).toBe(400);
  expect((await ask('GET', '/devices?cursor=none', write)).status).toBe(400);
  const gone = await ask('PATCH', `/devices/${id}`, { ...write, payload: { labels: { tier: null } } });
  expect(gone.body['labels']).toEqual({ ward: '7' });
  const many = Object.fromEntries(Array.from({ length: 64 }, (_, n) => [`l${n}`, 'x']));
  expect((await ask('PATCH', `/devices/${id}`, { ...write, payload: { labels: many } })).status).toBe(400);
  expect(
    (await ask('PATCH', `/devices/${id}`, { token: `edg_${foreignId}.admin`, payload: { labels: {} } })).status,
  ).toBe(404);
});

test('a device shows what it runs, also where nothing is active yet', async () => {
  const reading = { token: key('devices:read') };
  const id = String((await register({ device_identifier: 'runs' })).body['id']);
  expect((await ask('GET', `/devices/${id}`, reading)).body['models']).toEqual([]);
  const { modelId, versionId } = await insertVersion();
  await database.kysely
    .insertInto('device_models')
    .values({
      device_id: id,
      model_id: modelId,
      rollout_id: null,
      version_id: versionId,
      active_version_id: null,
      previous_version_id: null,
      state: 'failed',
      reason_code: 'activation_failed',
      reason: 'not a number',
    })
    .execute();
  expect((await ask('GET', `/devices/${id}`, reading)).body['models']).toEqual([
    {
      model_id: modelId,
      model_name: 'risk',
      rollout_id: null,
      version: '1.0.0',
      active_version: null,
      previous_version: null,
      state: 'failed',
      reason_code: 'activation_failed',
      reason: 'not a number',
      reported_at: expect.stringMatching(/Z$/),
    },
  ]);
});

test('pages by cursor meet every device once, also those of one moment', async () => {
  for (let n = 0; n < 7; n++) await register({ device_identifier: `d${n}` });
  await database.kysely
    .updateTable('devices')
    .set({ created_at: new Date(0) })
    .where('organization_id', '=', organizationId)
    .execute();
  const seen: unknown[] = [];
  let cursor: unknown = null;
  do {
    const page = await ask('GET', `/devices?limit=3${cursor === null ? '' : `&cursor=${String(cursor)}`}`, {
      token: key('devices:read'),
    });
    seen.push(...(page.body['devices'] as { id: string }[]).map(({ id }) => id));
    cursor = page.body['next_cursor'];
  } while (cursor !== null);
  expect([seen.length, new Set(seen).size]).toEqual([7, 7]);
});

test('a client that asks learns what to run, downloads it without a credential, and says what it runs', async () => {
  const { modelId, versionId } = await insertVersion();
  const device = await bootstrap('client', { scopes: ['control:refresh'] });
  const as = { token: device.access };
  const none = await ask('POST', `/devices/${device.id}/sync`, { ...as, payload: {} });
  expect(none.body).toMatchObject({
    models: [],
    stateChanged: true,
    gcEligibleArtifactIds: [],
    nextPollIntervalSeconds: 60,
  });
  desired = [
    {
      modelId,
      modelName: 'risk',
      versionId,
      version: '1.0.0',
      rolloutId: 7,
      activation: 'immediate',
      artifacts: [{ format: 'safetensors', fileName: 'w.safetensors', sha256: SHA, sizeBytes: BYTES.length }],
    },
  ];
  const state = await ask('POST', `/devices/${device.id}/sync`, {
    ...as,
    payload: {
      schemaVersion: '1.12.0',
      knownStateVersion: none.body['stateVersion'],
      modelInventory: [{ modelId: 'risk', version: '1.0.0', artifactId: 'old', status: 'installed' }],
    },
  });
  expect(state.body).toMatchObject({
    deviceId: device.id,
    stateChanged: true,
    gcEligibleArtifactIds: ['old'],
    generatedAt: expect.stringMatching(/Z$/),
  });
  expect(observed).toEqual([
    {
      deviceId: device.id,
      models: [{ modelId, versionId, rolloutId: 7, state: 'waiting', activeVersionId: null, problem: null }],
    },
  ]);
  const [model] = state.body['models'] as Record<string, unknown>[];
  expect(model).toMatchObject({ modelId, desiredVersion: '1.0.0', rolloutId: '7', activationPolicy: 'immediate' });
  const manifest = model?.['artifactManifest'] as Record<string, unknown>;
  expect(manifest).toMatchObject({
    artifactId: versionId,
    totalBytes: BYTES.length,
    sha256: SHA,
    files: [{ path: 'w.safetensors', size: BYTES.length, sha256: SHA }],
  });
  const again = await ask('POST', `/devices/${device.id}/sync`, {
    ...as,
    payload: { knownStateVersion: state.body['stateVersion'] },
  });
  expect(again.body['stateChanged']).toBe(false);
  const url = new URL(String(manifest['downloadUrl'])).pathname;
  const download = () => app.inject({ method: 'GET', url });
  expect((await download()).rawPayload).toEqual(Buffer.from(BYTES));
  expect((await app.inject({ method: 'GET', url: `${url}x` })).statusCode).toBe(403);
  expect((await app.inject({ method: 'GET', url, headers: { range: 'bytes=0-6' } })).body).toBe('weights');
  const urls = await ask('POST', `/artifacts/${versionId}/download-urls`, { ...as, payload: {} });
  expect(code(urls)).toEqual([403, 'forbidden']);
  const full = await bootstrap('client');
  expect(
    (
      await ask('POST', `/artifacts/${versionId}/download-urls`, {
        token: full.access,
        payload: { expiresInSeconds: 5 },
      })
    ).body,
  ).toMatchObject({ files: [{ path: 'w.safetensors', expiresAt: expect.stringMatching(/Z$/) }] });
  expect((await ask('GET', `/artifacts/${versionId}/manifest`, { token: full.access })).body).toMatchObject({
    version: '1.0.0',
  });
  expect((await ask('GET', `/artifacts/${randomUUID()}/manifest`, { token: full.access })).status).toBe(404);
  // What is no longer wanted, no longer comes.
  const taken = desired;
  desired = [];
  expect((await download()).statusCode).toBe(404);
  desired = taken;
  const report = {
    models: [
      { modelId, status: 'active', installedVersion: '1.0.0', activeVersion: '1.0.0' },
      // Cut to 200 characters, its last one would be half of a pair.
      { modelId: 'unknown', status: 'x', errorMessage: `${'x'.repeat(199)}😀` },
    ],
  };
  expect((await ask('POST', `/devices/${device.id}/observed-state`, { ...as, payload: report })).body).toMatchObject({
    status: 'ok',
    models: 1,
  });
  expect(observed.at(-1)?.models).toMatchObject([
    { versionId, activeVersionId: versionId, state: 'active', rolloutId: 7 },
  ]);
  const bad = await ask('POST', `/devices/${device.id}/observed-state`, {
    ...as,
    payload: { models: [{ status: 'active' }] },
  });
  expect([bad.status, String(bad.body['message'])]).toEqual([400, expect.stringContaining('models[0].modelId')]);
  expect((await ask('GET', `/devices/${device.id}/assignments`, as)).body).toMatchObject({
    updated: true,
    assignments: [{ model_id: modelId, version: '1.0.0' }],
  });
  for (const end of ['sync', 'desired-state', 'observed-state']) {
    const foreign = await ask('POST', `/devices/${device.id}/${end}`, { token: `edg_${foreignId}.admin`, payload: {} });
    expect([end, foreign.status]).toEqual([end, 404]);
  }
  await devices.revoke(organizationId, device.id);
  expect((await download()).statusCode).toBe(403);
});

async function insertVersion(): Promise<{ modelId: string; versionId: string }> {
  const [modelId, versionId] = [randomUUID(), randomUUID()];
  await database.kysely
    .insertInto('models')
    .values({
      id: modelId,
      organization_id: organizationId,
      name: 'risk',
      framework: null,
      framework_version: null,
      use_case: null,
      description: '',
      target: null,
    })
    .execute();
  await database.kysely
    .insertInto('versions')
    .values({
      id: versionId,
      model_id: modelId,
      sequence: 1,
      version: '1.0.0',
      status: 'published',
      description: '',
      base_version_id: null,
      checkpoint_id: null,
      session_id: null,
      lineage: '{}',
      metrics: '{}',
      created_by: null,
    })
    .execute();
  await database.kysely
    .insertInto('artifacts')
    .values({
      version_id: versionId,
      format: 'safetensors',
      file_name: 'w.safetensors',
      object_key: `artifacts/${SHA}`,
      sha256: SHA,
      size_bytes: BYTES.length,
    })
    .execute();
  return { modelId, versionId };
}
