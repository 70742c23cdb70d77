import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { silentLogger } from '@octomil/shared/runtime';
import { sql } from 'kysely';
import { type Coordinator, startCoordinator } from '../start-coordinator.js';
import { testDatabaseDump } from '../testing/index.js';
import { auditResource, changedFields } from './audit-resource.js';

interface Entry {
  id: string;
  created_at: string;
  actor: string;
  action: string;
  resource: string;
  details: { fields?: string[] };
  remote_address: string;
  request_id: string;
}
interface Answer {
  status: number;
  body: Record<string, unknown>;
}

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

async function send(method: string, path: string, json?: unknown, headers: object = {}, key = admin): Promise<Answer> {
  const response = await fetch(`${coordinator.restUrl}${path}`, {
    method,
    headers: {
      authorization: `Bearer ${key}`,
      ...(json === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    ...(json === undefined ? {} : { body: JSON.stringify(json) }),
  });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

async function entries(query = '', key = admin): Promise<Entry[]> {
  const { body } = await send('GET', `/api/v1/audit${query}`, undefined, {}, key);
  return body['entries'] as Entry[];
}

test('a change is told with who, what and from where, and without values or secrets', async () => {
  const made = await send(
    'POST',
    '/api/v1/models',
    { name: 'heart', description: 'not for the log' },
    { 'x-request-id': 'r-1' },
  );
  const [entry] = await entries();
  expect(entry).toMatchObject({
    actor: expect.stringMatching(/^key:/),
    action: 'POST /api/v1/models',
    resource: `models/${made.body['id']}`,
    details: { fields: ['name', 'description'] },
    remote_address: '127.0.0.1',
    request_id: 'r-1',
    created_at: expect.stringMatching(/Z$/),
  });
  await send('PATCH', '/api/v1/models/heart', { description: 'by name' });
  expect((await entries())[0]).toMatchObject({ resource: `models/${made.body['id']}` });
  const key = await send('POST', '/api/v1/api-keys', { name: 'reader', scopes: ['models:read'] });
  const text = JSON.stringify(await entries());
  expect(text).not.toContain('not for the log');
  expect(text).not.toContain(key.body['key']);
  expect(text).toContain(`api-keys/${key.body['id']}`);
});

test('what failed, what only reads and what was answered again leave no entry', async () => {
  const before = (await entries())[0]?.id;
  expect((await send('POST', '/api/v1/models', { name: 'heart' })).status).toBe(409);
  expect((await send('POST', '/api/v1/models', { name: 7, is_baseline: 'perhaps' })).status).toBe(400);
  await send('GET', '/api/v1/models');
  expect((await entries())[0]?.id).toBe(before);
  const headers = { 'idempotency-key': 'once' };
  const first = await send('POST', '/api/v1/models', { name: 'lung' }, headers);
  expect(await send('POST', '/api/v1/models', { name: 'lung' }, headers)).toEqual(first);
  expect(await entries(`?resource=models/${first.body['id']}`)).toHaveLength(1);
});

test('a device that registers under a key is told when it is new or gets a token, and not each time it is found', async () => {
  const register = async (body: object): Promise<string> =>
    String((await send('POST', '/api/v1/devices/register', { device_identifier: 'phone', ...body })).body['id']);
  const id = await register({});
  await register({ battery_pct: 80 });
  await register({ installation_id: 'i' });
  expect(await entries(`?resource=devices/${id}`)).toMatchObject([
    { actor: expect.stringMatching(/^key:/), details: { new_device: false, tokens_issued: true } },
    { action: 'POST /api/v1/devices/register', details: { new_device: true, tokens_issued: false } },
  ]);
});

test('entries are found by actor, resource, action and time, page by page', async () => {
  const all = await entries();
  expect(all.length).toBeGreaterThan(3);
  const paged: Entry[] = [];
  for (let cursor: unknown = ''; cursor !== null; ) {
    const query = cursor === '' ? '' : `&cursor=${cursor}`;
    const { body } = await send('GET', `/api/v1/audit?limit=2${query}`);
    paged.push(...(body['entries'] as Entry[]));
    cursor = body['next_cursor'];
  }
  expect(paged).toEqual(all);
  const [newest] = all;
  expect(await entries(`?actor=${newest?.actor}&action=${encodeURIComponent('POST /api/v1/api-keys')}`)).toHaveLength(
    1,
  );
  expect(await entries('?actor=key:nobody')).toEqual([]);
  expect(await entries('?resource=mod')).toEqual([]);
  expect((await entries('?resource=models')).length).toBe(
    all.filter(({ resource }) => resource.startsWith('models/')).length,
  );
  expect(await entries('?since=2999-01-01T00:00:00Z')).toEqual([]);
  expect(await entries('?until=2999-01-01T00:00:00Z')).toEqual(all);
  expect((await send('GET', '/api/v1/audit?since=0000-01-01')).status).toBe(400);
  const wrong = await send('GET', '/api/v1/audit?since=yesterday');
  expect(wrong).toMatchObject({ status: 400, body: { details: { field: 'since' } } });
});

test('only admin keys read it', async () => {
  const { body } = await send('POST', '/api/v1/api-keys', { name: 'writer', scopes: ['models:write'] });
  const refused = await send('GET', '/api/v1/audit', undefined, {}, String(body['key']));
  expect(refused).toMatchObject({ status: 403, body: { code: 'forbidden' } });
});

test('a change that cannot be written down is not answered as done', async () => {
  const { audit } = coordinator.context;
  const { record } = audit;
  Object.assign(audit, { record: () => Promise.reject(new TypeError('the disk is gone')) });
  const answer = await send('POST', '/api/v1/models', { name: 'unlogged' });
  Object.assign(audit, { record });
  expect(answer).toMatchObject({ status: 500, body: { code: 'internal' } });
});

describe('the entry of a change and the answer under its key are one commit', () => {
  /** The transaction that wrote each row. */
  const writers = async (name: string): Promise<Record<'model' | 'entry' | 'answer', string>> => {
    const { rows } = await sql<Record<'model' | 'entry' | 'answer', string>>`
      select m.xmin::text as model, e.xmin::text as entry,
        (select k.xmin::text from idempotency_keys k order by created_at desc limit 1) as answer
      from models m left join audit_entries e on e.resource = 'models/' || m.id
      where m.name = ${name}`.execute(coordinator.context.database.kysely);
    return rows[0] ?? { model: '', entry: '', answer: '' };
  };

  test('with the change itself where its route says so', async () => {
    const { status } = await send('POST', '/api/v1/models', { name: 'whole' }, { 'idempotency-key': 'whole' });
    expect(status).toBe(201);
    const { model, entry, answer } = await writers('whole');
    expect(entry).toBe(model);
    expect(answer).toBe(model);
  });

  test('after the change elsewhere', async () => {
    await send('POST', '/api/v1/models/ensure', { name: 'apart' }, { 'idempotency-key': 'apart' });
    const { model, entry, answer } = await writers('apart');
    expect(entry).not.toBe(model);
    expect(answer).toBe(entry);
  });

  test('so that a change whose entry is refused is not made, and its key is free', async () => {
    const { kysely } = coordinator.context.database;
    await sql`alter table audit_entries add constraint refused check (action <> 'POST /api/v1/models') not valid`.execute(
      kysely,
    );
    const headers = { 'idempotency-key': 'undone' };
    const refused = await send('POST', '/api/v1/models', { name: 'undone' }, headers);
    await sql`alter table audit_entries drop constraint refused`.execute(kysely);
    expect(refused.status).toBe(500);
    expect(await writers('undone')).toMatchObject({ model: '' });
    expect(await send('POST', '/api/v1/models', { name: 'undone' }, headers)).toMatchObject({ status: 201 });
  });

  test('and an answer without its entry is not sent, though the change is made', async () => {
    const { kysely } = coordinator.context.database;
    await sql`alter table audit_entries add constraint refused check (action not like '%ensure') not valid`.execute(
      kysely,
    );
    const headers = { 'idempotency-key': 'half' };
    const refused = await send('POST', '/api/v1/models/ensure', { name: 'half' }, headers);
    await sql`alter table audit_entries drop constraint refused`.execute(kysely);
    expect(refused).toMatchObject({ status: 500, body: { code: 'internal' } });
    const again = await send('POST', '/api/v1/models/ensure', { name: 'half' }, headers);
    expect(again).toMatchObject({ status: 200, body: { name: 'half' } });
  });

  test('and a refused change leaves no entry', async () => {
    const before = (await entries())[0]?.id;
    const headers = { 'idempotency-key': 'taken' };
    expect((await send('POST', '/api/v1/models', { name: 'whole' }, headers)).status).toBe(409);
    expect((await send('PATCH', '/api/v1/models/whole', { name: 'apart' })).status).toBe(409);
    expect((await entries())[0]?.id).toBe(before);
  });
});

test.each([
  ['/api/v1/models', {}, { id: 'm' }, true, 'models/m'],
  ['/api/v1/models/ensure', {}, { id: 'm' }, true, 'models/m'],
  ['/api/v1/models/:id', { id: 'name' }, { id: 'm' }, false, 'models/m'],
  [
    '/api/v1/models/:id/versions/:version/publish',
    { id: 'name', version: '1' },
    { model_id: 'm' },
    false,
    'models/m/versions/1',
  ],
  ['/api/v1/models/:id/versions/confirm-upload', { id: 'm' }, { id: 'v', version: '1' }, true, 'models/m/versions/1'],
  ['/api/v1/models/:id/rollouts', { id: 'm' }, { id: 7 }, true, 'models/m/rollouts/7'],
  [
    '/api/v1/models/:id/rollouts/:rid/advance',
    { id: 'm', rid: 7 },
    { id: 7, model_id: 'm' },
    false,
    'models/m/rollouts/7',
  ],
  ['/api/v1/training/sessions', {}, { id: 's' }, true, 'training/sessions/s'],
  ['/api/v1/devices/:id', { id: 'd' }, undefined, false, 'devices/d'],
])('%s changes a resource with a name', (pattern, params, answer, created, resource) => {
  expect(auditResource(pattern, params, answer, created)).toBe(resource);
});

test('names of fields that may be secrets are left out', () => {
  expect(changedFields({ name: 1, [`edg_${'A'.repeat(43)}`]: 2, 'a b': 3 })).toEqual(['name']);
  expect(changedFields([1])).toEqual([]);
});
