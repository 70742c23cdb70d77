import { Type } from 'typebox';
import type { Strategy } from './strategy.js';

const Options = Type.Object(
  {
    /** μ of the proximal term (μ/2)·‖w − w_t‖² that agents add to their loss. 0 is FedAvg. */
    proximalMu: Type.Number({ minimum: 0, maximum: 1_000_000, default: 0.01 }),
  },
  { additionalProperties: false },
);

/**
 * FedProx: on the server the same as FedAvg; what differs is the proximal term in the agents' loss, whose μ travels with
 * the assignment. Li et al. 2020, "Federated Optimization in Heterogeneous Networks", Algorithm 2, with the mean weighted
 * by sample counts.
 */
export const fedProx: Strategy<typeof Options> = {
  name: 'fedprox',
  options: Options,
  slots: () => [],
  step: (range) => range.addDelta(),
};
