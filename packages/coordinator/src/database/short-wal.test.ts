import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { sql } from 'kysely';
import { testDatabaseDump } from '../testing/index.js';
import { openPGlite } from './pglite.js';
import { keepWalShort } from './short-wal.js';

test('what the next start would have to replay stays short, also beside an open transaction', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'octomil-wal-'));
  const database = await openPGlite({
    dataDir,
    loadDataDir: await testDatabaseDump(),
    logger: silentLogger,
    // The database's own timer does not come; the test's does when it says so.
    clock: { ...systemClock, after: () => () => undefined },
  });
  let tick = (): void => undefined;
  const clock = {
    ...systemClock,
    after: (_delayMs: number, callback: () => void) => {
      tick = callback;
      return () => undefined;
    },
  };
  const pending = async () => {
    const { rows } = await sql<{ bytes: number }>`
      select pg_wal_lsn_diff(pg_current_wal_lsn(), redo_lsn)::float8 as bytes from pg_control_checkpoint()`.execute(
      database.kysely,
    );
    return rows[0]?.bytes ?? 0;
  };
  const stop = keepWalShort(database.kysely, { clock, logger: silentLogger, maxWalBytes: 1_000_000 });
  const look = async () => {
    const asked = tick;
    asked();
    while (tick === asked) await systemClock.sleep(1);
  };
  await sql`create table filler as select repeat(md5(n::text), 30) as text from generate_series(1, 3000) n`.execute(
    database.kysely,
  );
  expect(await pending()).toBeGreaterThan(1_000_000);
  const looked = database.transact(async (transaction) => {
    const looking = look();
    await sql`select 1`.execute(transaction);
    return { looking };
  });
  await (await looked).looking;
  const after = await pending();
  expect(after).toBeLessThan(100_000);
  await look();
  expect(await pending()).toBe(after);
  await stop();
  await database.close();
  await rm(dataDir, { recursive: true });
}, 180_000);
