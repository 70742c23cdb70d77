import { randomUUID } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { HelloSchema } from '@octomil/proto';
import { createMetrics, silentLogger, systemClock } from '@octomil/shared/runtime';
import type { Database } from '../database/database.js';
import { type App, createApp } from '../http/index.js';
import { insertEnrollmentToken, insertOrganization } from '../testing/enrolled-device.js';
import { openTestDatabase } from '../testing/index.js';
import { CredentialCheck } from './credential-check.js';
import { DeviceTokens } from './device-tokens.js';
import { createDeviceService, type DeviceService, registerDeviceRoutes } from './index.js';
import { Presence } from './presence.js';
import { RenewalBatch } from './renewal-batch.js';
import { TokenCheck } from './token-check.js';

let database: Database;
let organizationId: string;
let otherOrganizationId: string;
let devices: DeviceService;
let app: App;

beforeAll(async () => {
  database = await openTestDatabase();
});

afterAll(() => database.close());

beforeEach(async () => {
  organizationId = await insertOrganization(database);
  otherOrganizationId = await insertOrganization(database);
  devices = createDeviceService({ database, clock: systemClock, logger: silentLogger, coordinatorId: randomUUID() });
  app = await createApp({
    // Keys of these tests read `edg_<organization>.<scope>.<scope>`.
    authenticator: {
      verifyKey: async (key) => {
        const [organization = '', ...scopes] = key.slice(4).split('.');
        return { kind: 'key', organizationId: organization, keyId: 'k', scopes };
      },
      verifyDeviceCredential: (credential) => devices.authenticate(credential),
    },
    logger: silentLogger,
    clock: systemClock,
    metrics: createMetrics({ processMetrics: false }),
  });
  registerDeviceRoutes(app, { database, devices, desired: { devicesChanged: () => undefined } });
});

afterEach(() => app.close());

type TokenOptions = Parameters<typeof insertEnrollmentToken>[2];

async function newDevice(
  identifier: string,
  token: TokenOptions = {},
  labels: Record<string, string> = {},
): Promise<{ deviceId: string; credential: string }> {
  const enrollmentToken = await insertEnrollmentToken(database, organizationId, token);
  return devices.enroll({ enrollmentToken, deviceIdentifier: identifier, labels, agentVersion: '1' });
}

function rowOf(deviceId: string) {
  return database.kysely.selectFrom('devices').selectAll().where('id', '=', deviceId).executeTakeFirstOrThrow();
}

async function ask(method: 'GET' | 'POST', url: string, token: string, payload?: object) {
  const response = await app.inject({
    method,
    url: `/api/v1/devices${url}`,
    headers: { authorization: `Bearer ${token}` },
    ...(payload === undefined ? {} : { payload }),
  });
  return { status: response.statusCode, body: response.json() as Record<string, unknown> };
}

const key = (...scopes: string[]): string => `edg_${[organizationId, ...scopes].join('.')}`;
const hello = (processId: string) =>
  create(HelloSchema, {
    processId,
    hostName: 'ward-7',
    capabilities: { trainers: ['tfjs'], memoryBytes: 8_000_000_000n },
    site: {
      labels: { region: 'north' },
      dataSets: [{ name: 'default', rowCount: 300n, format: 'csv', digest: 'd' }],
      policyRules: [{ name: 'heart', federations: ['*'], models: ['risk'], dataSets: ['default'] }],
    },
  });

