import { Type } from 'typebox';
import { adaptiveSlots, adaptiveStep, Beta1, Beta2, ServerLearningRate, Tau } from './adaptive-step.js';
import type { Strategy } from './strategy.js';

const Options = Type.Object(
  { serverLearningRate: ServerLearningRate, beta1: Beta1(0.9), beta2: Beta2, tau: Tau },
  { additionalProperties: false },
);

/** FedYogi: v_t = v_{t-1} − (1 − β2)·Δ_t²·sign(v_{t-1} − Δ_t²). Reddi et al. 2021, Algorithm 2, line 12. */
export const fedYogi: Strategy<typeof Options> = {
  name: 'fedyogi',
  options: Options,
  slots: ({ tau }) => adaptiveSlots(tau),
  step: (range, options) => {
    const { beta2 } = options;
    adaptiveStep(
      range,
      options,
      (previous, squared) => previous - (1 - beta2) * squared * Math.sign(previous - squared),
    );
  },
};
