import { expect, test } from '@jest/globals';
import { decide, type Policy } from './policy.js';

const policy: Policy = {
  allow: [
    { name: 'heart', federations: ['heart'], models: ['risk', 'triage-*'], dataSets: ['patients'] },
    { name: 'benchmarks', federations: ['*'], models: ['echo'], dataSets: ['synthetic'] },
  ],
};

test.each([
  ['heart', 'risk', 'patients', 'heart'],
  ['heart', 'triage-2', 'patients', 'heart'],
  ['anyone', 'echo', 'synthetic', 'benchmarks'],
  ['heart', 'echo', undefined, 'benchmarks'],
])('%s may use %s on %s by rule %s', (federation, model, dataSet, rule) => {
  expect(decide(policy, { federation, model, dataSet })).toEqual({ allowed: true, rule });
});

test.each([
  ['lungs', 'risk', 'patients', 'model', ['benchmarks']],
  ['heart', 'other', 'patients', 'model', ['heart', 'benchmarks']],
  ['heart', 'risk', 'synthetic', 'data_set', ['heart']],
  ['heart', 'echo', 'patients', 'data_set', ['benchmarks']],
  ['heart', 'triageX', 'patients', 'model', ['heart', 'benchmarks']],
])('%s may not use %s on %s: no rule names the %s', (federation, model, dataSet, missing, rules) => {
  const decision = decide(policy, { federation, model, dataSet });
  expect(decision.allowed ? undefined : decision.problem.details).toMatchObject({ missing, rules, federation, model });
});

test('an empty policy allows nothing, and a pattern means itself apart from its stars', () => {
  const denied = decide({ allow: [] }, { federation: 'heart', model: 'risk', dataSet: undefined });
  expect(denied.allowed ? '' : denied.problem.message).toContain('has no rule');
  const dotted: Policy = { allow: [{ name: 'r', federations: ['a.c*'], models: ['*'], dataSets: ['*'] }] };
  expect(decide(dotted, { federation: 'abc', model: 'm', dataSet: 'd' }).allowed).toBe(false);
  expect(decide(dotted, { federation: 'a.cd', model: 'm', dataSet: 'd' }).allowed).toBe(true);
});
