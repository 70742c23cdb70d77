import { expect, test } from '@jest/globals';
import { inDeviceOrder } from './device-order.js';
import { evaluationOf } from './round-metrics.js';
import type { AcceptedAnswer } from './round-store.js';

const answer = (deviceName: string, deviceId: string, loss: number): AcceptedAnswer => ({
  ...{ deviceName, deviceId, objectKey: null, sha256: '', format: 'delta', weight: 100, sampleCount: 100 },
  metrics: { report: { count: 100, loss, accuracy: 0.5, auc: 0.5 } },
});

test('names come in the order of their code units, the same whatever the order of answers', () => {
  const answers = [answer('b', '2', 1), answer('a', '3', 1), answer('B', '1', 1)];
  const names = (some: readonly AcceptedAnswer[]) => inDeviceOrder(some).map(({ deviceName }) => deviceName);
  expect(names(answers)).toEqual(['B', 'a', 'b']);
  expect(names([...answers].reverse())).toEqual(['B', 'a', 'b']);
});

test('of two devices with one name, of two organizations, neither takes the place of the other', () => {
  const ordered = inDeviceOrder([answer('site', '2', 3), answer('other', '3', 5), answer('site', '1', 1)]);
  const { sites } = evaluationOf(
    ordered.map(({ deviceName, metrics }) => ({ name: deviceName, metrics: metrics['report'] as never })),
  ) as { sites: Record<string, { loss: number }> };
  expect(Object.entries(sites).map(([name, { loss }]) => [name, loss])).toEqual([
    ['other', 5],
    ['site (1)', 1],
    ['site (2)', 3],
  ]);
});
