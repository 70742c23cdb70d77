import { expect, test } from '@jest/globals';
import { evaluationOf, trainingMetrics } from './round-metrics.js';

test('figures about fewer than ten rows are not passed on, whatever an agent says', () => {
  const figures = (count: number) => ({ count, loss: 0.5, accuracy: 0.8, auc: null });
  const evaluation = evaluationOf([
    { name: 'careful', metrics: figures(10) },
    { name: 'careless', metrics: figures(9) },
  ]);
  expect(evaluation.sites).toEqual({ careful: figures(10), careless: null });
  expect(evaluation.overall).toEqual(figures(10));
});

test('personal models are reported beside the base, under the same limit', () => {
  const figures = (count: number, loss: number) => ({ count, loss, accuracy: 0.8, auc: null });
  const personalization = {
    method: 'ditto',
    stayed: [],
    startedFrom: 'base',
    reason: 'what was kept is damaged or lost',
  };
  const metrics = trainingMetrics([
    {
      name: 'a',
      sampleCount: 40,
      metrics: { evaluation: figures(10, 0.7), personal: figures(10, 0.3), personalization },
    },
    { name: 'b', sampleCount: 40, metrics: { evaluation: null, personal: figures(9, 0.1), bestEpoch: 2 } },
  ]);
  expect(metrics.personal).toEqual({ overall: figures(10, 0.3), sites: { a: figures(10, 0.3), b: null } });
  expect(metrics.training).toMatchObject({
    a: { personal_started_from: 'base', personal_reason: 'what was kept is damaged or lost' },
    b: { best_epoch: 2 },
  });
  expect(trainingMetrics([{ name: 'a', sampleCount: 40, metrics: {} }])).not.toHaveProperty('personal');
});
