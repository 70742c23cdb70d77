import { randomUUID } from 'node:crypto';
import { expect, test } from '@jest/globals';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { describeOnRedis } from '../testing/databases.js';
import { RateLimits } from './rate-limit.js';
import { openRedisCounts } from './redis-counts.js';
import { SharedCounts } from './shared-counts.js';

describeOnRedis('counts', (url) => {
  test('two coordinators share one limit', async () => {
    const stores = [openRedisCounts(url, silentLogger), openRedisCounts(url, silentLogger)];
    // Counts told before a connection stands are lost, as those told while the server is away.
    for (const store of stores) {
      while (!(await store.addAll([[randomUUID(), 1]]).catch(() => undefined))) await systemClock.sleep(10);
    }
    // One second that lasts, so that the machine's speed does not matter.
    const clock = { ...systemClock, now: () => 1_700_000_000_000 };
    const caller = randomUUID();
    const [one, two] = stores.map(
      (store) =>
        new RateLimits({
          clock,
          perSecond: 1000,
          shared: new SharedCounts({ store, clock, logger: silentLogger }),
        }),
    );
    for (let i = 0; i < 900; i++) one?.count(caller);
    let taken = 0;
    const fill = (): void => {
      for (; taken < 1000; taken++) two?.count(caller);
    };
    // What the other one counted arrives with an exchange, and then the limit is reached far before 1,000.
    await expect(
      (async () => {
        for (let i = 0; i < 500; i++) {
          two?.count(caller);
          taken++;
          await systemClock.sleep(10);
        }
        fill();
      })(),
    ).rejects.toMatchObject({ code: 'rate_limited', retryAfterSeconds: 1 });
    expect(taken).toBeLessThan(500);
    for (const store of stores) await store.close();
  });

  test('a server that is away is an error at once', async () => {
    const store = openRedisCounts('redis://127.0.0.1:1', silentLogger);
    await expect(store.addAll([['a', 1]])).rejects.toThrow();
    await store.close();
  });
});
