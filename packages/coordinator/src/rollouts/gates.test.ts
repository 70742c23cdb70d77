import { describe, expect, test } from '@jest/globals';
import { DEFAULT_GATES, type Gates, gatesJson, parseGates } from './gates.js';
import { judgeGates, type RolloutAggregate } from './judge-gates.js';

describe('parseGates', () => {
  test('fills in defaults, keeps null as "no gate", and comes back from its own JSON', () => {
    expect(parseGates(undefined)).toEqual(DEFAULT_GATES);
    const gates = parseGates({
      min_devices: 3,
      bake_seconds: 60,
      max_activation_failure_ratio: null,
      max_latency_ratio: 1.5,
      max_metric_drop: { metric: 'auc', drop: 0.02 },
      on_breach: 'pause',
    });
    expect(gates).toMatchObject({ minDevices: 3, maxActivationFailureRatio: null, maxInferenceErrorRatio: 0.1 });
    expect(parseGates(gatesJson(gates))).toEqual(gates);
  });

  test.each([
    [{ min_devices: -1 }, 'health.min_devices is -1'],
    [{ min_devices: 1.5 }, 'health.min_devices is 1.5'],
    [
      { max_activation_failure_ratio: 1.1 },
      'health.max_activation_failure_ratio is 1.1; it must be a number from 0 to 1',
    ],
    [{ max_latency_ms: '20' }, 'health.max_latency_ms is "20"'],
    [{ max_metric_drop: { metric: 'f1', drop: 0.1 } }, 'health.max_metric_drop.metric is "f1"'],
    [{ max_metric_drop: { metric: 'auc' } }, 'health.max_metric_drop.drop is undefined'],
    [{ on_breach: 'ignore' }, 'health.on_breach is "ignore"; it must be rollback or pause'],
    [{ maxLatency: 1 }, 'health.maxLatency is no gate'],
    [[], 'health must be an object'],
    [7, 'health must be an object'],
  ])('refuses %j', (value, reason) => {
    expect(() => parseGates(value)).toThrow(`[invalid_input] ${reason}`);
  });
});

const QUIET: RolloutAggregate = {
  stageSeconds: 1000,
  active: 20,
  failed: 0,
  pending: 0,
  waiting: 0,
  inferences: 1000,
  inferenceErrors: 0,
  countedInferences: 1000,
  countedErrors: 0,
  countedTimed: 1000,
  latencyMs: 10,
  previousLatencyMs: 10,
  previousInferences: 1000,
  metric: null,
};
const gatesWith = (given: Partial<Gates>): Gates => ({ ...DEFAULT_GATES, ...given });
/** Of devices that all have as many inferences, so that each counts for all that it has. */
const judge = (given: Partial<Gates>, seen: Partial<RolloutAggregate>) => {
  const { inferences, inferenceErrors } = { ...QUIET, ...seen };
  const counted = { countedInferences: inferences, countedErrors: inferenceErrors };
  return judgeGates(gatesWith(given), { ...QUIET, ...counted, ...seen });
};

