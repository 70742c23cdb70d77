import { expect, test } from '@jest/globals';
import { reconnectDelayMs, slowRetryDelayMs } from './backoff.js';

test('for about ten seconds no wait is longer than one; later up to half a minute; always from zero on', () => {
  let meanTotalMs = 0;
  for (let attempt = 0; meanTotalMs < 9_000; attempt++) {
    expect(reconnectDelayMs(attempt, 1)).toBeLessThanOrEqual(1_000);
    meanTotalMs += reconnectDelayMs(attempt, 0.5);
  }
  expect(reconnectDelayMs(0, 1)).toBe(100);
  expect(reconnectDelayMs(1_000, 1)).toBe(30_000);
  expect(reconnectDelayMs(30, 0)).toBe(0);
  expect([slowRetryDelayMs(0), slowRetryDelayMs(1)]).toEqual([30_000, 60_000]);
});
