import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { describeOnDatabases } from '../testing/databases.js';
import { openRolloutBench, type RolloutBench } from '../testing/rollout-bench.js';

describeOnDatabases('Observations', (open) => {
  let bench: RolloutBench;
  beforeAll(async () => {
    bench = await openRolloutBench(open, { sweepEveryMs: 3_600_000 });
  }, 240_000);
  afterAll(() => bench.close(), 30_000);

  test('a device outside the stage has no say in it', async () => {
    const deviceIds = await bench.devices([0.1, 0.3, 0.5, 0.7, 0.9]);
    const { commands, affectedDevices, judgement, observeRaw } = bench.service;
    const { version } = await bench.version();
    const rollout = await commands.create(
      bench.model,
      {
        version,
        initialRatio: 0.4,
        targetRatio: 1,
        incrementRatio: 0.1,
        advanceEverySeconds: null,
        selector: undefined,
        health: { min_devices: 1 },
        startImmediately: true,
        reason: null,
      },
      'key:me',
    );
    const page = await affectedDevices(rollout, { limit: 10, offset: 0 });
    const inside = page.devices.map(({ id }) => id);
    expect(inside).toHaveLength(2);
    const said = { modelId: rollout.model_id, versionId: rollout.version_id, rolloutId: rollout.id };
    for (const deviceId of deviceIds.filter((id) => !inside.includes(id))) {
      await observeRaw(deviceId, [{ ...said, state: 'failed' }]);
    }
    for (const deviceId of inside) {
      await observeRaw(deviceId, [{ ...said, state: 'active', activeVersionId: rollout.version_id }]);
    }
    expect(await judgement(rollout)).toMatchObject({
      seen: { aggregate: { active: 2, failed: 0 } },
      verdict: { verdict: 'ok' },
    });
  });
});
