import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { canMove, capShares, closeDecision, retryDecision, targetDevices, topUpCount } from './round-machine.js';

const tally = { kind: 'train', minUpdates: 3, accepted: 0, working: 3, asked: 3, deadlinePassed: false } as const;

test.each([
  ['train', { accepted: 2 }, 'wait'],
  ['train', { accepted: 3 }, 'aggregate'],
  ['train', { accepted: 2, deadlinePassed: true }, 'insufficient'],
  ['train', { accepted: 3, deadlinePassed: true }, 'aggregate'],
  ['describe', { accepted: 3, working: 1 }, 'wait'],
  ['describe', { accepted: 3, working: 0 }, 'aggregate'],
  ['describe', { accepted: 3, working: 1, patienceOver: true }, 'aggregate'],
  ['describe', { accepted: 2, working: 1, patienceOver: true }, 'wait'],
  ['describe', { accepted: 3, working: 1, deadlinePassed: true }, 'aggregate'],
  ['describe', { accepted: 2, working: 0, deadlinePassed: true }, 'insufficient'],
  ['evaluate', { accepted: 0, working: 1 }, 'wait'],
  ['evaluate', { accepted: 0, working: 0 }, 'aggregate'],
  ['evaluate', { accepted: 0, working: 3, deadlinePassed: true }, 'aggregate'],
] as const)('%s with %j: %s', (kind, change, expected) => {
  expect(closeDecision({ ...tally, ...change, kind })).toBe(expected);
});

test('a finished round never moves again, and nothing is skipped on the way to its result', () => {
  for (const over of ['completed', 'insufficient_updates', 'failed', 'cancelled'] as const) {
    expect(canMove(over, 'collecting')).toBe(false);
  }
  expect(canMove('collecting', 'completed')).toBe(false);
  expect(canMove('aggregating', 'completed')).toBe(true);
});

test('devices to ask, retries and replacements', () => {
  expect(targetDevices(10, 1.1)).toBe(11);
  expect(targetDevices(3, 1)).toBe(3);
  expect(targetDevices(3, 1.3)).toBe(4);
  expect(retryDecision({ retries: 1 }, 2)).toBe('retry');
  expect(retryDecision({ retries: 2 }, 2)).toBe('pause');
  expect(topUpCount({ target: 4, accepted: 1, working: 2 })).toBe(1);
  expect(topUpCount({ target: 4, accepted: 4, working: 1 })).toBe(0);
});

test('no capped weight has more than its share of the sum, and no weight grows', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 1_000_000 }), { minLength: 1, maxLength: 20 }),
      fc.double({ min: 0.05, max: 1, noNaN: true }),
      (weights, share) => {
        const capped = capShares(weights, share);
        const total = capped.reduce((sum, weight) => sum + weight, 0);
        const attainable = Math.max(share, 1 / weights.length);
        capped.forEach((weight, place) => {
          expect(weight).toBeLessThanOrEqual(weights[place] ?? 0);
          expect(weight).toBeLessThanOrEqual(attainable * total * (1 + 1e-9));
        });
      },
    ),
  );
  expect(capShares([10, 10, 80], 0.5)).toEqual([10, 10, 20]);
  expect(capShares([1, 9], 1)).toEqual([1, 9]);
});
