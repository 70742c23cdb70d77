import { expect, test } from '@jest/globals';
import { systemClock } from '@octomil/shared/runtime';
import { ProgressThrottle, trainStep } from './progress.js';

const progress = (step: number) => ({ step, totalSteps: 20, epoch: 1, loss: 0.5 });

test('a loss leaves only when it is one of at least ten rows', () => {
  expect(trainStep(progress(3), 32, 2)).toMatchObject({ completed: 3, total: 20, loss: 0.5 });
  expect(trainStep(progress(3), 9, 2)).not.toHaveProperty('loss');
  // The last batch of an epoch may hold a single row.
  expect(trainStep(progress(10), 32, 2)).not.toHaveProperty('loss');
  expect(trainStep({ ...progress(3), loss: Number.NaN }, 32, 2)).not.toHaveProperty('loss');
});

test('one report a second, the first after a second', () => {
  let nowMs = 0;
  const sent: number[] = [];
  const throttle = new ProgressThrottle({ ...systemClock, now: () => nowMs }, ({ completed }) => sent.push(completed));
  for (nowMs = 0; nowMs <= 3_000; nowMs += 100) throttle.report({ phase: 'train', completed: nowMs, total: 3_000 });
  expect(sent).toEqual([1_000, 2_000, 3_000]);
});
