import { expect, test } from '@jest/globals';
import { DEFAULT_LOCAL_OPTIONS, parseLocalOptions } from './local-options.js';

test('what is not given has its default', () => {
  expect(parseLocalOptions(undefined)).toEqual(DEFAULT_LOCAL_OPTIONS);
  expect(parseLocalOptions({ epochs: 3 })).toEqual({ ...DEFAULT_LOCAL_OPTIONS, epochs: 3 });
});

test('early stop needs a patience alone', () => {
  expect(parseLocalOptions({ earlyStop: { patience: 2 } }).earlyStop).toEqual({ patience: 2, minDelta: 0 });
});

test.each<[unknown, RegExp]>([
  [[], /must be an object/],
  [{ epoch: 3 }, /local option epoch is not known; there are epochs, batchSize/],
  [{ epochs: 0 }, /local option epochs = 0: must be >= 1/],
  [{ learningRate: '0.1' }, /local option learningRate = "0.1"/],
  [{ optimizer: 'lion' }, /optimizer = "lion": use one of sgd/],
  [{ proximalMu: -1 }, /proximalMu = -1/],
  [{ maxSteps: 0 }, /maxSteps = 0: must be >= 1/],
  [{ classWeights: 'equal' }, /classWeights = "equal": use "balanced", or a number/],
  [{ classWeights: { yes: -1 } }, /classWeights = {"yes":-1}: use/],
  [{ classWeights: {} }, /classWeights = {}: use/],
  [{ earlyStop: { patience: 0 } }, /earlyStop = {"minDelta":0,"patience":0}: use { patience, minDelta }/],
  [{ earlyStop: { patience: 2, mindelta: 0 } }, /earlyStop = .*: use { patience, minDelta }/],
])('%j is refused with the field, the value and the limit', (given, message) => {
  expect(() => parseLocalOptions(given)).toThrow(message);
});
