import { OctomilError } from '@octomil/shared/errors';

export type GateMetric = 'accuracy' | 'auc' | 'loss';

/** When a rollout may go on, and when it must not. Ratios are 0 to 1; null leaves a gate out. */
export interface Gates {
  /** Devices that must run the version before the next stage. Default 1. */
  readonly minDevices: number;
  /** Time that a stage lasts at least. Default 0. */
  readonly bakeSeconds: number;
  /** Share of the devices of the rollout that could not activate the version. Default 0.2. */
  readonly maxActivationFailureRatio: number | null;
  /**
   * Failed inferences, over all devices that run the version. Here and below no device counts for more inferences or rows
   * than the one in the middle. Default 0.1.
   */
  readonly maxInferenceErrorRatio: number | null;
  /** Mean over the inferences that succeeded, in milliseconds. Default null. */
  readonly maxLatencyMs: number | null;
  /** The same mean, against that of devices on the previous version. Default null. */
  readonly maxLatencyRatio: number | null;
  /** How much worse than the previous version on the devices' own held-out rows. Default null. */
  readonly maxMetricDrop: { readonly metric: GateMetric; readonly drop: number } | null;
  /** Default `rollback`. */
  readonly onBreach: 'rollback' | 'pause';
}

export const DEFAULT_GATES: Gates = {
  minDevices: 1,
  bakeSeconds: 0,
  maxActivationFailureRatio: 0.2,
  maxInferenceErrorRatio: 0.1,
  maxLatencyMs: null,
  maxLatencyRatio: null,
  maxMetricDrop: null,
  onBreach: 'rollback',
};

const METRICS: readonly GateMetric[] = ['accuracy', 'auc', 'loss'];
const NAMES = [
  'min_devices',
  'bake_seconds',
  'max_activation_failure_ratio',
  'max_inference_error_ratio',
  'max_latency_ms',
  'max_latency_ratio',
  'max_metric_drop',
  'on_breach',
];
/** 31 days. */
const MAX_BAKE_SECONDS = 2_678_400;

/**
 * Reads the field `health` of a rollout; what is absent gets its default, null leaves the gate out.
 *
 * @throws OctomilError `invalid_input` naming the field, the value and its limits
 */
export function parseGates(value: unknown): Gates {
  if (value === undefined || value === null) return DEFAULT_GATES;
  const given = asObject(value, 'health');
  for (const name of Object.keys(given)) {
    if (!NAMES.includes(name)) {
      throw new OctomilError('invalid_input', `health.${name.slice(0, 60)} is no gate; there are ${NAMES.join(', ')}`);
    }
  }
  const optional = (name: string, fallback: number | null, min: number, max: number): number | null =>
    given[name] === undefined ? fallback : given[name] === null ? null : numberIn(given[name], name, min, max);
  const minDevices = optional('min_devices', DEFAULT_GATES.minDevices, 0, 1e9) ?? 0;
  if (!Number.isInteger(minDevices)) throw refused('min_devices', minDevices, 'a whole number');
  return {
    minDevices,
    bakeSeconds: optional('bake_seconds', DEFAULT_GATES.bakeSeconds, 0, MAX_BAKE_SECONDS) ?? 0,
    maxActivationFailureRatio: optional('max_activation_failure_ratio', DEFAULT_GATES.maxActivationFailureRatio, 0, 1),
    maxInferenceErrorRatio: optional('max_inference_error_ratio', DEFAULT_GATES.maxInferenceErrorRatio, 0, 1),
    maxLatencyMs: optional('max_latency_ms', null, 0, 1e9),
    maxLatencyRatio: optional('max_latency_ratio', null, 0, 1e6),
    maxMetricDrop: parseDrop(given['max_metric_drop']),
    onBreach: parseOnBreach(given['on_breach']),
  };
}

/** As REST shows them and rows keep them. */
export function gatesJson(gates: Gates): Record<string, unknown> {
  return {
    min_devices: gates.minDevices,
    bake_seconds: gates.bakeSeconds,
    max_activation_failure_ratio: gates.maxActivationFailureRatio,
    max_inference_error_ratio: gates.maxInferenceErrorRatio,
    max_latency_ms: gates.maxLatencyMs,
    max_latency_ratio: gates.maxLatencyRatio,
    max_metric_drop: gates.maxMetricDrop,
    on_breach: gates.onBreach,
  };
}

function parseDrop(value: unknown): Gates['maxMetricDrop'] {
  if (value === undefined || value === null) return null;
  const given = asObject(value, 'health.max_metric_drop');
  const { metric, drop } = given as { metric?: unknown; drop?: unknown };
  const known = METRICS.find((name) => name === metric);
  if (known === undefined) throw refused('max_metric_drop.metric', metric, METRICS.join(', '));
  return { metric: known, drop: numberIn(drop, 'max_metric_drop.drop', 0, 1e6) };
}

function parseOnBreach(value: unknown): Gates['onBreach'] {
  if (value === undefined || value === null) return DEFAULT_GATES.onBreach;
  if (value === 'rollback' || value === 'pause') return value;
  throw refused('on_breach', value, 'rollback or pause');
}

function asObject(value: unknown, name: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new OctomilError('invalid_input', `${name} must be an object`, { details: { field: name } });
}

function numberIn(value: unknown, name: string, min: number, max: number): number {
  if (typeof value === 'number' && value >= min && value <= max) return value;
  throw refused(name, value, `a number from ${min} to ${max}`);
}

function refused(name: string, value: unknown, expected: string): OctomilError {
  return new OctomilError(
    'invalid_input',
    `health.${name} is ${String(JSON.stringify(value)).slice(0, 60)}; it must be ${expected}`,
    { details: { field: `health.${name}` } },
  );
}
