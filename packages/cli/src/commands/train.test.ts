import { expect, test } from '@jest/globals';
import { trainingOptions } from './train.js';

const given = (options: Record<string, unknown>) => trainingOptions({ model: 'm', ...options });

test('what stays at the sites', () => {
  expect(given({ personalization: 'fedbn' })).toMatchObject({ personalization: 'fedbn' });
  const fedper = { personalization: { method: 'fedper', headLayers: ['dense_2', 'output'] } };
  expect(given({ personalization: 'fedper', headLayers: 'dense_2, output' })).toMatchObject(fedper);
  expect(given({ headLayers: 'dense_2,output' })).toMatchObject(fedper);
  expect(given({ personalization: '{"method":"ditto","lambda":2}' })).toMatchObject({
    personalization: { method: 'ditto', lambda: 2 },
  });
  expect(() => given({ personalization: 'ditto', headLayers: 'output' })).toThrow(
    /belongs to --personalization fedper/,
  );
  expect(() => given({ personalization: '{' })).toThrow(/--personalization { is neither a name nor JSON/);
  expect(given({})).not.toHaveProperty('personalization');
});

test('how sites train', () => {
  expect(given({ maxSteps: 9, classWeights: 'balanced', earlyStop: 3 }).local).toEqual({
    maxSteps: 9,
    classWeights: 'balanced',
    earlyStop: { patience: 3 },
  });
  expect(given({ classWeights: '{"yes": 3}' }).local).toEqual({ classWeights: { yes: 3 } });
});
