import { OctomilError } from '@octomil/shared/errors';
import { CONTROL_VARIATE } from '@octomil/shared/tensors';
import { Type } from 'typebox';
import type { Strategy } from './strategy.js';

const Options = Type.Object(
  {
    /** η_g. */
    serverLearningRate: Type.Number({ exclusiveMinimum: 0, maximum: 1_000, default: 1 }),
  },
  { additionalProperties: false },
);

/**
 * SCAFFOLD: x ← x + η_g·mean(Δy_i) and c ← c + |S|÷N·mean(Δc_i), the means over the round's devices alike, as their
 * control variates are of equal weight. What the agents do is in `training/control-variates.ts` of the shared package.
 * Karimireddy et al. 2020, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", Algorithm 1, option II.
 *
 * c is the state of the strategy: the checkpoint is the model alone.
 */
export const scaffold: Strategy<typeof Options> = {
  name: 'scaffold',
  options: Options,
  weighting: 'equal',
  controlled: true,
  slots: () => [{ name: CONTROL_VARIATE, initial: 0 }],
  step: ({ base, delta, next, state: [server], control, addDelta }, { serverLearningRate }) => {
    if (server === undefined || control === undefined) throw new OctomilError('internal', 'scaffold without variates');
    const { stateShare, updateShare, change } = control;
    for (let index = 0; index < server.length; index++) {
      server[index] = stateShare * (server[index] ?? 0) + updateShare * (change[index] ?? 0);
    }
    if (serverLearningRate === 1) return addDelta();
    for (let index = 0; index < base.length; index++) {
      next[index] = (base[index] ?? 0) + serverLearningRate * (delta[index] ?? 0);
    }
  },
};
