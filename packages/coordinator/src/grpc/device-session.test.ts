import { PassThrough } from 'node:stream';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { expect, test } from '@jest/globals';
import { SessionRequestSchema } from '@octomil/proto';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { DeviceSession, type SessionContext, type SessionStream } from './device-session.js';

test('a device that renews faster than it is answered is not read, until it was', async () => {
  const renewals: (() => void)[] = [];
  const context = {
    devices: { leaseMs: 15_000, renewSession: () => new Promise<void>((resolve) => renewals.push(resolve)) },
    clock: systemClock,
    logger: silentLogger,
  } as unknown as SessionContext;
  const stream = new PassThrough({ objectMode: true, highWaterMark: 1_000 });
  const session = new DeviceSession(
    context,
    stream as unknown as SessionStream,
    { deviceId: 'd', organizationId: 'o' },
    1,
  );
  const renewal = create(SessionRequestSchema, { epoch: 1n, event: { case: 'leaseRenewal', value: {} } });
  let received = 0;
  for (; received < 1_000 && !stream.isPaused(); received++) session.receive(renewal);
  expect(received).toBeLessThan(100);
  for (const resolve of renewals) resolve();
  await nextTurn();
  expect(stream.isPaused()).toBe(false);
});
