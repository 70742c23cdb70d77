import { expect, test } from '@jest/globals';
import { parseSessionConfig } from './session-config.js';

const parse = (body: object) => parseSessionConfig({ model: 'heart', ...body }).config;

test('a session keeps its hints and the features that it is to use', () => {
  const hints = {
    chol: { unit: 'mg/dL', units: { 'mmol/L': 38.67 } },
    stage: { kind: 'ordinal', levels: ['i', 'ii'] },
  };
  expect(parse({ features: { hints } })).toMatchObject({ hints });
  expect(parse({ feature_spec: 'confirmed' })).toMatchObject({ featureSpec: 'confirmed' });
  for (const body of [{}, { feature_spec: 'auto' }, { feature_spec: null, features: null }, { features: {} }]) {
    expect(parse(body)).not.toHaveProperty('hints');
    expect(parse(body)).not.toHaveProperty('featureSpec');
  }
});

test.each([
  [{ chol: { kind: 'colour' } }, /"chol" has kind = "colour": it must be one of numeric, boolean, .*hashed/],
  [{ chol: { colour: 'red' } }, /"chol" has no field colour; it has kind, aliases/],
  [{ chol: { buckets: 1 } }, /"chol" has buckets = 1/],
  [{ chol: { levels: [] } }, /"chol" has levels = \[\]/],
  [{ chol: { units: { 'mmol/L': 'many' } } }, /"chol" has units = /],
])('a hint that means nothing is refused by column and field: %j', (hints, reason) => {
  expect(() => parse({ features: { hints } })).toThrow(
    expect.objectContaining({ code: 'invalid_input', reason: expect.stringMatching(reason) }),
  );
});

test('hints and a spec that is made already contradict each other, and unknown fields are told', () => {
  expect(() => parse({ features: { hints: {} }, feature_spec: 'confirmed' })).toThrow(/leave one of them out/);
  expect(() => parse({ features: { wishes: {} } })).toThrow(/features/);
  expect(() => parse({ feature_spec: 7 })).toThrow(/feature_spec = 7/);
});

test('a hint that reads the target as a feature is refused before any site is asked', () => {
  const features = { hints: { age: { aliases: ['NUM'] } } };
  expect(() => parse({ target: 'num > 0', features })).toThrow(/"age" names "num", which is the target/);
  expect(parse({ target: 'other', features })).toHaveProperty('hints');
});
