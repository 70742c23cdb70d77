import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { sql } from 'kysely';
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

  test('a version that is deleted while reports are stored fails none of them', async () => {
    const { database, model, service } = bench;
    const ids = await bench.devices([0.2, 0.4]);
    const { id: versionId } = await bench.version();
    // As PostgreSQL says it when another connection deletes the version; the embedded database has one connection.
    await sql`create sequence looks`.execute(database.kysely);
    await sql`create function gone() returns trigger language plpgsql as $$ begin
      if nextval('looks') = 1 then raise foreign_key_violation; end if;
      return new;
    end $$`.execute(database.kysely);
    await sql`create trigger gone before insert on device_models for each row execute function gone()`.execute(
      database.kysely,
    );
    try {
      const stored = await Promise.all(
        ids.map((id) => service.observeRaw(id, [{ modelId: model.id, versionId, state: 'pending' }])),
      );
      expect(stored.map((models) => [...models])).toEqual([[model.id], [model.id]]);
    } finally {
      await sql`drop trigger gone on device_models`.execute(database.kysely);
    }
  });

  test('of a report whose version is being deleted, the rest is kept', async () => {
    const { database, model, service } = bench;
    const [id = ''] = await bench.devices([0.6]);
    const { id: versionId } = await bench.version();
    const deletion = database.transact(async (transaction) => {
      await transaction.deleteFrom('artifacts').where('version_id', '=', versionId).execute();
      await transaction.deleteFrom('versions').where('id', '=', versionId).execute();
      await new Promise((resolve) => setTimeout(resolve, 300));
    });
    const stored = await service.observeRaw(id, [{ modelId: model.id, versionId, state: 'pending' }]);
    await deletion;
    expect([...stored]).toEqual([model.id]);
    const row = await database.kysely
      .selectFrom('device_models')
      .select(['version_id', 'state'])
      .where('device_id', '=', id)
      .executeTakeFirstOrThrow();
    expect(row).toEqual({ version_id: null, state: 'pending' });
  });
});
