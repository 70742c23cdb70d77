import { expect, test } from '@jest/globals';
import type { OctomilError } from '@octomil/shared/errors';
import { DEFAULT_TIMEOUTS, Deadlines } from './deadlines.js';

test('a server that falls silent after its reader was slow is given up as any other', () => {
  let nowMs = 0;
  let timer: { readonly atMs: number; readonly callback: () => void } | undefined;
  const expired: OctomilError[] = [];
  const deadlines = new Deadlines({
    backend: 'ollama',
    timeouts: DEFAULT_TIMEOUTS,
    streaming: true,
    clock: {
      now: () => nowMs,
      sleep: async () => undefined,
      after: (delayMs, callback) => {
        timer = { atMs: nowMs + delayMs, callback };
        return () => {
          timer = undefined;
        };
      },
    },
    expired: (error) => expired.push(error),
  });
  const pass = (untilMs: number): void => {
    while (timer !== undefined && timer.atMs <= untilMs && expired.length === 0) {
      const { atMs, callback } = timer;
      timer = undefined;
      nowMs = atMs;
      callback();
    }
    if (expired.length === 0) nowMs = untilMs;
  };
  pass(10_000);
  deadlines.content();
  deadlines.pause();
  // The reader's time, not the server's.
  pass(100_000);
  expect(expired).toEqual([]);
  deadlines.resume();
  pass(600_000);
  expect(expired).toMatchObject([{ code: 'request_timeout', details: { limit: 'idle', limit_ms: 30_000 } }]);
  expect(nowMs).toBe(130_000);
});
