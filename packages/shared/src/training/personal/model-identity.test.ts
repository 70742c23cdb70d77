import { expect, test } from '@jest/globals';
import type { FeatureColumn, FeatureSpec } from '@octomil/shared/features';
import type { Architecture } from '@octomil/shared/models';
import { modelSha256 } from './train-personal.js';

const architecture: Architecture = { name: 'logistic', output: { kind: 'binary' } };
const target = { rule: { column: 'y' }, classes: ['0', '1'] };
const of = (column: object): string =>
  modelSha256(architecture, { layout: 'table', columns: [column as FeatureColumn], target } as unknown as FeatureSpec);

test('data that grow change constants, and a personal part stays the same model’s', () => {
  const plain = { name: 'a', missingMarkers: [], missingIndicator: false };
  const number = { kind: 'numeric', ...plain, mean: 1, deviation: 2 };
  expect(of({ ...number, mean: 3, deviation: 4, range: [0, 9], reference: { missingRatio: 0.1 } })).toBe(of(number));
  expect(of({ ...number, missingIndicator: true })).not.toBe(of(number));
  const date = (mean: number, ...more: object[]) => ({
    ...{ kind: 'datetime', ...plain, format: 'iso', from: '2020-01-01' },
    parts: [{ part: 'years', mean, deviation: 2 }, { part: 'month' }, ...more],
  });
  expect(of(date(5))).toBe(of(date(4)));
  expect(of(date(5, { part: 'hour' }))).not.toBe(of(date(5)));
});
