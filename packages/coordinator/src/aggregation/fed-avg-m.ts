import { Type } from 'typebox';
import type { Strategy } from './strategy.js';

const Options = Type.Object(
  {
    /** η. */
    serverLearningRate: Type.Number({ exclusiveMinimum: 0, maximum: 1_000, default: 1 }),
    /** β. 0 is FedAvg. */
    momentum: Type.Number({ minimum: 0, exclusiveMaximum: 1, default: 0.9 }),
  },
  { additionalProperties: false },
);

/**
 * FedAvg with server momentum: v ← β·v + Δ_t, x_{t+1} = x_t + η·v. The first step is FedAvg's.
 * Hsu et al. 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
 * section 4.3, whose Δw has the opposite sign.
 */
export const fedAvgM: Strategy<typeof Options> = {
  name: 'fedavgm',
  options: Options,
  slots: () => [{ name: 'momentum', initial: 0 }],
  step: ({ base, delta, next, state: [velocity = new Float32Array()] }, { serverLearningRate, momentum }) => {
    for (let index = 0; index < base.length; index++) {
      const moved = momentum * (velocity[index] ?? 0) + (delta[index] ?? 0);
      velocity[index] = moved;
      next[index] = (base[index] ?? 0) + serverLearningRate * moved;
    }
  },
};
