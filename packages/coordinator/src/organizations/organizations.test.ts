import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { type Coordinator, startCoordinator } from '../start-coordinator.js';
import { describeOnDatabases } from '../testing/databases.js';
import { insertOrganization } from '../testing/enrolled-device.js';
import { testDatabaseDump } from '../testing/index.js';
import { ApiKeys } from './api-keys.js';

type Json = Record<string, unknown>;
let coordinator: Coordinator;
let admin: string;

beforeAll(async () => {
  coordinator = await startCoordinator({
    database: 'memory',
    databaseDump: await testDatabaseDump(),
    logger: silentLogger,
  });
  admin = coordinator.bootstrapApiKey ?? '';
}, 240_000);
afterAll(() => coordinator.stop());

async function send(
  key: string,
  method: string,
  path: string,
  json?: unknown,
): Promise<{ status: number; body: Json }> {
  const response = await fetch(`${coordinator.restUrl}/api/v1${path}`, {
    method,
    headers: {
      authorization: `Bearer ${key}`,
      ...(json === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(json === undefined ? {} : { body: JSON.stringify(json) }),
  });
  return { status: response.status, body: (await response.json()) as Json };
}

test('an operator makes an organization with a key of its own; the two do not see each other', async () => {
  const made = await send(admin, 'POST', '/organizations', { name: 'Clinic Süd' });
  expect(made).toMatchObject({ status: 201, body: { name: 'Clinic Süd', api_key: expect.stringMatching(/^edg_/) } });
  const key = String(made.body['api_key']);
  expect(await send(key, 'GET', '/organizations/me')).toMatchObject({ status: 200, body: { id: made.body['id'] } });
  expect((await send(admin, 'GET', '/organizations/me')).body).toMatchObject({ name: 'default' });

  const model = await send(admin, 'POST', '/models', { name: 'secret' });
  expect((await send(key, 'GET', `/models/${model.body['id']}`)).status).toBe(404);
  expect((await send(key, 'POST', '/models', { name: 'secret' })).status).toBe(201);
  const log = JSON.stringify((await send(key, 'GET', '/audit')).body);
  expect(log).not.toContain(String(model.body['id']));

  const again = await send(admin, 'POST', '/organizations', { name: 'Clinic Süd' });
  expect(again).toMatchObject({ status: 409, body: { code: 'conflict', details: { org_id: made.body['id'] } } });
  const all = await send(admin, 'GET', '/organizations');
  expect((all.body as unknown as Json[]).map(({ name }) => name)).toEqual(['default', 'Clinic Süd']);
});

test('nobody else makes organizations, or sees them', async () => {
  const other = await send(admin, 'POST', '/organizations', { name: 'other' });
  const otherAdmin = String(other.body['key']);
  const reader = await send(admin, 'POST', '/api-keys', { name: 'reader', scopes: ['models:read'] });
  for (const key of [otherAdmin, String(reader.body['key'])]) {
    expect((await send(key, 'POST', '/organizations', { name: 'mine' })).status).toBe(403);
    expect((await send(key, 'GET', '/organizations')).status).toBe(403);
  }
  expect((await send(admin, 'POST', '/organizations', { name: ' ' })).status).toBe(400);
});

test('a key gives away what it may do itself: a write scope includes its read, and nothing else', async () => {
  const scopes = ['keys:write', 'models:write', 'rollouts:read'];
  const { body } = await send(admin, 'POST', '/api-keys', { name: 'giver', scopes });
  const give = (scope: string) => send(String(body['key']), 'POST', '/api-keys', { name: scope, scopes: [scope] });
  expect((await give('models:read')).status).toBe(201);
  expect((await give('rollouts:read')).status).toBe(201);
  for (const scope of ['rollouts:write', 'devices:read', 'admin']) {
    expect(await give(scope)).toMatchObject({ status: 403, body: { code: 'forbidden' } });
  }
});

test('a revoked key is refused at once, though it was just used', async () => {
  const { body } = await send(admin, 'POST', '/api-keys', { name: 'short', scopes: ['models:read'] });
  const key = String(body['key']);
  expect((await send(key, 'GET', '/models')).status).toBe(200);
  await send(admin, 'DELETE', `/api-keys/${body['id']}`);
  expect((await send(key, 'GET', '/models')).status).toBe(401);
});

test('a key revokes what it covers, itself included, and no key that may do more', async () => {
  const { body: admins } = await send(admin, 'POST', '/api-keys', { name: 'second admin', scopes: ['admin'] });
  const { body: wide } = await send(admin, 'POST', '/api-keys', { name: 'wide', scopes: ['models:write'] });
  const { body: narrow } = await send(admin, 'POST', '/api-keys', { name: 'narrow', scopes: ['models:read'] });
  const { body: keeper } = await send(admin, 'POST', '/api-keys', {
    name: 'keeper',
    scopes: ['keys:write', 'models:read'],
  });
  const revoke = (id: unknown) => send(String(keeper['key']), 'DELETE', `/api-keys/${id}`);
  for (const { id } of [admins, wide])
    expect(await revoke(id)).toMatchObject({ status: 403, body: { code: 'forbidden' } });
  expect((await send(String(admins['key']), 'GET', '/organizations/me')).status).toBe(200);
  for (const { id } of [narrow, narrow, keeper]) expect((await revoke(id)).status).toBe(200);
});

test('the last admin key of an organization stays, until there is another', async () => {
  const made = await send(admin, 'POST', '/organizations', { name: 'one of each' });
  const first = String(made.body['key']);
  const [{ id: firstId } = {}] = (await send(first, 'GET', '/api-keys')).body as unknown as Json[];
  const revokeFirst = (key: string) => send(key, 'DELETE', `/api-keys/${firstId}`);
  expect(await revokeFirst(first)).toMatchObject({
    status: 409,
    body: { code: 'wrong_state', message: expect.stringContaining('create another admin key first') },
  });
  const { body: second } = await send(first, 'POST', '/api-keys', { name: 'next', scopes: ['admin'] });
  expect((await revokeFirst(first)).status).toBe(200);
  // Again, as who did not get the answer asks.
  expect((await revokeFirst(String(second['key']))).status).toBe(200);
});

describeOnDatabases('API keys', (open) => {
  test('of two admin keys that are revoked at once, one stays', async () => {
    const database = await open();
    const organizationId = await insertOrganization(database);
    const keys = new ApiKeys(database, systemClock);
    const make = () => keys.create(organizationId, 'admin', ['admin']);
    const [one, two] = [await make(), await make()];
    const [first, second] = [await keys.verify(one.key), await keys.verify(two.key)];
    const outcomes = await Promise.allSettled([
      keys.revoke(organizationId, first.keyId, second),
      keys.revoke(organizationId, second.keyId, first),
    ]);
    const refused = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason as unknown] : []));
    expect(refused).toEqual([expect.objectContaining({ code: 'wrong_state' })]);
    const live = (await keys.list(organizationId)).filter(({ revoked_at }) => revoked_at === null);
    expect(live).toHaveLength(1);
    await database.close();
  }, 240_000);
});
