import type { Gates } from './gates.js';

/** What the devices of a rollout said, added up. Reports of other versions are not in it. */
export interface RolloutAggregate {
  /** Seconds since the stage began, by the database's clock. */
  readonly stageSeconds: number;
  readonly active: number;
  readonly failed: number;
  /** Still downloading, or told and not yet begun. */
  readonly pending: number;
  /** Downloaded, and held back by the device's own rules. */
  readonly waiting: number;
  /** As the devices said, for people. */
  readonly inferences: number;
  readonly inferenceErrors: number;
  /** What is judged: no device counts for more inferences than the one in the middle has, or ten. */
  readonly countedInferences: number;
  /** Each device's share of errors, of what it counts for. */
  readonly countedErrors: number;
  /** Those that succeeded and say how long they took, of what each device counts for. */
  readonly countedTimed: number;
  /** Mean over these; null without any. */
  readonly latencyMs: number | null;
  /** The same of devices on the previous version. */
  readonly previousLatencyMs: number | null;
  /** Successful inferences behind `previousLatencyMs`. */
  readonly previousInferences: number;
  /**
   * The metric that the gates name: means of both versions over the same held-out rows, weighted by their count up to
   * that of the device in the middle. Null where nobody has it, or no gate asks for one.
   */
  readonly metric: MetricPair | null;
}

export interface MetricPair {
  /** Rows. */
  readonly count: number;
  readonly value: number;
  readonly previous: number;
}

export type GateVerdict =
  | { readonly verdict: 'ok' }
  | { readonly verdict: 'wait'; readonly reason: string }
  | { readonly verdict: 'breach'; readonly gate: string; readonly reason: string };

/** No figure is read from fewer rows or inferences: it would say more of single ones than of the version. */
export const MIN_COUNT = 10;
/** Sums of shares are not exact: a share at its limit is not over it. */
const ROUNDING = 1 + 1e-9;

/**
 * Whether a rollout may go on. A breach comes first: it needs neither the bake time nor the next stage to be due.
 * Failed activations are counted against all devices that know of the version, so that the first answer of a stage,
 * which may be a failure, is not taken for the whole of it.
 */
export function judgeGates(gates: Gates, seen: RolloutAggregate): GateVerdict {
  return breachOf(gates, seen) ?? waitFor(gates, seen) ?? { verdict: 'ok' };
}

function breachOf(gates: Gates, seen: RolloutAggregate): GateVerdict | undefined {
  const told = seen.active + seen.failed + seen.pending + seen.waiting;
  const failedLimit = gates.maxActivationFailureRatio;
  if (failedLimit !== null && seen.active + seen.failed >= gates.minDevices && seen.failed > failedLimit * told) {
    return breach(
      'max_activation_failure_ratio',
      `${seen.failed} of ${told} devices could not activate the version: ${shown(seen.failed / told)}, more than ${failedLimit}`,
    );
  }
  const errorLimit = gates.maxInferenceErrorRatio;
  const { countedInferences: counted, countedErrors } = seen;
  if (errorLimit !== null && counted >= MIN_COUNT && countedErrors > errorLimit * counted * ROUNDING) {
    return breach(
      'max_inference_error_ratio',
      `${seen.inferenceErrors} of ${seen.inferences} inferences failed: ${shown(countedErrors / counted)} with no device counted for more than the one in the middle, more than ${errorLimit}`,
    );
  }
  return latencyBreach(gates, seen) ?? metricBreach(gates, seen);
}

function latencyBreach(gates: Gates, seen: RolloutAggregate): GateVerdict | undefined {
  const { latencyMs, previousLatencyMs } = seen;
  if (latencyMs === null || seen.countedTimed < MIN_COUNT / ROUNDING) return undefined;
  if (gates.maxLatencyMs !== null && latencyMs > gates.maxLatencyMs) {
    return breach(
      'max_latency_ms',
      `an inference takes ${shown(latencyMs)} ms in the mean, more than ${gates.maxLatencyMs} ms`,
    );
  }
  const limit = gates.maxLatencyRatio;
  if (limit === null || previousLatencyMs === null || seen.previousInferences < MIN_COUNT) return undefined;
  if (latencyMs <= limit * previousLatencyMs) return undefined;
  return breach(
    'max_latency_ratio',
    `an inference takes ${shown(latencyMs)} ms in the mean and ${shown(previousLatencyMs)} ms with the previous version: more than ${limit} times as long`,
  );
}

function metricBreach(gates: Gates, seen: RolloutAggregate): GateVerdict | undefined {
  const limit = gates.maxMetricDrop;
  const pair = seen.metric;
  if (limit === null || pair === null || pair.count < MIN_COUNT) return undefined;
  const worse = limit.metric === 'loss' ? pair.value - pair.previous : pair.previous - pair.value;
  if (worse <= limit.drop) return undefined;
  return breach(
    'max_metric_drop',
    `${limit.metric} is ${shown(pair.value)} and was ${shown(pair.previous)} with the previous version, on ${pair.count} held-out rows of the devices: worse by ${shown(worse)}, more than ${limit.drop}`,
  );
}

function waitFor(gates: Gates, seen: RolloutAggregate): GateVerdict | undefined {
  if (seen.active < gates.minDevices) {
    return wait(
      `${seen.active} devices run the version and ${gates.minDevices} must before the next stage; if the share holds fewer, advance it by hand`,
    );
  }
  if (seen.pending > seen.active + seen.failed) {
    return wait(`${seen.pending} devices have not answered yet, more than have`);
  }
  if (seen.stageSeconds < gates.bakeSeconds) {
    return wait(`the stage began ${Math.floor(seen.stageSeconds)} s ago and lasts at least ${gates.bakeSeconds} s`);
  }
  return undefined;
}

function breach(gate: string, reason: string): GateVerdict {
  return { verdict: 'breach', gate, reason };
}

function wait(reason: string): GateVerdict {
  return { verdict: 'wait', reason };
}

function shown(value: number): string {
  return String(Number(value.toPrecision(4)));
}
