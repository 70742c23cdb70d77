import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import { openTestDatabase } from '../testing/index.js';
import { REACHES } from './reaches-sql.js';
import { inShare } from './share.js';

let database: Database;
beforeAll(async () => {
  database = await openTestDatabase();
});
afterAll(() => database.close());

async function reaches(placement: number, offset: number, share: number, selector: object = {}): Promise<boolean> {
  const { rows } = await sql<{ reached: boolean }>`select ${REACHES} as reached
    from (select 'd1'::text as id, ${placement}::float8 as placement, '{"ward": "north"}'::jsonb as labels) d,
      (select ${offset}::float8 as placement_offset, ${share}::float8 as share_ratio,
        ${JSON.stringify(selector)}::text::jsonb as selector) r`.execute(database.kysely);
  return rows[0]?.reached === true;
}

test('the share in SQL is the share in memory', async () => {
  const unit = fc.oneof(
    fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
    fc.constantFrom(0, 0.5, 0.25, 0.9),
  );
  await fc.assert(
    fc.asyncProperty(unit, unit, fc.oneof(unit, fc.constant(1)), async (placement, offset, share) => {
      expect(await reaches(placement, offset, share)).toBe(inShare(placement, offset, share));
    }),
    { numRuns: 200 },
  );
});

test.each([
  [{ labels: { ward: 'north' } }, true],
  [{ labels: { ward: 'south' } }, false],
  [{ devices: ['d0', 'd1'] }, true],
  [{ devices: ['d0'] }, false],
  [{ groups: [randomUUID()] }, false],
  [{ capabilities: { gpu: true } }, true],
])('a selector %j reaches the device: %s', async (selector, expected) => {
  expect(await reaches(0.5, 0, 1, selector)).toBe(expected);
});