test('the list shows who is online, with data sets and policy, and only to its own organization', async () => {
  const online = await newDevice('hospital-001');
  await newDevice('hospital-002');
  await devices.openSession(online.deviceId, hello('p'));
  const { body } = await ask('GET', '', key('devices:read'));
  expect(body).toMatchObject({ total: 2, limit: 100, offset: 0 });
  expect(body['devices']).toMatchObject([
    { device_identifier: 'hospital-002', status: 'offline', last_seen_at: null },
    {
      id: online.deviceId,
      device_identifier: 'hospital-001',
      status: 'online',
      host: 'ward-7',
      labels: { region: 'north' },
      trainers: ['tfjs'],
      data_sets: [{ name: 'default', row_count: 300, problem: null }],
      policy_rules: [{ name: 'heart', data_sets: ['default'] }],
    },
  ]);
  expect((await ask('GET', '?status=online', key('devices:read'))).body['total']).toBe(1);
  expect((await ask('GET', '?status=revoked', key('devices:read'))).body['total']).toBe(0);
  expect((await ask('GET', '', `edg_${otherOrganizationId}.admin`)).body['total']).toBe(0);
  const foreign = await ask('GET', `/${online.deviceId}`, `edg_${otherOrganizationId}.admin`);
  expect(foreign).toMatchObject({ status: 404, body: { code: 'device_not_registered' } });
  expect((await ask('GET', '', key('models:read'))).status).toBe(403);
  expect(JSON.stringify(body)).not.toContain('hash');
});

test('a device reads itself, and no other', async () => {
  const one = await newDevice('one');
  const two = await newDevice('two');
  expect((await ask('GET', `/${one.deviceId}`, one.credential)).body['device_identifier']).toBe('one');
  expect((await ask('GET', `/${two.deviceId}`, one.credential)).status).toBe(403);
});

test('a revoked device is refused from then on, until it is enrolled again', async () => {
  const device = await newDevice('lost');
  await devices.authenticate(device.credential);
  expect((await ask('POST', `/${device.deviceId}/revoke`, key('devices:read'))).status).toBe(403);
  expect((await ask('POST', `/${device.deviceId}/revoke`, `edg_${otherOrganizationId}.admin`)).status).toBe(404);
  const revoked = await ask('POST', `/${device.deviceId}/revoke`, key('devices:write'));
  expect(revoked).toMatchObject({ status: 200, body: { status: 'revoked', revoked_at: expect.any(String) } });
  expect((await ask('POST', `/${device.deviceId}/revoke`, key('devices:write'))).body['revoked_at']).toBe(
    revoked.body['revoked_at'],
  );
  await expect(devices.authenticate(device.credential)).rejects.toMatchObject({ code: 'device_revoked' });
  await expect(devices.openSession(device.deviceId, hello('p'))).rejects.toMatchObject({ code: 'device_revoked' });
  await expect(newDevice('lost')).rejects.toMatchObject({ code: 'conflict' });
  await expect(devices.authenticate(device.credential)).rejects.toMatchObject({ code: 'device_revoked' });
  const back = await newDevice('lost', { deviceIdentifier: 'lost' });
  expect(back.deviceId).toBe(device.deviceId);
  await devices.authenticate(back.credential);
});

test('a credential or token whose row was being read while its device was revoked is refused from then on', async () => {
  const device = await newDevice('read-meanwhile');
  const { accessToken } = await devices.tokens.issue(device.deviceId, ['devices:write']);
  const [wereRead, goOn] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  let reading = 0;
  const kysely = database.kysely.withPlugin({
    transformQuery: ({ node }) => node,
    transformResult: async ({ result }) => {
      reading++;
      if (reading === 2) wereRead.resolve();
      await goOn.promise;
      return result;
    },
  });
  const slow = { kysely } as Database;
  const credentials = new CredentialCheck(slow, systemClock);
  const tokens = new TokenCheck(new DeviceTokens(slow), systemClock);
  const before = [credentials.check(device.credential), tokens.check(accessToken)];
  await wereRead.promise;
  await devices.revoke(organizationId, device.deviceId);
  credentials.forget(device.deviceId);
  tokens.forget(device.deviceId);
  goOn.resolve();
  await Promise.all(before);
  await expect(credentials.check(device.credential)).rejects.toMatchObject({ code: 'device_revoked' });
  await expect(tokens.check(accessToken)).rejects.toMatchObject({ code: 'device_revoked' });
});

