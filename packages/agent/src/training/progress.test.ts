import { expect, test } from '@jest/globals';
import { systemClock } from '@octomil/shared/runtime';
import { ProgressThrottle, trainStep } from './progress.js';

const progress = (rows?: number) => ({
  step: 3,
  totalSteps: 20,
  epoch: 1,
  loss: 0.5,
  ...(rows === undefined ? {} : { rows }),
});

test('a loss leaves only when it is one of at least ten rows', () => {
  expect(trainStep(progress(10))).toMatchObject({ completed: 3, total: 20, loss: 0.5 });
  // The last batch of an epoch may hold a single row.
  expect(trainStep(progress(9))).not.toHaveProperty('loss');
  expect(trainStep(progress())).not.toHaveProperty('loss');
  expect(trainStep({ ...progress(32), loss: Number.NaN })).not.toHaveProperty('loss');
});

test('one report a second, the first after a second', () => {
  let nowMs = 0;
  const sent: number[] = [];
  const throttle = new ProgressThrottle({ ...systemClock, now: () => nowMs }, ({ completed }) => sent.push(completed));
  for (nowMs = 0; nowMs <= 3_000; nowMs += 100) throttle.report({ phase: 'train', completed: nowMs, total: 3_000 });
  expect(sent).toEqual([1_000, 2_000, 3_000]);
});
