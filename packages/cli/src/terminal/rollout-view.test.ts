import { expect, test } from '@jest/globals';
import type { Rollout } from '@octomil/sdk';
import { drawRollout, foldRollout, isSettled, type RolloutView, rolloutLine } from './rollout-view.js';

function rollout(fields: Partial<Rollout>): Rollout {
  const devices = { inStage: 3, active: 1, pending: 1, failed: 1 };
  const base = { id: 7, version: '2.0.0', previousVersion: '1.0.0', status: 'active', stage: 1, rolloutPercentage: 10 };
  const rest = { targetPercentage: 100, health: {}, reason: null, devices };
  return { ...base, ...rest, ...fields } as unknown as Rollout;
}

test('a stage is one row, as it was last; a raised share begins another', async () => {
  const looks = [
    rollout({}),
    rollout({ devices: { inStage: 3, active: 3, pending: 0, failed: 0 } }),
    rollout({ stage: 2, rolloutPercentage: 50, gate: { verdict: 'wait', gate: null, reason: 'it bakes' } }),
    rollout({ stage: 2, rolloutPercentage: 60, status: 'rolling_back', reason: 'too many failed' }),
  ];
  const view = looks.reduce(foldRollout, [] as RolloutView);
  expect(view.map(({ rolloutPercentage }) => rolloutPercentage)).toEqual([10, 50, 60]);
  const drawn = await drawRollout(view);
  expect(drawn).toMatch(/^Rollout 7: 2\.0\.0 \(before: 1\.0\.0\), up to 100 %\n/);
  expect(drawn).toMatch(/ 1 +10 % +3 +0 +0 +active +–/);
  expect(drawn).toMatch(/ 2 +50 % +1 +1 +1 +active +it bakes/);
  expect(drawn).toMatch(/ 2 +60 % +1 +1 +1 +rolling_back +too many failed/);
  expect(await drawRollout([])).toBe('');
});

test('a line for logs', () => {
  expect(rolloutLine(rollout({}))).toBe('stage 1  10 %  active  active 1  failed 1  pending 1 of 3');
  const { devices: _, ...without } = rollout({ status: 'failed', reason: 'its file is gone' });
  expect(rolloutLine(without as Rollout)).toBe('stage 1  10 %  failed  its file is gone');
});

test.each([
  [{ status: 'rolled_back' }, true],
  [{ status: 'failed' }, true],
  [{ status: 'active', devices: { inStage: 0, active: 0, pending: 0, failed: 0 } }, false],
  [{ status: 'completed' }, false],
  [{ status: 'completed', devices: { inStage: 3, active: 2, pending: 0, failed: 1 } }, true],
  [
    {
      status: 'completed',
      devices: { inStage: 1, active: 0, pending: 0, failed: 1 },
      gate: { verdict: 'breach', gate: 'x', reason: 'y' },
    },
    false,
  ],
  [
    {
      status: 'completed',
      devices: { inStage: 1, active: 0, pending: 0, failed: 1 },
      gate: { verdict: 'breach', gate: 'x', reason: 'y' },
      health: { onBreach: 'pause' },
    },
    true,
  ],
] as [Partial<Rollout>, boolean][])('%j is settled: %s', (fields, settled) => {
  expect(isSettled(rollout(fields))).toBe(settled);
});