test('what runs for a device is cut when it is revoked, unless it was done before', async () => {
  const device = await newDevice('downloading');
  const cut: string[] = [];
  const release = devices.onRevoked(device.deviceId, () => cut.push('done before'));
  devices.onRevoked(device.deviceId, () => cut.push('running'));
  release();
  await devices.revoke(organizationId, device.deviceId);
  expect(cut).toEqual(['running']);
});

test('a token takes over an existing device only when it was made for it, and is not spent in trying', async () => {
  const device = await newDevice('hospital-001');
  const enrollmentToken = await insertEnrollmentToken(database, organizationId);
  const request = { enrollmentToken, deviceIdentifier: 'hospital-001', labels: {}, agentVersion: '1' };
  await expect(devices.enroll(request)).rejects.toMatchObject({
    code: 'conflict',
    reason: expect.stringContaining('octomil enroll --device hospital-001'),
  });
  await devices.authenticate(device.credential);
  await devices.enroll({ ...request, deviceIdentifier: 'hospital-002' });
  const again = await newDevice('hospital-001', { deviceIdentifier: 'hospital-001' });
  expect(again.deviceId).toBe(device.deviceId);
  await expect(devices.authenticate(device.credential)).rejects.toMatchObject({ code: 'authentication_failed' });
});

test('a token made for one device enrols no other, known or new', async () => {
  await newDevice('known');
  const enrollmentToken = await insertEnrollmentToken(database, organizationId, { deviceIdentifier: 'meant' });
  const as = (deviceIdentifier: string) =>
    devices.enroll({ enrollmentToken, deviceIdentifier, labels: {}, agentVersion: '1' });
  for (const other of ['known', 'new']) {
    await expect(as(other)).rejects.toMatchObject({
      code: 'enrollment_token_invalid',
      reason: expect.stringContaining('is for device meant'),
    });
  }
  await expect(as('meant')).resolves.toMatchObject({ organizationId });
  await expect(as('known')).rejects.toMatchObject({ code: 'enrollment_token_used' });
});

test("a site's labels never replace those of its token, and those it no longer sends are gone", async () => {
  const token = { labels: { tier: 'trusted' } };
  const { deviceId } = await newDevice('labelled', token, { tier: 'mine', ward: '7' });
  expect((await rowOf(deviceId)).labels).toEqual({ tier: 'trusted', ward: '7' });
  const said = hello('p');
  if (said.site !== undefined) said.site.labels = { tier: 'mine', region: 'north' };
  await devices.openSession(deviceId, said);
  expect((await rowOf(deviceId)).labels).toEqual({ tier: 'trusted', region: 'north' });
  if (said.site !== undefined) await devices.describeSite(deviceId, { ...said.site, labels: { tier: '', floor: '2' } });
  expect((await rowOf(deviceId)).labels).toEqual({ tier: 'trusted', floor: '2' });
  if (said.site !== undefined)
    said.site.labels = Object.fromEntries(Array.from({ length: 65 }, (_, n) => [`l${n}`, '']));
  await expect(devices.openSession(deviceId, said)).rejects.toMatchObject({ code: 'invalid_input' });
  await newDevice('labelled', { deviceIdentifier: 'labelled', labels: { tier: 'new' } });
  expect((await rowOf(deviceId)).enrolled_labels).toEqual({ tier: 'new' });
});

test('a site says that it is paused, and an agent that does not say is unknown', async () => {
  const { deviceId } = await newDevice('resting');
  const { site } = hello('p');
  if (site === undefined) throw new TypeError('the hello has no site');
  for (const [paused, shown] of [
    [undefined, null],
    [true, true],
    [false, false],
  ] as const) {
    await devices.describeSite(deviceId, { ...site, ...(paused === undefined ? {} : { paused }) });
    expect((await ask('GET', `/${deviceId}`, key('devices:read'))).body['paused']).toBe(shown);
  }
});

