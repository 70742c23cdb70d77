import { expect, test } from '@jest/globals';
import { systemClock } from './clock.js';

test('a sleep ends at once with the reason of its signal, aborted before or during', async () => {
  const reason = new RangeError('round cancelled');
  await expect(systemClock.sleep(60_000, AbortSignal.abort(reason))).rejects.toBe(reason);
  const controller = new AbortController();
  const sleeping = systemClock.sleep(60_000, controller.signal);
  controller.abort(reason);
  await expect(sleeping).rejects.toBe(reason);
});

test('a cancelled callback does not come', async () => {
  const calls: string[] = [];
  systemClock.after(1, () => void calls.push('kept'));
  systemClock.after(1, () => void calls.push('cancelled'))();
  await systemClock.sleep(20);
  expect(calls).toEqual(['kept']);
});
