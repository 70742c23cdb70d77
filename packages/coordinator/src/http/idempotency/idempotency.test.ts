import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { createMetrics, silentLogger, systemClock } from '@octomil/shared/runtime';
import fc from 'fast-check';
import { sql } from 'kysely';
import { Type } from 'typebox';
import type { Database } from '../../database/database.js';
import { insertOrganization } from '../../testing/enrolled-device.js';
import { openTestDatabase } from '../../testing/index.js';
import { type App, createApp } from '../app.js';
import { openAnswer, sealAnswer } from './answer-seal.js';
import { IdempotencyStore, registerIdempotency } from './index.js';

let database: Database;
let app: App;
let store: IdempotencyStore;
let organizationId: string;
let done: unknown[] = [];
let outcome: () => Promise<Record<string, unknown>> = async () => ({});

beforeAll(async () => {
  database = await openTestDatabase();
  organizationId = await insertOrganization(database);
  store = new IdempotencyStore(database);
  app = await createApp({
    authenticator: {
      verifyKey: async (keyId) => ({ kind: 'key', organizationId, keyId, scopes: ['admin'] }),
      verifyDeviceCredential: async () => ({ organizationId, deviceId: 'device' }),
    },
    logger: silentLogger,
    clock: systemClock,
    metrics: createMetrics({ processMetrics: false }),
  });
  registerIdempotency(app, { store, clock: systemClock, logger: silentLogger });
  app.post('/things', { schema: { body: Type.Object({ name: Type.String() }) } }, async (request, reply) => {
    done.push(request.body);
    return reply.code(201).send(await outcome());
  });
  app.post('/bytes', async (request) => {
    let size = 0;
    for await (const chunk of request.body as AsyncIterable<Buffer>) size += chunk.length;
    done.push(size);
    return { size };
  });
}, 240_000);
beforeEach(() => {
  done = [];
  outcome = async () => ({ secret: randomUUID() });
});
afterAll(async () => {
  await app.close();
  await database.close();
});

const post = (key: string | undefined, body: unknown = { name: 'a' }, token = 'one', url = '/things') =>
  app.inject({
    method: 'POST',
    url,
    headers: {
      authorization: `Bearer ${token}`,
      ...(key === undefined ? {} : { 'idempotency-key': key }),
      ...(Buffer.isBuffer(body) ? { 'content-type': 'application/octet-stream' } : {}),
    },
    payload: body as object,
  });

