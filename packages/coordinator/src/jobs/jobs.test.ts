import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { silentLogger } from '@octomil/shared/runtime';
import type { OpenDatabase } from '../database/open-database.js';
import { describeOnDatabases, describeOnRedis, type OpenTestDatabase, openRunDatabase } from '../testing/databases.js';
import type { Jobs } from './jobs.js';
import { openJobs } from './open-jobs.js';

describeOnDatabases('Jobs', (open) => testJobs(open));
describeOnRedis('Jobs', (redisUrl) => testJobs(openRunDatabase, redisUrl));

function testJobs(open: OpenTestDatabase, redisUrl?: string): void {
  let database: OpenDatabase;
  let jobs: Jobs;

  beforeAll(async () => {
    database = await open();
    jobs = await openJobs({ database, logger: silentLogger, ...(redisUrl === undefined ? {} : { redisUrl }) });
  }, 240_000);
  afterAll(async () => {
    await jobs.close();
    await database.close();
  }, 180_000);

  test('jobs run, the same wake-up can be added again, and one that throws stops nothing', async () => {
    const name = `test-${randomUUID()}`;
    const queue = await jobs.queue<{ roundId: string }>(name);
    const ran: string[] = [];
    const { promise: done, resolve } = Promise.withResolvers<void>();
    for (const roundId of ['a', 'fails', 'a', 'b']) await queue.add({ roundId });
    const worker = await jobs.worker<{ roundId: string }>(
      name,
      async ({ roundId }) => {
        ran.push(roundId);
        if (ran.length === 4) resolve();
        if (roundId === 'fails') throw new OctomilError('unknown', 'a handler failed');
      },
      1,
    );
    await done;
    expect(ran).toEqual(['a', 'fails', 'a', 'b']);
    await worker.close();
    await queue.close();
  }, 180_000);

  test('a delay may have a fraction of a millisecond, and be as long as the longest deadline', async () => {
    const name = `test-${randomUUID()}`;
    const queue = await jobs.queue<{ step: string }>(name);
    const ran: string[] = [];
    const { promise: done, resolve } = Promise.withResolvers<void>();
    await queue.add({ step: 'in 30 days' }, { delayMs: 30 * 86_400_000 + 0.25 });
    await queue.add({ step: 'soon' }, { delayMs: 20.123456 });
    const worker = await jobs.worker<{ step: string }>(
      name,
      async ({ step }) => {
        ran.push(step);
        resolve();
      },
      1,
    );
    await done;
    expect(ran).toEqual(['soon']);
    await worker.close();
    await queue.close();
  }, 180_000);

  test('a delayed job comes after one that was added later', async () => {
    const name = `test-${randomUUID()}`;
    const queue = await jobs.queue<{ step: string }>(name);
    const ran: string[] = [];
    const { promise: done, resolve } = Promise.withResolvers<void>();
    await jobs.worker<{ step: string }>(
      name,
      async ({ step }) => {
        ran.push(step);
        if (step === 'delayed') resolve();
      },
      1,
    );
    await queue.add({ step: 'delayed' }, { delayMs: 300 });
    await queue.add({ step: 'now' });
    await done;
    expect(ran).toEqual(['now', 'delayed']);
  }, 180_000);

  test('adding inside a transaction is refused, and a job added beside one is not rolled back with it', async () => {
    const name = `test-${randomUUID()}`;
    const queue = await jobs.queue<{ step: string }>(name);
    const inside = database.transact(async () => {
      await queue.add({ step: 'inside' });
    });
    await expect(inside).rejects.toMatchObject({ code: 'internal' });
    const { promise: begun, resolve: begin } = Promise.withResolvers<void>();
    const rolledBack = database
      .transact(async () => {
        begin();
        await new Promise((resolve) => setImmediate(resolve));
        throw new OctomilError('conflict', 'roll back');
      })
      .catch(() => undefined);
    await begun;
    await queue.add({ step: 'beside' });
    await rolledBack;
    const ran = await new Promise<string>((resolve, reject) => {
      jobs.worker<{ step: string }>(name, async ({ step }) => resolve(step), 1).catch(reject);
    });
    expect(ran).toBe('beside');
  }, 180_000);

  test('a handler may use the database and transactions', async () => {
    const name = `test-${randomUUID()}`;
    const queue = await jobs.queue<{ step: string }>(name);
    const counted = new Promise<number>((resolve, reject) => {
      jobs
        .worker<{ step: string }>(
          name,
          async () => {
            await database
              .transact((transaction) => transaction.selectFrom('organizations').select('id').execute())
              .then((rows) => resolve(rows.length), reject);
          },
          2,
        )
        .catch(reject);
    });
    await queue.add({ step: 'count' });
    expect(await counted).toBeGreaterThanOrEqual(0);
  }, 180_000);
}
