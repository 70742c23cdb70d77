import { expect, test } from '@jest/globals';
import { DEFAULT_LOCAL_OPTIONS, parseLocalOptions } from './local-options.js';

test('what is not given has its default', () => {
  expect(parseLocalOptions(undefined)).toEqual(DEFAULT_LOCAL_OPTIONS);
  expect(parseLocalOptions({ epochs: 3 })).toEqual({ ...DEFAULT_LOCAL_OPTIONS, epochs: 3 });
});

test.each<[unknown, RegExp]>([
  [[], /must be an object/],
  [{ epoch: 3 }, /local option epoch is not known; there are epochs, batchSize/],
  [{ epochs: 0 }, /local option epochs = 0: must be >= 1/],
  [{ learningRate: '0.1' }, /local option learningRate = "0.1"/],
  [{ optimizer: 'lion' }, /optimizer = "lion": use one of sgd/],
  [{ proximalMu: -1 }, /proximalMu = -1/],
])('%j is refused with the field, the value and the limit', (given, message) => {
  expect(() => parseLocalOptions(given)).toThrow(message);
});
