import { Type } from 'typebox';
import { adaptiveSlots, adaptiveStep, Beta1, Beta2, ServerLearningRate, Tau } from './adaptive-step.js';
import type { Strategy } from './strategy.js';

const Options = Type.Object(
  { serverLearningRate: ServerLearningRate, beta1: Beta1(0.9), beta2: Beta2, tau: Tau },
  { additionalProperties: false },
);

/** FedAdam: v_t = β2·v_{t-1} + (1 − β2)·Δ_t². Reddi et al. 2021, Algorithm 2, line 13; no bias correction, as there. */
export const fedAdam: Strategy<typeof Options> = {
  name: 'fedadam',
  options: Options,
  slots: ({ tau }) => adaptiveSlots(tau),
  step: (range, options) => {
    const { beta2 } = options;
    adaptiveStep(range, options, (previous, squared) => beta2 * previous + (1 - beta2) * squared);
  },
};
