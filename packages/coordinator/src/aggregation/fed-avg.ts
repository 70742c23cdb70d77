import { Type } from 'typebox';
import type { Strategy } from './strategy.js';

const Options = Type.Object({}, { additionalProperties: false });

/**
 * Federated averaging: x_{t+1} = x_t + Δ_t, with Δ_t the mean of the devices' changes weighted by their sample counts.
 * McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data", Algorithm 1.
 */
export const fedAvg: Strategy<typeof Options> = {
  name: 'fedavg',
  options: Options,
  slots: () => [],
  step: (range) => range.addDelta(),
};
