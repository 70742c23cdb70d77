import { expect, test } from '@jest/globals';
import { STRATEGY_NAMES, strategyByName } from './strategies.js';

test('defaults are filled in, and names are read in any case', () => {
  expect(strategyByName('FedAdam', { tau: 0.01 }).options).toEqual({
    serverLearningRate: 0.1,
    beta1: 0.9,
    beta2: 0.99,
    tau: 0.01,
  });
  expect(strategyByName('fedavg').slots).toEqual([]);
  for (const name of STRATEGY_NAMES) {
    const slots = strategyByName(name).slots.map((slot) => slot.name);
    expect(slots).toEqual([...slots].sort());
  }
});

test.each(['fedsgd', '', '__proto__', 'constructor'])(
  'the unknown strategy "%s" is refused with the known names',
  (name) => {
    expect(() => strategyByName(name)).toThrow(
      /invalid_input.*known are fedavg, fedprox, fedavgm, fedadam, fedyogi, fedadagrad/,
    );
  },
);

test.each([
  ['fedavgm', { momentum: 1 }, /"momentum" is 1/],
  ['fedadam', { tau: 0 }, /"tau" is 0/],
  ['fedadam', { serverLearningRate: 'fast' }, /"serverLearningRate" is "fast"/],
  ['fedavg', { momentum: 0.5 }, /the strategy fedavg has no option momentum \(options: none\)/],
  ['fedadam', { serverLr: 1 }, /no option serverLr \(options: serverLearningRate, beta1, beta2, tau\)/],
  ['fedyogi', 7, /options of the strategy fedyogi are wrong/],
])('%s refuses the options %j', (name, options, message) => {
  expect(() => strategyByName(name, options)).toThrow(message);
});
