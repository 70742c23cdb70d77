import { expect, test } from '@jest/globals';
import {
  type ColumnStatistics,
  type FeatureHints,
  type FeatureSpec,
  mergeStatistics,
  parseTargetRule,
  type SiteEntry,
} from '@octomil/shared/features';
import { confirmedSpec } from './confirm-spec.js';

const target = parseTargetRule('num>0');

const nothing = { count: 100, missing: 0, zeros: 0, moments: null, levels: null, categories: [], other: 0 };
const stage: ColumnStatistics = {
  ...{ ...nothing, name: 'stage', seen: 'text', levels: 4, other: 10 },
  categories: [
    { value: 'i', count: 20 },
    { value: 'ii', count: 40 },
    { value: 'iii', count: 30 },
  ],
};
const chol: ColumnStatistics = {
  ...{ ...nothing, name: 'chol', seen: 'numeric', unit: 'mg/dL', moments: { count: 100, mean: 200, deviation: 40 } },
};
const classes = [
  { value: '0', count: 50 },
  { value: '1', count: 50 },
];
const SITES: readonly SiteEntry[] = [
  {
    ...{ deviceId: 'a', name: 'a' },
    statistics: {
      ...{ formatVersion: 1, rows: 100, columns: [chol, stage], excluded: [] },
      target: { column: 'num', seen: 'integer', count: 100, missing: 0, classes, other: 0, moments: null },
    },
  },
];
const PROPOSED = mergeStatistics(SITES, { target });

function confirmed(name: string, change: object): FeatureSpec {
  const columns = PROPOSED.columns.map((column) => (column.name === name ? { ...column, ...change } : column));
  return confirmedSpec({ ...PROPOSED, columns }, PROPOSED, SITES, (wanted, hints) =>
    mergeStatistics(SITES, { target, hints: { [wanted]: hints } as FeatureHints }).columns.find(
      (column) => column.name === wanted,
    ),
  );
}

const referenceOf = (spec: FeatureSpec) => spec.columns.find(({ name }) => name === 'stage')?.reference;

test('levels may be dropped, added and put in another order, and drift is measured against their own shares', () => {
  expect(referenceOf(PROPOSED)).toEqual({ missingRatio: 0, levelRatios: [0.2, 0.4, 0.3, 0.1] });
  expect(referenceOf(confirmed('stage', { levels: ['iii', 'i'] }))?.levelRatios).toEqual([0.3, 0.2, 0.5]);
  expect(referenceOf(confirmed('stage', { levels: ['i', 'ii', 'iii', 'iv'] }))?.levelRatios).toEqual([
    ...[0.2, 0.4, 0.3, 0, 0.1],
  ]);
  // As of a kind that is another, with what belonged to the old one left in.
  const ordinal = confirmed('stage', { kind: 'ordinal', levels: ['iii', 'ii', 'i'] });
  expect(referenceOf(ordinal)?.levelRatios).toEqual([0.3, 0.4, 0.2, 0.1]);
});

test('another unit or scale with the old constants is refused, as every value would be encoded wrongly', () => {
  expect(() => confirmed('chol', { unit: 'mmol/L' })).toThrow(/"chol" changes its unit to mmol\/L, but keeps the mean/);
  expect(() => confirmed('chol', { scale: 'log1p' })).toThrow(/"chol" changes its scale/);
  expect(confirmed('chol', { unit: 'mg / dl' }).columns[0]).toMatchObject({ unit: 'mg / dl' });
  const changed = { unit: 'mmol/L', mean: 5.2, deviation: 1, units: { 'mg/dL': { factor: 0.0259, offset: 0 } } };
  expect(confirmed('chol', changed).columns[0]).toMatchObject(changed);
  expect(confirmed('chol', { scale: 'log1p', mean: 5.3, deviation: 0.2 }).columns[0]).toMatchObject({ mean: 5.3 });
});
