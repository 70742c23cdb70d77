import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { sql } from 'kysely';
import { describeOnPostgres } from '../testing/databases.js';
import { openRolloutBench, type RolloutBench } from '../testing/rollout-bench.js';

const DEVICES = 120_000;

describeOnPostgres('Affected devices of many', (open) => {
  let bench: RolloutBench;

  beforeAll(async () => {
    bench = await openRolloutBench(open, {}, () => 0.3);
    await sql`
      insert into devices (id, organization_id, device_identifier, placement)
      select ${bench.organizationId} || '-' || n, ${bench.organizationId}, 'device-' || n, random()
      from generate_series(1, ${DEVICES}::integer) n`.execute(bench.database.kysely);
    await sql`analyze devices`.execute(bench.database.kysely);
  }, 240_000);
  afterAll(() => bench.close(), 30_000);

  test('a page walks the index of placements, however large the share, and is not sorted afterwards', async () => {
    const { version } = await bench.version();
    for (const percentage of [1, 60]) {
      const rollout = await bench.service.commands.create(
        bench.model,
        {
          version,
          initialRatio: percentage / 100,
          targetRatio: 1,
          incrementRatio: 0.1,
          advanceEverySeconds: null,
          selector: undefined,
          health: undefined,
          startImmediately: true,
          reason: null,
        },
        'key:test',
      );
      const plan = await bench.service.explainAffected(rollout, 100);
      expect(plan).toContain('Index Scan using devices_by_placement');
      expect(plan).not.toContain('Seq Scan on devices');
      // Devices of equal placement, of which there are hardly any, are put in order; never the whole range.
      for (const line of plan.split('\n').filter((text) => text.includes('Sort Key: d.'))) {
        expect(plan).toContain('Presorted Key: d.placement');
        expect(line).toContain('d.placement, d.id');
      }
      const page = await bench.service.affectedDevices(rollout, { limit: 100, offset: 0 });
      expect(page.devices).toHaveLength(100);
      const wanted = (DEVICES * percentage) / 100;
      expect(page.totalIsExact).toBe(wanted < 50_000);
      expect(Math.abs(page.total - wanted) / wanted).toBeLessThan(0.2);
      await bench.service.commands.delete(bench.model.id, rollout.id, true);
    }
  }, 180_000);
});
