import { Type } from 'typebox';
import { adaptiveSlots, adaptiveStep, Beta1, ServerLearningRate, Tau } from './adaptive-step.js';
import type { Strategy } from './strategy.js';

const Options = Type.Object(
  // The paper's experiments use FedAdagrad without momentum (section 5).
  { serverLearningRate: ServerLearningRate, beta1: Beta1(0), tau: Tau },
  { additionalProperties: false },
);

/** FedAdagrad: v_t = v_{t-1} + Δ_t². Reddi et al. 2021, Algorithm 2, line 11. */
export const fedAdagrad: Strategy<typeof Options> = {
  name: 'fedadagrad',
  options: Options,
  slots: ({ tau }) => adaptiveSlots(tau),
  step: (range, options) => adaptiveStep(range, options, (previous, squared) => previous + squared),
};