describe('a POST with an idempotency key', () => {
  test('is done once, and answered the same again, also under a weird key of 255 characters', async () => {
    for (const key of [randomUUID(), `"${'~'.repeat(253)}"`]) {
      done = [];
      const answers = [await post(key), await post(key), await post(key)];
      expect(done).toHaveLength(1);
      expect(new Set(answers.map(({ body }) => body)).size).toBe(1);
      expect(answers.map(({ statusCode }) => statusCode)).toEqual([201, 201, 201]);
      expect(answers.map(({ headers }) => headers['idempotent-replayed'])).toEqual([undefined, 'true', 'true']);
    }
  });

  test('with another body is refused, and by another caller it is another key', async () => {
    const key = randomUUID();
    await post(key);
    const other = await post(key, { name: 'b' });
    expect(other.statusCode).toBe(409);
    expect(other.json()).toMatchObject({ code: 'conflict', details: { route: 'POST /things' } });
    expect((await post(key, { name: 'b' }, 'two')).statusCode).toBe(201);
    expect(done).toEqual([{ name: 'a' }, { name: 'b' }]);
  });

  test('that waits for bytes is done when they are there, under the same key', async () => {
    const key = randomUUID();
    outcome = async () => {
      throw new OctomilError('transfer_incomplete', 'half of the file is missing');
    };
    expect((await post(key)).json()).toMatchObject({ code: 'transfer_incomplete' });
    outcome = async () => ({ ok: true });
    expect((await post(key)).json()).toEqual({ ok: true });
    expect((await post(key)).headers['idempotent-replayed']).toBe('true');
    expect(done).toHaveLength(2);
  });

  test('while it is in progress is told when to ask again', async () => {
    const key = randomUUID();
    const { promise, resolve } = Promise.withResolvers<Record<string, unknown>>();
    const begun = new Promise<void>((started) => {
      outcome = () => {
        started();
        return promise;
      };
    });
    const first = post(key);
    await begun;
    const second = await post(key);
    expect(second.statusCode).toBe(409);
    expect(Number(second.headers['retry-after'])).toBeGreaterThan(0);
    resolve({ ok: true });
    expect((await first).statusCode).toBe(201);
    expect((await post(key)).json()).toEqual({ ok: true });
    expect(done).toHaveLength(1);
  });

  test.each([
    ['network_unavailable', 503, 2],
    ['rate_limited', 429, 2],
    ['wrong_state', 409, 1],
    ['not_found', 404, 1],
    ['transfer_incomplete', 409, 2],
    ['format_not_ready', 404, 2],
  ] as const)('that fails with %s (%i) is tried %i times in two', async (code, status, times) => {
    const key = randomUUID();
    outcome = async () => {
      throw new OctomilError(code, 'as the test wants it');
    };
    const answers = [await post(key), await post(key)];
    expect(answers.map(({ statusCode }) => statusCode)).toEqual([status, status]);
    expect(done).toHaveLength(times);
  });

  test('is taken over when its coordinator died, and not before', async () => {
    const key = randomUUID();
    outcome = () => new Promise(() => undefined);
    void post(key).catch(() => undefined);
    const held = await eventually(() => row(key));
    expect(held.status).toBeNull();
    outcome = async () => ({ second: true });
    expect((await post(key)).statusCode).toBe(409);
    await sql`update idempotency_keys set locked_until = now() - interval '1 second'
      where request_hash = ${held.request_hash} and created_at = (select max(created_at) from idempotency_keys)`.execute(
      database.kysely,
    );
    expect((await post(key)).json()).toEqual({ second: true });
  });

  test('of raw bytes is known by key and length', async () => {
    const key = randomUUID();
    const answers = [
      await post(key, Buffer.alloc(10), 'one', '/bytes'),
      await post(key, Buffer.alloc(10), 'one', '/bytes'),
    ];
    expect(answers.map(({ statusCode }) => statusCode)).toEqual([200, 200]);
    expect(done).toEqual([10]);
    expect((await post(key, Buffer.alloc(11), 'one', '/bytes')).statusCode).toBe(409);
  });

  test.each([[''], ['a\u00e9'], ['x'.repeat(256)]])('named %j is refused', async (key) => {
    const refused = await post(key);
    expect(refused.statusCode).toBe(400);
    expect(refused.json()).toMatchObject({ code: 'invalid_input', details: { field: 'Idempotency-Key' } });
    expect(done).toHaveLength(0);
  });

  test('leaves neither its key nor its answer readable in the database', async () => {
    const key = randomUUID();
    const { secret } = (await post(key)).json() as { secret: string };
    const { rows } = await sql<{ text: string }>`select row_to_json(t)::text as text from idempotency_keys t`.execute(
      database.kysely,
    );
    const all = rows.map(({ text }) => text).join();
    expect(all).not.toContain(secret);
    expect(all).not.toContain(key);
  });

  test('leaves of one caller at most so many answers, the newest, and none of another is touched', async () => {
    const keys = Array.from({ length: 5 }, () => randomUUID());
    for (const key of keys) await post(key, { name: 'a' }, 'busy');
    const other = randomUUID();
    await post(other, { name: 'a' }, 'calm');
    await sql`delete from idempotency_keys where caller not in (
      select caller from idempotency_keys order by created_at desc limit 6)`.execute(database.kysely);
    expect(await store.sweepCrowded(3)).toBe(2);
    expect(await store.sweepCrowded(3)).toBe(0);
    done = [];
    for (const key of keys.slice(2)) await post(key, { name: 'a' }, 'busy');
    await post(other, { name: 'a' }, 'calm');
    expect(done).toHaveLength(0);
    await post(keys[0], { name: 'a' }, 'busy');
    expect(done).toHaveLength(1);
  });

  test('is forgotten after a day', async () => {
    const key = randomUUID();
    await post(key);
    await sql`update idempotency_keys set created_at = now() - interval '25 hours'`.execute(database.kysely);
    await post(key);
    expect(done).toHaveLength(2);
    await sql`update idempotency_keys set created_at = now() - interval '25 hours'`.execute(database.kysely);
    expect(await store.sweep()).toBeGreaterThan(0);
    expect(await store.sweep()).toBe(0);
  });
});

test('a POST without a key is done each time', async () => {
  await post(undefined);
  await post(undefined);
  expect(done).toHaveLength(2);
});

test('an answer opens with the token and key that sealed it, and with no others', () => {
  fc.assert(
    fc.property(fc.string(), fc.string({ minLength: 1 }), fc.string({ minLength: 1 }), (body, token, key) => {
      const sealed = sealAnswer(body, token, key);
      expect(openAnswer(sealed, token, key)).toBe(Buffer.from(body).toString('utf8'));
      expect(openAnswer(sealed, `${token}x`, key)).toBeUndefined();
      expect(openAnswer(sealed, token, `${key}x`)).toBeUndefined();
      expect(openAnswer(sealed.slice(0, 30), token, key)).toBeUndefined();
    }),
  );
});

interface Row {
  status: number | null;
  request_hash: string;
}

async function row(_key: string): Promise<Row | undefined> {
  const { rows } = await sql<Row>`select status, request_hash from idempotency_keys
    where status is null order by created_at desc limit 1`.execute(database.kysely);
  return rows[0];
}

async function eventually<T>(look: () => Promise<T | undefined>): Promise<T> {
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    await systemClock.sleep(5);
  }
}
