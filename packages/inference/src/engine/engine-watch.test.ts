import { expect, test } from '@jest/globals';
import type { OctomilError } from '@octomil/shared/errors';
import { watchEngine } from './engine-watch.js';

/** A clock that stands still between the steps of a test. */
function manualClock() {
  let nowMs = 0;
  let timer: { readonly atMs: number; readonly callback: () => void } | undefined;
  return {
    clock: {
      now: () => nowMs,
      sleep: async () => undefined,
      after: (delayMs: number, callback: () => void) => {
        timer = { atMs: nowMs + delayMs, callback };
        return () => {
          timer = undefined;
        };
      },
    },
    /** Runs the timer that is due at the end of the step, as late as that is. */
    pass: (stepMs: number) => {
      nowMs += stepMs;
      if (timer === undefined || timer.atMs > nowMs) return;
      const { callback } = timer;
      timer = undefined;
      callback();
    },
    isWatching: () => timer !== undefined,
  };
}

function watch(limits: { silenceLimitMs: number; maxMemoryBytes?: number }, isLoaded = () => true) {
  const manual = manualClock();
  const watched = { heardAtMs: 0, rssBytes: 100 as number | undefined };
  const faults: OctomilError[] = [];
  const end = watchEngine(watched, isLoaded, {
    clock: manual.clock,
    maxMemoryBytes: undefined,
    ...limits,
    onFault: (fault) => faults.push(fault),
  });
  return { ...manual, watched, faults, end };
}

test('a process that says nothing for longer than it may hangs, and is reported once', () => {
  const { pass, watched, faults, clock, isWatching } = watch({ silenceLimitMs: 600 });
  for (let beat = 0; beat < 20; beat += 1) {
    pass(100);
    watched.heardAtMs = clock.now();
  }
  for (let beat = 0; beat < 6; beat += 1) pass(100);
  expect(faults).toEqual([]);
  for (let beat = 0; beat < 5; beat += 1) pass(100);
  expect(faults.map(({ code, reason }) => [code, /hung.*700 ms; the limit is 600/.test(reason)])).toEqual([
    ['model_load_failed', true],
  ]);
  expect(isWatching()).toBe(false);
});

test('after a sleep of the machine nobody is taken for hanging', () => {
  const { pass, faults } = watch({ silenceLimitMs: 600 });
  pass(3_600_000);
  expect(faults).toEqual([]);
});

test('while it loads it may be silent; the limit of memory holds then as well', () => {
  const { pass, faults, watched } = watch({ silenceLimitMs: 600, maxMemoryBytes: 1_000 }, () => false);
  for (let beat = 0; beat < 60; beat += 1) pass(100);
  expect(faults).toEqual([]);
  watched.rssBytes = 1_001;
  pass(100);
  expect(faults).toMatchObject([
    { code: 'insufficient_memory', details: { rss_bytes: 1_001, max_memory_bytes: 1_000 } },
  ]);
});

test('a watch that was ended says nothing more', () => {
  const { pass, faults, end } = watch({ silenceLimitMs: 600 });
  end();
  for (let beat = 0; beat < 60; beat += 1) pass(100);
  expect(faults).toEqual([]);
});
