import { expect, test } from '@jest/globals';
import { evaluationOf } from './round-metrics.js';

test('figures about fewer than ten rows are not passed on, whatever an agent says', () => {
  const figures = (count: number) => ({ count, loss: 0.5, accuracy: 0.8, auc: null });
  const evaluation = evaluationOf([
    { name: 'careful', metrics: figures(10) },
    { name: 'careless', metrics: figures(9) },
  ]);
  expect(evaluation.sites).toEqual({ careful: figures(10), careless: null });
  expect(evaluation.overall).toEqual(figures(10));
});
