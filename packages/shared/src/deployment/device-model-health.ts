import type { EvaluationMetrics } from '../training/index.js';

/**
 * What a device says of one version since its activation: figures only, never rows, prompts or answers. It travels as
 * JSON in the observed state, and health gates read nothing else.
 */
export interface DeviceModelHealth {
  /** Inferences served on the device, failed ones included. */
  readonly inferences: number;
  readonly inferenceErrors: number;
  /** Of those that succeeded; null before the first. */
  readonly latencyMs: { readonly mean: number; readonly p95: number } | null;
  /** The version on the device's own held-out rows; null without a data set or with fewer than ten rows. */
  readonly evaluation: EvaluationMetrics | null;
  /** The previous version on the same rows. */
  readonly baseline: EvaluationMetrics | null;
}
