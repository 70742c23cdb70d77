import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { sql } from 'kysely';
import { createAuditLog } from '../audit/index.js';
import { type OpenDatabase, openDatabase } from '../database/open-database.js';
import { type Jobs, openJobs } from '../jobs/index.js';
import { VersionStore } from '../models/version-store.js';
import { type CreatedPostgres, createPostgres, describeOnPostgres } from '../testing/databases.js';
import { openRolloutBench, type RolloutBench } from '../testing/rollout-bench.js';
import type { DesiredModels } from './desired.js';
import { createRolloutService, DESIRED_CHANNEL, type RolloutService } from './rollout-service.js';

/** No sweep comes to help: what is told is told by notifications. */
const settings = { sweepEveryMs: 3_600_000 };

describeOnPostgres('Rollouts by two coordinators', () => {
  let postgres: CreatedPostgres;
  let bench: RolloutBench;
  let database: OpenDatabase;
  let jobs: Jobs;
  let other: RolloutService;

  beforeAll(async () => {
    postgres = await createPostgres();
    const open = () => openDatabase({ url: postgres.url, logger: silentLogger, clock: systemClock });
    bench = await openRolloutBench(open, settings);
    database = await open();
    jobs = await openJobs({ database, logger: silentLogger });
    other = createRolloutService({
      database,
      jobs,
      registry: { versions: new VersionStore(database) },
      audit: createAuditLog({ database }),
      clock: systemClock,
      logger: silentLogger,
      settings,
    });
    await bench.service.start();
    await other.start();
  }, 240_000);
  afterAll(async () => {
    await other.stop();
    await jobs.close();
    await database.close();
    await bench.close();
    await postgres.drop();
  }, 180_000);

  test('a device held by one hears of what the other changed, and each stage is made once', async () => {
    const [deviceId = ''] = await bench.devices([0.5]);
    const told: DesiredModels[] = [];
    const listener = {
      deviceId,
      organizationId: bench.organizationId,
      desire: (desired: DesiredModels) => void told.push(desired),
    };
    other.opened(listener);
    await until(() => told.length > 0);
    const { id: versionId, version } = await bench.version();
    const rollout = await bench.service.commands.create(
      bench.model,
      {
        version,
        initialRatio: 0,
        targetRatio: 1,
        incrementRatio: 0.25,
        advanceEverySeconds: 3600,
        selector: undefined,
        health: { min_devices: 0 },
        startImmediately: true,
        reason: null,
      },
      'key:test',
    );
    for (let stage = 1; stage <= 4; stage++) {
      await sql`update rollouts set next_stage_at = now() where id = ${rollout.id}`.execute(database.kysely);
      await Promise.all([bench.service, other, bench.service, other].map((service) => service.wake(rollout.id)));
      expect(await bench.service.store.find(rollout.id)).toMatchObject({ share_ratio: stage / 4, stage: stage + 1 });
    }
    await until(() => told.at(-1)?.models[0]?.versionId === versionId);
    await bench.service.commands.rollback(bench.model.id, rollout.id, null, 'key:test');
    await until(() => told.at(-1)?.models.length === 0);
    await sql`update devices set labels = '{"a": "b"}' where id = ${deviceId}`.execute(database.kysely);
    const count = told.length;
    bench.service.devicesChanged([deviceId]);
    await until(() => told.length > count);
    other.closed(listener);
  }, 180_000);

  test('of ten thousand devices that changed at once, the other hears in one statement', async () => {
    const heard = new Set<string>();
    const stop = await database.listen(DESIRED_CHANNEL, (payload) => heard.add(payload));
    const { rows: before } = await sql`select pid from pg_stat_activity where datname = current_database()`.execute(
      database.kysely,
    );
    const deviceIds = Array.from({ length: 10_000 }, (_, index) => `device-${index}`);
    bench.service.devicesChanged(deviceIds);
    await until(() => heard.size === deviceIds.length);
    const { rows: after } = await sql`select pid from pg_stat_activity where datname = current_database()`.execute(
      database.kysely,
    );
    expect(after.length).toBeLessThanOrEqual(before.length + 1);
    expect(heard.has('device device-9999')).toBe(true);
    await stop();
  }, 180_000);
});

async function until(done: () => boolean): Promise<void> {
  for (let attempt = 0; attempt < 200; attempt++) {
    if (done()) return;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  expect('what was waited for').toBe('so');
}
