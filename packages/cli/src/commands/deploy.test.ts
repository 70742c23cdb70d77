import { expect, test } from '@jest/globals';
import { rolloutSettings } from './deploy.js';

test('what was not given is left to the coordinator', () => {
  expect(rolloutSettings({}, 'm', '1.0.0')).toEqual({ modelId: 'm', version: '1.0.0', startImmediately: true });
});

test('every option has its place', () => {
  const options = {
    rollout: 1,
    target: 50,
    increment: 5,
    every: 60,
    group: ['a'],
    label: { land: 'ch' },
    device: ['d'],
    minDevices: 3,
    bake: 30,
    maxFailureRatio: 0.1,
    maxErrorRatio: 0.2,
    maxLatencyMs: 40,
    maxLatencyRatio: 1.5,
    maxMetricDrop: { metric: 'auc', drop: 0.01 },
    onBreach: 'pause',
    reason: 'why not',
    draft: true,
  };
  expect(rolloutSettings(options, 'm', '1.0.0')).toEqual({
    modelId: 'm',
    version: '1.0.0',
    startImmediately: false,
    rolloutPercentage: 1,
    targetPercentage: 50,
    incrementStep: 5,
    advanceEverySeconds: 60,
    reason: 'why not',
    selector: { labels: { land: 'ch' }, groups: ['a'], devices: ['d'] },
    health: {
      minDevices: 3,
      bakeSeconds: 30,
      maxActivationFailureRatio: 0.1,
      maxInferenceErrorRatio: 0.2,
      maxLatencyMs: 40,
      maxLatencyRatio: 1.5,
      maxMetricDrop: { metric: 'auc', drop: 0.01 },
      onBreach: 'pause',
    },
  });
});

test('a target below the first stage of its own is reached in one', () => {
  expect(rolloutSettings({ target: 5 }, 'm', '1.0.0')).toMatchObject({ rolloutPercentage: 5, targetPercentage: 5 });
  expect(rolloutSettings({ target: 20 }, 'm', '1.0.0').rolloutPercentage).toBeUndefined();
});
