import { expect, test } from '@jest/globals';
import { trainingRequest } from './training-options.js';

test('what stays at the sites, and how they train, in the words of the wire; class names stay as they are', () => {
  const request = trainingRequest('f', {
    model: 'm',
    personalization: { method: 'fedper', headLayers: ['headLayer'] },
    local: { maxSteps: 5, earlyStop: { patience: 2, minDelta: 0.1 }, classWeights: { notIll: 2 } },
  });
  expect(request).toEqual({
    federation: 'f',
    model: 'm',
    personalization: { method: 'fedper', head_layers: ['headLayer'] },
    local: { max_steps: 5, early_stop: { patience: 2, min_delta: 0.1 }, class_weights: { notIll: 2 } },
  });
  expect(trainingRequest('f', { model: 'm', personalization: 'fedbn' })).toMatchObject({ personalization: 'fedbn' });
  const ditto = { method: 'ditto', lambda: 1, learningRate: 0.1 } as const;
  expect(trainingRequest('f', { model: 'm', personalization: ditto })).toMatchObject({
    personalization: { method: 'ditto', lambda: 1, learning_rate: 0.1 },
  });
});