describe('judgeGates', () => {
  test('a quiet rollout may go on', () => {
    expect(judge({}, {})).toEqual({ verdict: 'ok' });
  });

  test('it waits for devices, for answers and for the bake time', () => {
    expect(judge({ minDevices: 30 }, {})).toMatchObject({ verdict: 'wait', reason: expect.stringContaining('30') });
    expect(judge({}, { active: 0 })).toMatchObject({ verdict: 'wait' });
    expect(judge({}, { pending: 21 })).toMatchObject({ verdict: 'wait' });
    // Those that hold the activation back by their own rules are not waited for.
    expect(judge({}, { waiting: 500 })).toEqual({ verdict: 'ok' });
    expect(judge({ bakeSeconds: 1001 }, {})).toMatchObject({
      verdict: 'wait',
      reason: expect.stringContaining('1001 s'),
    });
  });

  test('failed activations are counted against every device that was told', () => {
    const limit = { maxActivationFailureRatio: 0.2 };
    expect(judge(limit, { active: 4, failed: 1 })).toEqual({ verdict: 'ok' });
    expect(judge(limit, { active: 3, failed: 1 })).toMatchObject({
      verdict: 'breach',
      gate: 'max_activation_failure_ratio',
      reason: expect.stringContaining('1 of 4'),
    });
    // The first answers of a stage: two of a hundred that were told.
    expect(judge(limit, { active: 0, failed: 2, pending: 98 })).toMatchObject({ verdict: 'wait' });
    expect(judge(limit, { active: 0, failed: 21, pending: 79 })).toMatchObject({ verdict: 'breach' });
    expect(judge({ ...limit, minDevices: 5 }, { active: 0, failed: 4 })).toMatchObject({ verdict: 'wait' });
    expect(judge({ maxActivationFailureRatio: null }, { failed: 20 })).toEqual({ verdict: 'ok' });
  });

  test('a breach needs neither the bake time nor enough active devices', () => {
    const seen = { active: 0, failed: 10, stageSeconds: 0 };
    expect(judge({ bakeSeconds: 60, minDevices: 10 }, seen)).toMatchObject({ verdict: 'breach' });
  });

  test('inference errors count from ten inferences on', () => {
    expect(judge({}, { inferences: 9, inferenceErrors: 9 })).toEqual({ verdict: 'ok' });
    expect(judge({}, { inferences: 10, inferenceErrors: 1 })).toEqual({ verdict: 'ok' });
    expect(judge({}, { inferences: 10, inferenceErrors: 2 })).toMatchObject({ gate: 'max_inference_error_ratio' });
    expect(judge({ maxInferenceErrorRatio: null }, { inferenceErrors: 1000 })).toEqual({ verdict: 'ok' });
  });

  test('latency has a bound of its own and one against the previous version', () => {
    expect(judge({ maxLatencyMs: 9 }, {})).toMatchObject({ gate: 'max_latency_ms' });
    expect(judge({ maxLatencyMs: 10 }, {})).toEqual({ verdict: 'ok' });
    expect(judge({ maxLatencyRatio: 1.5 }, { latencyMs: 15 })).toEqual({ verdict: 'ok' });
    expect(judge({ maxLatencyRatio: 1.5 }, { latencyMs: 15.1 })).toMatchObject({ gate: 'max_latency_ratio' });
    // Too little to compare with, or nothing.
    expect(judge({ maxLatencyRatio: 1.5 }, { latencyMs: 99, previousInferences: 9 })).toEqual({ verdict: 'ok' });
    expect(judge({ maxLatencyRatio: 1.5 }, { latencyMs: 99, previousLatencyMs: null })).toEqual({ verdict: 'ok' });
    expect(judge({ maxLatencyMs: 9 }, { countedTimed: 9 })).toEqual({ verdict: 'ok' });
    expect(judge({ maxLatencyMs: 9 }, { countedTimed: 10 })).toMatchObject({ verdict: 'breach' });
  });

  test('a metric may drop by so much, and loss may rise; fewer than ten rows say nothing', () => {
    const auc = (count: number, value: number) => ({
      metric: { count, value, previous: 0.75 },
    });
    const gate = { maxMetricDrop: { metric: 'auc', drop: 0.25 } } as const;
    expect(judge(gate, auc(10, 0.5))).toEqual({ verdict: 'ok' });
    expect(judge(gate, auc(10, 0.49))).toMatchObject({
      gate: 'max_metric_drop',
      reason: expect.stringContaining('10 held-out'),
    });
    expect(judge(gate, auc(9, 0.1))).toEqual({ verdict: 'ok' });
    expect(judge(gate, {})).toEqual({ verdict: 'ok' });
    const loss = (value: number) => ({ metric: { count: 50, value, previous: 1 } });
    const rise = { maxMetricDrop: { metric: 'loss', drop: 0.5 } } as const;
    expect(judge(rise, loss(0.1))).toEqual({ verdict: 'ok' });
    expect(judge(rise, loss(1.6))).toMatchObject({ verdict: 'breach' });
  });
});
