import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { type Clock, silentLogger, systemClock } from '@octomil/shared/runtime';
import type { Database } from '../database/database.js';
import { HeldDevices } from './held-devices.js';
import { RolloutsInForce } from './rollouts-in-force.js';

test('a reading that fails is tried again for devices that are held, and not once they have gone', async () => {
  const waiting: { delayMs: number; callback: () => void }[] = [];
  const clock: Clock = {
    ...systemClock,
    after: (delayMs, callback) => {
      waiting.push({ delayMs, callback });
      return () => undefined;
    },
  };
  const closed: Pick<Database, 'kysely'> = {
    get kysely(): never {
      throw new OctomilError('internal', 'the database is closed');
    },
  };
  const database = closed as Database;
  const held = new HeldDevices(database, new RolloutsInForce(database, clock), clock, silentLogger);
  const listener = { deviceId: 'd', organizationId: 'o', desire: () => undefined };
  const read = async (): Promise<number | undefined> => {
    const next = waiting.shift();
    next?.callback();
    await turn();
    return next?.delayMs;
  };
  held.opened(listener);
  expect(await read()).toBe(25);
  expect(await read()).toBe(1_000);
  held.closed(listener);
  expect(await read()).toBe(1_000);
  expect(await read()).toBeUndefined();
  // And it begins anew with the next device.
  held.opened(listener);
  expect(await read()).toBe(25);
});
