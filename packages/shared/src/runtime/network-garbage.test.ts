import { constants, PerformanceObserver } from 'node:perf_hooks';
import { expect, test } from '@jest/globals';
import { noteNetworkGarbage } from './network-garbage.js';

const MIB = 1024 * 1024;

test('the young generation is collected once per 4 MiB, and nobody else sees the collector', async () => {
  const kinds: number[] = [];
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) kinds.push((entry as { detail?: { kind?: number } }).detail?.kind ?? 0);
  });
  observer.observe({ entryTypes: ['gc'] });
  noteNetworkGarbage(4 * MIB - 65_536);
  await new Promise((resolve) => setTimeout(resolve, 20));
  const before = kinds.filter((kind) => kind === constants.NODE_PERFORMANCE_GC_MINOR).length;
  noteNetworkGarbage(1);
  noteNetworkGarbage(4 * MIB);
  await new Promise((resolve) => setTimeout(resolve, 20));
  observer.disconnect();
  expect(kinds.filter((kind) => kind === constants.NODE_PERFORMANCE_GC_MINOR).length).toBeGreaterThanOrEqual(
    before + 2,
  );
  expect((globalThis as { gc?: unknown }).gc).toBeUndefined();
});
