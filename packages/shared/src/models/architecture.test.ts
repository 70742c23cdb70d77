import { expect, test } from '@jest/globals';
import { parseArchitecture } from './architecture.js';

test('a bare name stands for its defaults', () => {
  expect(parseArchitecture('mlp')).toEqual({
    name: 'mlp',
    hidden: [64, 32],
    activation: 'relu',
    output: { kind: 'binary' },
  });
});

test.each<[unknown, RegExp]>([
  [null, /must be an object or a name, not null/],
  ['resnet', /"resnet" is not known; use one of logistic, mlp, cnn, layers/],
  [{ name: 'mlp', hidden: [0] }, /hidden\.0 = 0/],
  [{ name: 'mlp', hidden: [] }, /hidden = \[\]/],
  [{ name: 'mlp', activation: 'wow' }, /activation = "wow": use one of relu/],
  [{ name: 'mlp', depth: 3 }, /unknown field depth/],
  [{ name: 'logistic', output: { kind: 'multiclass', classes: 1 } }, /output must be/],
  [{ name: 'cnn' }, /inputShape is missing: .*\[28, 28, 1\]/],
  [{ name: 'layers' }, /topology/],
])('%j is refused with the field, the value and the choice', (given, message) => {
  expect(() => parseArchitecture(given)).toThrow(message);
});
