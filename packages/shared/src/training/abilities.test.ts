import { expect, test } from '@jest/globals';
import type { FeatureColumn, FeatureSpec } from '@octomil/shared/features';
import { ABILITIES, neededAbilities } from './abilities.js';
import { DEFAULT_LOCAL_OPTIONS } from './local-options.js';

const number = {
  kind: 'numeric',
  name: 'a',
  mean: 0,
  deviation: 1,
  missingMarkers: [],
  missingIndicator: false,
} as const;
const specOf = (...columns: object[]) =>
  ({ columns: columns as FeatureColumn[], target: {} }) as unknown as FeatureSpec;

test('what agents always knew asks for nothing more', () => {
  const featureSpec = specOf(number, { ...number, kind: 'boolean' }, { kind: 'categorical', levels: ['x'] });
  expect(neededAbilities({ featureSpec, options: DEFAULT_LOCAL_OPTIONS })).toEqual([]);
});

test.each([
  [{ personalization: { method: 'fedbn' } as const }, ['personalization']],
  [{ hints: { sex: { exclude: true } } }, ['hints']],
  [{ featureSpec: specOf(number, { ...number, unit: 'mg/dl' }) }, ['column_details']],
  [
    { featureSpec: { ...specOf(number), target: { reference: { missingRatio: 0 } } } as unknown as FeatureSpec },
    ['target_reference'],
  ],
  [
    { featureSpec: specOf({ kind: 'hashed' }, { kind: 'ordinal' }, { kind: 'datetime' }) },
    ['ordinal', 'datetime', 'hashed'],
  ],
  [
    { options: { ...DEFAULT_LOCAL_OPTIONS, classWeights: 'balanced' as const, maxSteps: 3 } },
    ['class_weights', 'max_steps'],
  ],
  [{ options: { ...DEFAULT_LOCAL_OPTIONS, earlyStop: { patience: 1, minDelta: 0 } } }, ['early_stop']],
])('%j needs %j, which agents say they have', (parts, abilities) => {
  expect(neededAbilities(parts)).toEqual(abilities);
  expect(ABILITIES).toEqual(expect.arrayContaining(abilities));
});
