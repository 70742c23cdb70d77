import { expect, test } from '@jest/globals';
import { parseObserved } from './observed.js';

const one = {
  modelId: 'm',
  state: 'active',
  versionId: 'v',
  rolloutId: 3n,
  activeVersionId: 'v',
  previousVersionId: '',
};
const health = { inferences: 5, inferenceErrors: 1, latencyMs: { mean: 2, p95: 4 }, evaluation: null, baseline: null };

test('what an agent says is read, and only what is known is kept', () => {
  const [read] = parseObserved([
    { ...one, problem: { code: 'x'.repeat(100), message: 'm' }, health: { ...health, rows: ['patient'] } },
  ]);
  expect(read).toEqual({
    modelId: 'm',
    versionId: 'v',
    rolloutId: 3,
    state: 'active',
    activeVersionId: 'v',
    previousVersionId: null,
    problem: { code: 'x'.repeat(64), message: 'm' },
    health,
  });
  expect(parseObserved([{ modelId: 'm', state: 'removed', rolloutId: 0n }])[0]).toMatchObject({
    rolloutId: null,
    health: null,
  });
});

test('an evaluation on fewer than ten rows is dropped, whatever an agent says', () => {
  const evaluation = { count: 9, loss: 0.1, accuracy: 1, auc: 1 };
  const [few] = parseObserved([{ ...one, health: { ...health, evaluation, baseline: { ...evaluation, count: 10 } } }]);
  expect(few?.health).toMatchObject({ evaluation: null, baseline: { count: 10 } });
});

test('texts that the database cannot hold do not reach it: they would fail the rows of other devices too', () => {
  const message = `a\0b${'x'.repeat(1996)}\u{1F600}`;
  const [read] = parseObserved([{ ...one, problem: { code: 'c\0\ud800', message } }]);
  expect(read?.problem).toEqual({ code: 'c\ufffd', message: `ab${'x'.repeat(1996)}\ufffd` });
});

test.each([
  [[{ ...one, modelId: '' }], 'models[0].model_id'],
  [[one, { ...one, state: 'exploded' }], 'models[1].state'],
  [[{ ...one, versionId: 'v'.repeat(65) }], 'models[0].version_id'],
  [[{ ...one, versionId: 'v\0' }], 'models[0].version_id'],
  [[{ ...one, modelId: 'm\ud800' }], 'models[0].model_id'],
  [[{ ...one, rolloutId: -1 }], 'models[0].rollout_id'],
  [[{ ...one, rolloutId: 2n ** 60n }], 'models[0].rollout_id'],
  [[one, one], 'models[1].model_id'],
  [[{ ...one, health: 7 }], 'models[0].health'],
  [[{ ...one, health: { inferences: 1, inferenceErrors: 2 } }], 'models[0].health.inferenceErrors'],
  [[{ ...one, health: { inferences: 1.5 } }], 'models[0].health.inferences'],
  [[{ ...one, health: { ...health, latencyMs: { mean: -1, p95: 1 } } }], 'models[0].health.latencyMs.mean'],
  [[{ ...one, health: { ...health, evaluation: { count: 20, loss: 'low' } } }], 'models[0].health.evaluation.loss'],
  [
    [{ ...one, health: { ...health, evaluation: { count: 20, loss: 1, auc: 1.1 } } }],
    'models[0].health.evaluation.auc',
  ],
  [Array.from({ length: 1001 }, (_, n) => ({ ...one, modelId: `m${n}` })), 'an observed state of 1001 models'],
])('refuses %#: %j', (entries, named) => {
  expect(() => parseObserved(entries)).toThrow(`[invalid_input] ${named}`);
});

test('counts and losses beyond any use are kept at a bound, errors with their share', () => {
  const rows = { count: 2 ** 53 - 1, loss: -1e300, accuracy: 0.5, auc: null };
  const huge = { inferences: 2 ** 53 - 1, inferenceErrors: 2 ** 52, latencyMs: null, evaluation: rows, baseline: null };
  const [model] = parseObserved([{ ...one, health: huge }]);
  expect(model?.health).toMatchObject({ inferences: 1e9, inferenceErrors: 5e8 });
  expect(model?.health?.evaluation).toEqual({ count: 1e9, loss: -1e12, accuracy: 0.5, auc: null });
  const [exact] = parseObserved([{ ...one, health: { ...huge, inferences: 1e9, inferenceErrors: 1 } }]);
  expect(exact?.health).toMatchObject({ inferences: 1e9, inferenceErrors: 1 });
});
