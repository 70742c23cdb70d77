import { Type } from 'typebox';
import type { StateSlot, StrategyRange } from './strategy.js';

/** η, the server's learning rate. Adaptive steps have about this size in every parameter, whatever the size of Δ. */
export const ServerLearningRate = Type.Number({ exclusiveMinimum: 0, maximum: 1_000, default: 0.1 });

/** β1, decay of the mean of Δ. */
export const Beta1 = (defaultValue: number) => Type.Number({ minimum: 0, exclusiveMaximum: 1, default: defaultValue });

/** β2, decay of the mean of Δ². */
export const Beta2 = Type.Number({ minimum: 0, exclusiveMaximum: 1, default: 0.99 });

/** τ, the degree of adaptivity: larger is closer to plain averaging. The second moment begins at τ². */
export const Tau = Type.Number({ minimum: 1e-9, maximum: 1_000, default: 1e-3 });

/** m_0 = 0 and v_0 = τ², the least that Algorithm 2 admits. */
export function adaptiveSlots(tau: number): readonly StateSlot[] {
  return [
    { name: 'momentum', initial: 0 },
    { name: 'secondMoment', initial: tau * tau },
  ];
}

/**
 * The frame of the three adaptive strategies: Reddi et al. 2021, "Adaptive Federated Optimization", Algorithm 2.
 *
 *   m_t = β1·m_{t-1} + (1 − β1)·Δ_t            (line 10)
 *   v_t = `secondMoment(v_{t-1}, Δ_t²)`         (lines 11 to 13)
 *   x_{t+1} = x_t + η·m_t / (√v_t + τ)          (line 14)
 */
export function adaptiveStep(
  { base, delta, next, state }: StrategyRange,
  options: { readonly serverLearningRate: number; readonly beta1: number; readonly tau: number },
  secondMoment: (previous: number, squared: number) => number,
): void {
  const { serverLearningRate, beta1, tau } = options;
  const [first = new Float32Array(), second = new Float32Array()] = state;
  for (let index = 0; index < base.length; index++) {
    const change = delta[index] ?? 0;
    const mean = beta1 * (first[index] ?? 0) + (1 - beta1) * change;
    const variance = secondMoment(second[index] ?? 0, change * change);
    first[index] = mean;
    second[index] = variance;
    next[index] = (base[index] ?? 0) + (serverLearningRate * mean) / (Math.sqrt(variance) + tau);
  }
}
