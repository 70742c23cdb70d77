import { randomUUID } from 'node:crypto';
import { chmod, mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { sql } from 'kysely';
import { describeOnDatabases } from '../testing/databases.js';
import { MIGRATIONS, migrateToLatest } from './migrate.js';
import { type OpenDatabase, openDatabase } from './open-database.js';
import { violatedUnique } from './transact.js';

describeOnDatabases('Database', (open) => {
  let database: OpenDatabase;
  const insert = (organization: string) => ({ id: randomUUID(), name: organization });
  const names = async (prefix: string) => {
    const rows = await database.kysely
      .selectFrom('organizations')
      .select('name')
      .where('name', 'like', `${prefix}%`)
      .orderBy('name')
      .execute();
    return rows.map((row) => row.name.slice(prefix.length));
  };

  beforeAll(async () => {
    database = await open();
  }, 240_000);
  afterAll(() => database.close());

  test('int8 and numeric are numbers, and one that does not fit is an error', async () => {
    const { rows } = await sql`select 9007199254740991::int8 as big, 1.5::numeric as ratio, count(*) as n
        from (values (1), (2)) v`.execute(database.kysely);
    expect(rows).toEqual([{ big: Number.MAX_SAFE_INTEGER, ratio: 1.5, n: 2 }]);
    await expect(sql`select 9007199254740993::int8`.execute(database.kysely)).rejects.toThrow('does not fit');
  });

  test('jsonb and timestamptz arrive as values and dates', async () => {
    const { rows } = await sql`select ${JSON.stringify({ a: [1] })}::jsonb as j, now() as t`.execute(database.kysely);
    expect(rows).toEqual([{ j: { a: [1] }, t: expect.any(Date) }]);
  });

  test('a transaction commits whole, or not at all', async () => {
    const prefix = `${randomUUID()}-`;
    await database.transact(async (transaction) => {
      await transaction
        .insertInto('organizations')
        .values(insert(`${prefix}kept`))
        .execute();
    });
    const failed = database.transact(async (transaction) => {
      await transaction
        .insertInto('organizations')
        .values(insert(`${prefix}lost`))
        .execute();
      throw new OctomilError('conflict', 'roll back');
    });
    await expect(failed).rejects.toThrow('roll back');
    expect(await names(prefix)).toEqual(['kept']);
  });

  test('concurrent transactions and statements do not mix', async () => {
    const prefix = `${randomUUID()}-`;
    const write = (label: string, fail: boolean) =>
      database.transact(async (transaction) => {
        await transaction
          .insertInto('organizations')
          .values(insert(`${prefix}${label}`))
          .execute();
        await new Promise((resolve) => setImmediate(resolve));
        if (fail) throw new OctomilError('conflict', 'roll back');
      });
    const outside = database.kysely
      .insertInto('organizations')
      .values(insert(`${prefix}outside`))
      .execute();
    const results = await Promise.allSettled([write('kept', false), write('lost', true), outside, write('z', false)]);
    expect(results.map((result) => result.status)).toEqual(['fulfilled', 'rejected', 'fulfilled', 'fulfilled']);
    expect(await names(prefix)).toEqual(['kept', 'outside', 'z']);
  });

  test('inside a transaction the outer handle, notify and a second transaction are refused, not waited for', async () => {
    const attempts = [
      () => database.kysely.selectFrom('organizations').selectAll().execute(),
      () => database.notify('octomil_test', 'x'),
      () => database.listen('octomil_test', () => undefined),
      () => database.transact(async () => undefined),
      () => database.kysely.transaction().execute(async () => undefined),
    ];
    for (const attempt of attempts) {
      const outcome = database.transact(async () => {
        await attempt();
      });
      await expect(outcome).rejects.toMatchObject({ code: 'internal' });
    }
    await database.ping();
  });

  test('Kysely transactions that bypass transact are refused', async () => {
    await expect(database.kysely.transaction().execute(async () => undefined)).rejects.toMatchObject({
      code: 'internal',
    });
    await database.ping();
  });

  test('a transaction is repeated on a serialization failure, and on nothing else', async () => {
    let attempts = 0;
    const result = await database.transact(async (transaction) => {
      attempts++;
      if (attempts < 3) {
        await sql`do $$ begin raise exception 'again' using errcode = '40001'; end $$`.execute(transaction);
      }
      return 'done';
    });
    expect([result, attempts]).toEqual(['done', 3]);
    attempts = 0;
    const failed = database.transact(async (transaction) => {
      attempts++;
      await sql`select 1 / 0`.execute(transaction);
    });
    await expect(failed).rejects.toThrow('division by zero');
    expect(attempts).toBe(1);
  });

  test('a unique violation names its constraint', async () => {
    const row = insert(randomUUID());
    await database.kysely.insertInto('organizations').values(row).execute();
    const again = database.kysely
      .insertInto('organizations')
      .values({ ...row, id: randomUUID() })
      .execute();
    const error = await again.catch((thrown: unknown) => thrown);
    expect(violatedUnique(error)).toBe('organizations_name_key');
  });

  test('notifications arrive after the commit, once each, and a receiver that throws harms nobody', async () => {
    const channel = `Test_${randomUUID().slice(0, 8)}`;
    const received: string[] = [];
    let wake: () => void = () => undefined;
    const stopThrowing = await database.listen(channel, () => {
      throw new OctomilError('unknown', 'receiver failed');
    });
    const stop = await database.listen(channel, (payload) => {
      received.push(payload);
      wake();
    });
    const arrived = new Promise<void>((resolve) => {
      wake = () => {
        if (received.includes('last')) resolve();
      };
    });
    await database
      .transact(async (transaction) => {
        await database.notify(channel, 'rolled back', transaction);
        throw new OctomilError('conflict', 'roll back');
      })
      .catch(() => undefined);
    await database.transact(async (transaction) => {
      await database.notify(channel, 'committed', transaction);
      expect(received).toEqual([]);
    });
    await database.notify(channel, 'last');
    await arrived;
    expect(received).toEqual(['committed', 'last']);
    await stop();
    await stopThrowing();
  });

  test('a notification that is too large is refused before PostgreSQL does', async () => {
    await expect(database.notify('octomil_test', 'ü'.repeat(4_000))).rejects.toMatchObject({ code: 'too_large' });
  });

  test('migrating again does nothing; an unknown migration means a newer schema', async () => {
    expect(await migrateToLatest(database.kysely)).toEqual([]);
    await expect(migrateToLatest(database.kysely, {})).rejects.toMatchObject({
      code: 'schema_newer',
      details: { unknown_migrations: Object.keys(MIGRATIONS) },
    });
  });
});

test('a second opening of an embedded database folder is refused and names the holder; closing frees it', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'octomil-'));
  const open = () => openDatabase({ dataDir, logger: silentLogger, clock: systemClock });
  await chmod(dataDir, 0o755);
  const first = await open();
  // PGlite's own files are anybody's to change.
  if (process.platform !== 'win32') expect((await stat(dataDir)).mode & 0o077).toBe(0);
  await expect(open()).rejects.toMatchObject({ code: 'store_locked', details: { folder: dataDir, pid: process.pid } });
  await first.kysely.insertInto('organizations').values({ id: '1', name: 'kept' }).execute();
  await first.close();
  const second = await open();
  expect(await second.kysely.selectFrom('organizations').select('name').execute()).toEqual([{ name: 'kept' }]);
  await second.close();
  await rm(dataDir, { recursive: true });
}, 180_000);
