import { expect, test } from '@jest/globals';
import { parseArchitecture } from '@octomil/shared/models';
import { checkPersonalization, parsePersonalization } from './personalization.js';

test('a name alone, or an object with settings', () => {
  expect(parsePersonalization('fedbn')).toEqual({ method: 'fedbn' });
  expect(parsePersonalization('ditto')).toEqual({ method: 'ditto', lambda: 0.1 });
  expect(parsePersonalization({ method: 'ditto', lambda: 2, epochs: 3 })).toEqual({
    method: 'ditto',
    lambda: 2,
    epochs: 3,
  });
});

test.each<[unknown, RegExp]>([
  ['fedrep', /"fedrep": its method must be one of fedbn, fedper, ditto/],
  [{}, /method must be one of/],
  [null, /method must be one of/],
  ['fedper', /fedper needs head_layers/],
  [{ method: 'fedper', headLayers: [] }, /fedper needs head_layers/],
  [{ method: 'fedbn', lambda: 1 }, /fedbn has no settings/],
  [{ method: 'ditto', lambda: -1 }, /ditto has lambda \(0 or more\)/],
])('%j is refused', (given, message) => {
  expect(() => parsePersonalization(given)).toThrow(message);
});

test('layers are checked against the architecture, which is listed', () => {
  const mlp = parseArchitecture({ name: 'mlp', hidden: [8, 4] });
  const head = (...headLayers: string[]) => checkPersonalization({ method: 'fedper', headLayers }, mlp);
  expect(() => head('dense_2', 'output')).not.toThrow();
  expect(() => head('dense_3')).toThrow(
    /head_layers names dense_3, .*layers with weights are dense_1, dense_2, output/,
  );
  expect(() => head('dense_1', 'dense_2', 'output')).toThrow(/nothing would be learned together/);
  expect(() => checkPersonalization({ method: 'fedbn' }, mlp)).toThrow(/the model has none/);
  const cnn = parseArchitecture({ name: 'cnn', inputShape: [8, 8, 1], filters: [4], hidden: 8 });
  expect(() => checkPersonalization({ method: 'fedper', headLayers: ['flatten'] }, cnn)).toThrow(
    /flatten, which has no weights; the model's layers with weights are conv_1, dense_1, output/,
  );
});