test('names that are only shown are cut to 255 characters', async () => {
  const long = 'v'.repeat(300);
  const enrollmentToken = await insertEnrollmentToken(database, organizationId);
  const request = { enrollmentToken, deviceIdentifier: 'wordy', labels: {}, agentVersion: long };
  const { deviceId } = await devices.enroll(request);
  expect((await rowOf(deviceId)).agent_version).toBe('v'.repeat(255));
  await devices.openSession(deviceId, { ...hello('p'), hostName: long, agentVersion: `1${long}` });
  expect(await rowOf(deviceId)).toMatchObject({ session_host: 'v'.repeat(255), agent_version: `1${'v'.repeat(254)}` });
});

test('a published client registers again and again as the same device, and its heartbeat is noted', async () => {
  const payload = { device_identifier: 'phone-1', platform: 'python', total_memory_mb: 8192, locale: 'en_US' };
  const first = await ask('POST', '/register', key('devices:register'), payload);
  expect(first).toMatchObject({
    status: 201,
    body: { status: 'active', device_identifier: 'phone-1', platform: 'python' },
  });
  expect(first.body['id']).toBe(first.body['device_id']);
  expect((await ask('POST', '/register', key('devices:register'), payload)).body['id']).toBe(first.body['id']);
  const beat = await ask('POST', `/${String(first.body['id'])}/heartbeat`, key('devices:heartbeat'), {});
  expect(beat).toMatchObject({ status: 200, body: { status: 'ok', server_time: expect.stringMatching(/Z$/) } });
  expect((await ask('POST', '/heartbeat', key('devices:heartbeat'), { device_identifier: 'phone-1' })).status).toBe(
    200,
  );
  expect((await ask('POST', '/heartbeat', key('devices:heartbeat'), { device_identifier: 'nobody' })).status).toBe(404);
  expect((await ask('POST', '/register', key('devices:read'), payload)).status).toBe(403);
  expect((await ask('POST', '/register', key('devices:register'), { device_identifier: 'a b' })).body['code']).toBe(
    'invalid_input',
  );
});

test('renewals of a burst share one statement, and only current epochs are renewed', async () => {
  const one = await newDevice('one');
  const two = await newDevice('two');
  const presence = new Presence(database, 'here', 15_000);
  const oldEpoch = await presence.open(one.deviceId, hello('p'));
  const epoch = await presence.open(one.deviceId, hello('p'));
  const twoEpoch = await presence.open(two.deviceId, hello('p'));
  let statements = 0;
  const batch = new RenewalBatch((held) => {
    statements++;
    return presence.renew(held);
  }, systemClock);
  const renewed = await Promise.all([
    batch.renew({ deviceId: one.deviceId, epoch: oldEpoch }),
    batch.renew({ deviceId: one.deviceId, epoch }),
    batch.renew({ deviceId: two.deviceId, epoch: twoEpoch }),
  ]);
  expect([renewed, statements]).toEqual([[false, true, true], 1]);
  await presence.release({ deviceId: one.deviceId, epoch: oldEpoch });
  expect(await batch.renew({ deviceId: one.deviceId, epoch })).toBe(true);
  await presence.release({ deviceId: one.deviceId, epoch });
  expect(await batch.renew({ deviceId: one.deviceId, epoch })).toBe(false);
});

test('of processes that race for a device, one takes it', async () => {
  const device = await newDevice('raced');
  const outcomes = await Promise.allSettled(
    ['a', 'b', 'c'].map((name) => devices.openSession(device.deviceId, hello(name))),
  );
  expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
  for (const outcome of outcomes) {
    if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'credential_in_use' });
  }
});

test('a site summary that would fill the memory is refused, and the device can come again with a smaller one', async () => {
  const { deviceId } = await newDevice('talkative');
  const large = hello('p1');
  if (large.site !== undefined)
    large.site.policyRules = Array(3000).fill({ ...large.site.policyRules[0], name: 'x'.repeat(100) });
  await expect(devices.openSession(deviceId, large)).rejects.toMatchObject({ code: 'too_large' });
  await expect(devices.openSession(deviceId, hello('p1'))).resolves.toBe(1);
});
