import { expect, jest, test } from '@jest/globals';
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

test('what is due in 30 days, longer than a timer waits, comes after 30 days, and can be cancelled on the way', async () => {
  const dayMs = 86_400_000;
  jest.useFakeTimers();
  try {
    const calls: string[] = [];
    systemClock.after(30 * dayMs, () => void calls.push('after'));
    const cancel = systemClock.after(30 * dayMs, () => void calls.push('cancelled'));
    systemClock.after(Number.POSITIVE_INFINITY, () => void calls.push('never'));
    const sleeping = systemClock.sleep(30 * dayMs).then(() => calls.push('slept'));
    await jest.advanceTimersByTimeAsync(30 * dayMs - 1);
    expect(calls).toEqual([]);
    cancel();
    await jest.advanceTimersByTimeAsync(1);
    await sleeping;
    expect(calls).toEqual(['after', 'slept']);
  } finally {
    jest.useRealTimers();
  }
});
