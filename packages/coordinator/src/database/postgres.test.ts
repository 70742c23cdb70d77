import { randomUUID } from 'node:crypto';
import { expect, test } from '@jest/globals';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { sql } from 'kysely';
import { bootstrapOrganization } from '../organizations/bootstrap.js';
import { createPostgres, describeOnPostgres } from '../testing/databases.js';
import { openPostgres } from './postgres.js';

describeOnPostgres('PostgreSQL alone', (open) => {
  test('listening goes on after the connection was cut', async () => {
    const database = await open();
    const channel = `Cut_${randomUUID().slice(0, 8)}`;
    let wake: (payload: string) => void = () => undefined;
    const stop = await database.listen(channel, (payload) => wake(payload));
    await sql`select pg_terminate_backend(pid) from pg_stat_activity
      where application_name = 'octomil-listen' and query ilike ${`%${channel}%`}`.execute(database.kysely);
    const received = new Promise<string>((resolve) => {
      wake = resolve;
    });
    // What is sent while nobody listens is lost: so it is sent until somebody does.
    const sending = setInterval(() => {
      database.notify(channel, 'again').catch(() => undefined);
    }, 20);
    expect(await received).toBe('again');
    clearInterval(sending);
    await stop();
    await database.close();
  }, 180_000);

  test('coordinators that start together migrate once and make one organization', async () => {
    const { url, drop } = await createPostgres();
    const databases = await Promise.all(
      Array.from({ length: 3 }, () =>
        openPostgres({ connectionString: url, logger: silentLogger, clock: systemClock }),
      ),
    );
    const kept: string[] = [];
    const made = await Promise.all(
      databases.map((database) =>
        bootstrapOrganization(database, async (key) => {
          kept.push(key);
        }),
      ),
    );
    expect(new Set(made.map(({ organizationId }) => organizationId)).size).toBe(1);
    expect(made.filter(({ bootstrapApiKey }) => bootstrapApiKey !== undefined)).toHaveLength(1);
    expect(kept).toHaveLength(1);
    await Promise.all(databases.map((database) => database.close()));
    await drop();
  }, 180_000);
});
