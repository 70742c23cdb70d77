import { afterAll, beforeAll, beforeEach, expect, test } from '@jest/globals';
import type { Model } from '../models/model-store.js';
import { describeOnDatabases } from '../testing/databases.js';
import { openRolloutBench, type RolloutBench } from '../testing/rollout-bench.js';
import type { RolloutAggregate } from './judge-gates.js';
import type { Rollout } from './rollout-store.js';

const DEVICES = 10;
/** What a device may say at most. */
const HUGE = Number.MAX_SAFE_INTEGER;

describeOnDatabases('No device decides by itself,', (open) => {
  let bench: RolloutBench;
  let deviceIds: string[];
  let model: Model;
  let rollout: Rollout;
  let first: { id: string; version: string };

  beforeAll(async () => {
    bench = await openRolloutBench(open, { sweepEveryMs: 3_600_000 });
    deviceIds = await bench.devices(Array.from({ length: DEVICES }, (_, index) => (index + 0.5) / DEVICES));
  }, 240_000);
  afterAll(() => bench.close(), 30_000);
  beforeEach(async () => {
    model = await bench.models.create(bench.organizationId, { name: `model ${Math.random()}` });
    first = await bench.version('published', model);
    await start(first.version, { min_devices: 0 });
    const { version } = await bench.version('published', model);
    rollout = await start(version, {
      max_latency_ratio: 3,
      max_metric_drop: { metric: 'loss', drop: 3 },
      on_breach: 'pause',
    });
  });

  const start = (version: string, health: object): Promise<Rollout> =>
    bench.service.commands.create(
      model,
      {
        version,
        initialRatio: 1,
        targetRatio: 1,
        incrementRatio: 1,
        advanceEverySeconds: null,
        selector: undefined,
        health,
        startImmediately: true,
        reason: null,
      },
      'key:me',
    );
  const figures = (inferences: number, inferenceErrors: number, mean: number, rows: number, loss: number) => ({
    inferences,
    inferenceErrors,
    latencyMs: { mean, p95: mean },
    evaluation: { count: rows, loss, accuracy: null, auc: null },
    baseline: { count: rows, loss: 1, accuracy: null, auc: null },
  });
  const say = (index: number, health: object, versionId = rollout.version_id): Promise<unknown> =>
    bench.service.observeRaw(deviceIds[index] ?? '', [
      {
        modelId: model.id,
        versionId,
        rolloutId: versionId === rollout.version_id ? rollout.id : null,
        state: 'active',
        activeVersionId: versionId,
        health,
      },
    ]);
  const judged = async (): Promise<{ verdict: unknown; seen: RolloutAggregate | undefined }> => {
    const judgement = await bench.service.judgement(rollout);
    return { verdict: judgement?.verdict, seen: judgement?.seen.aggregate };
  };

  test('one that claims as much as it can, and all of it bad, is one of ten', async () => {
    await Promise.all(deviceIds.map((_, index) => say(index, figures(30, 0, 10, 50, 1))));
    await say(0, figures(HUGE, HUGE - 1, 1e12, HUGE, Number.MAX_VALUE));
    const { verdict, seen } = await judged();
    expect(verdict).toEqual({ verdict: 'ok' });
    // What it claimed is shown; what it counts for is what the one in the middle has.
    expect(seen?.inferences).toBeGreaterThan(1e9 - 1);
    expect((seen?.countedErrors ?? 1) / (seen?.countedInferences ?? 1)).toBeLessThanOrEqual(2 / DEVICES);
    expect(seen?.latencyMs).toBeLessThan(3 * 10);
    expect(seen?.metric?.value).toBeLessThan(1 + 10 * (2 / DEVICES));
  });

  test('one that praises the version before cannot take back the next', async () => {
    await Promise.all(
      deviceIds.map((_, index) =>
        index < 5 ? say(index, figures(50, 0, 10, 50, 1)) : say(index, figures(50, 0, 10, 50, 1), first.id),
      ),
    );
    await say(9, figures(HUGE, 0, 0, 50, 1), first.id);
    const seen = (await judged()).seen;
    expect(seen?.previousLatencyMs).toBeGreaterThan(5);
  });

  test('what three of ten see is a breach, however much another one praises it', async () => {
    await Promise.all(
      deviceIds.map((_, index) => say(index, index < 3 ? figures(40, 40, 10, 50, 1) : figures(1000, 0, 10, 50, 1))),
    );
    await say(9, figures(HUGE, 0, 10, 50, 1));
    // 120 of 7,120 as they are counted.
    expect((await judged()).verdict).toMatchObject({ verdict: 'ok' });
    await Promise.all([0, 1, 2].map((index) => say(index, figures(1000, 1000, 10, 50, 1))));
    expect((await judged()).verdict).toMatchObject({ verdict: 'breach', gate: 'max_inference_error_ratio' });
  });

  test('a stage whose devices have only begun still shows that the busy ones fail', async () => {
    for (const index of [0, 1, 2]) await say(index, figures(1, 0, 10, 50, 1));
    for (const index of [3, 4]) await say(index, figures(1000, 1000, 10, 50, 1));
    expect((await judged()).verdict).toMatchObject({ verdict: 'breach', gate: 'max_inference_error_ratio' });
  });
});
