import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { areaUnderRoc, metricsOf } from './metrics.js';

const rows = fc.array(fc.tuple(fc.integer({ min: -3, max: 3 }), fc.boolean()), { maxLength: 40 });

test('AUC is the share of pairs in the right order, ties counting half', () => {
  fc.assert(
    fc.property(rows, (pairs) => {
      const scores = Float32Array.from(pairs, ([score]) => score);
      const y = Float32Array.from(pairs, ([, positive]) => (positive ? 1 : 0));
      let right = 0;
      let total = 0;
      for (const [score, positive] of pairs) {
        for (const [other, otherPositive] of pairs) {
          if (!positive || otherPositive) continue;
          total += 1;
          right += score > other ? 1 : score === other ? 0.5 : 0;
        }
      }
      const auc = areaUnderRoc(scores, y);
      if (total === 0) expect(auc).toBeNull();
      else expect(auc).toBeCloseTo(right / total, 12);
    }),
  );
});

test('binary metrics of known logits', () => {
  const metrics = metricsOf({ kind: 'binary' }, Float32Array.of(0, 2, -1, 1000), Float32Array.of(0, 1, 1, 1));
  const loss = (Math.log(2) + Math.log(1 + Math.exp(-2)) + Math.log(1 + Math.exp(1)) + 0) / 4;
  expect(metrics.loss).toBeCloseTo(loss, 12);
  expect(metrics).toMatchObject({ count: 4, accuracy: 0.75, auc: 2 / 3 });
});

test('a sure and wrong answer costs its logit, not infinity', () => {
  expect(metricsOf({ kind: 'binary' }, Float32Array.of(1000), Float32Array.of(0))).toMatchObject({
    loss: 1000,
    auc: null,
  });
});

test('multiclass metrics of known logits', () => {
  const logits = Float32Array.of(1, 2, 3, 1000, 0, 0);
  const metrics = metricsOf({ kind: 'multiclass', classes: 3 }, logits, Float32Array.of(1, 0));
  const loss = (Math.log(Math.exp(1) + Math.exp(2) + Math.exp(3)) - 2) / 2;
  expect(metrics.loss).toBeCloseTo(loss, 12);
  expect(metrics).toMatchObject({ count: 2, accuracy: 0.5, auc: null });
});

test('regression has a squared error and nothing else', () => {
  const metrics = metricsOf({ kind: 'regression' }, Float32Array.of(1, 3), Float32Array.of(0, 1));
  expect(metrics).toEqual({ count: 2, loss: 2.5, accuracy: null, auc: null });
});

test.each([
  [{ kind: 'binary' } as const, [0, Number.NaN], Number.NaN],
  [{ kind: 'multiclass', classes: 2 } as const, [0, 1, Number.POSITIVE_INFINITY, 1], Number.POSITIVE_INFINITY],
  [{ kind: 'regression' } as const, [1, Number.NEGATIVE_INFINITY], Number.NEGATIVE_INFINITY],
])(
  '%j: weights that overflow are an error, neither a figure nor an endless search for the next rank',
  (output, logits, named) => {
    expect(() => metricsOf(output, Float32Array.from(logits), Float32Array.of(0, 1))).toThrow(
      `[training_failed] the model answers ${named}`,
    );
  },
);
