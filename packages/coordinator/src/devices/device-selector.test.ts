import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import { readDeviceFacts } from '../rollouts/device-facts.js';
import { insertOrganization } from '../testing/enrolled-device.js';
import { openTestDatabase } from '../testing/index.js';
import { type DeviceSelector, matchesSelector, parseSelector, selectorSql } from './device-selector.js';

let database: Database;
beforeAll(async () => {
  database = await openTestDatabase();
});
afterAll(() => database.close());

// Few words, so that selectors match now and then; some that are special in JSON, in SQL or in JavaScript.
const word = fc.constantFrom('a', 'b', "it's", '"', '%', '__proto__', 'constructor', '1', 'true', 'null', 'ä');
const scalar = fc.oneof(word, fc.constantFrom(0, -0, 1, 1.5, -2, 1e300, 5e-324), fc.boolean());
const said = fc.oneof(
  scalar,
  fc.constant(null),
  fc.array(fc.oneof(scalar, fc.array(scalar, { maxLength: 2 })), { maxLength: 3 }),
  fc.dictionary(word, scalar, { maxKeys: 2 }),
);
const smallList = fc.uniqueArray(word, { minLength: 1, maxLength: 3 });
const arbitrarySelector: fc.Arbitrary<DeviceSelector> = fc.record(
  {
    labels: fc.dictionary(word, word, { maxKeys: 2, noNullPrototype: true }),
    groups: smallList,
    capabilities: fc.dictionary(
      word,
      fc.oneof(scalar, fc.record({ min: fc.constantFrom(-2, 0, 1, 1.25, 1e300) }, { noNullPrototype: true })),
      { maxKeys: 2, noNullPrototype: true },
    ),
    devices: smallList,
  },
  { requiredKeys: [], noNullPrototype: true },
);
const arbitraryDevice = fc.record({
  labels: fc.dictionary(word, word, { maxKeys: 4 }),
  capabilities: fc.dictionary(word, said, { maxKeys: 5 }),
  facts: fc.dictionary(word, said, { maxKeys: 4 }),
  groups: fc.uniqueArray(word, { maxLength: 3 }),
});

test('the statement and the function choose the same devices', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(arbitraryDevice, { minLength: 1, maxLength: 8 }),
      fc.array(arbitrarySelector, { minLength: 1, maxLength: 12 }),
      async (devices, selectors) => {
        const organizationId = await insertOrganization(database);
        const { ids, groupIds } = await insertDevices(organizationId, devices);
        const known = await readDeviceFacts(database, ids);
        expect([...known.keys()].sort()).toEqual([...ids].sort());
        for (const drawn of selectors) {
          // Sometimes real ids of devices and groups.
          const real: DeviceSelector = {
            ...drawn,
            ...(drawn.devices === undefined ? {} : { devices: [...drawn.devices, ...ids.slice(0, 2)] }),
            ...(drawn.groups?.includes('1') === true ? { groups: [groupIds[0] ?? 'none'] } : {}),
          };
          const selector = parseSelector(JSON.parse(JSON.stringify(real)));
          const condition = selectorSql(selector);
          const { rows } = await sql<{ id: string; chosen: boolean; left_out: boolean }>`
            select d.id, ${condition} as chosen, not ${condition} as left_out
            from devices d where d.organization_id = ${organizationId}`.execute(database.kysely);
          for (const row of rows) {
            const device = known.get(row.id);
            if (device === undefined) continue;
            const matches = matchesSelector(device, selector);
            expect({ selector, device, chosen: row.chosen, left_out: row.left_out }).toEqual({
              selector,
              device,
              chosen: matches,
              left_out: !matches,
            });
          }
        }
      },
    ),
    { numRuns: 25 },
  );
});

test('every field that is given must hold, groups and devices by any of them', () => {
  const device = {
    id: 'd',
    labels: { region: 'north', tier: 'trusted' },
    capabilities: { trainers: ['tfjs', 'echo'], memoryBytes: 8e9, platform: 'linux' },
    facts: { platform: 'python', charging: true },
    groups: ['g', 'wards'],
  };
  const matching: DeviceSelector[] = [
    {},
    { labels: { region: 'north' } },
    { groups: ['none', 'wards'] },
    { capabilities: { trainers: 'tfjs', memoryBytes: { min: 8e9 }, charging: true, platform: 'linux' } },
    { devices: ['x', 'd'], groups: ['g'], labels: { tier: 'trusted' } },
  ];
  for (const selector of matching) expect([selector, matchesSelector(device, selector)]).toEqual([selector, true]);
  const failing: DeviceSelector[] = [
    { labels: { region: 'north', tier: 'other' } },
    { groups: ['none'] },
    { capabilities: { platform: 'python' } },
    { capabilities: { memoryBytes: { min: 8e9 + 1 } } },
    { capabilities: { trainers: { min: 1 } } },
    { devices: ['d'], groups: ['none'] },
  ];
  for (const selector of failing) expect([selector, matchesSelector(device, selector)]).toEqual([selector, false]);
});

test.each([
  [[], 'selector must be an object'],
  [{ label: {} }, 'selector.label is not known'],
  [{ labels: { a: 1 } }, 'selector.labels.a must be text'],
  [{ labels: { a: '\ud800' } }, 'surrogate'],
  [{ labels: { a: 'x'.repeat(257) } }, '257 characters'],
  [{ groups: [] }, 'selector.groups is empty'],
  [{ groups: 'all' }, 'must be a list'],
  [{ devices: [7] }, 'selector.devices[0] must be text'],
  [{ capabilities: { a: { min: 'x' } } }, 'selector.capabilities.a must be'],
  [{ capabilities: { a: { min: 1, max: 2 } } }, 'selector.capabilities.a must be'],
  [{ capabilities: { a: null } }, 'selector.capabilities.a must be'],
])('what is no selector is refused, naming the field: %j', (given, problem) => {
  expect(() => parseSelector(given)).toThrow(
    expect.objectContaining({ code: 'invalid_input', reason: expect.stringContaining(problem) }),
  );
});

interface Drawn {
  readonly labels: Record<string, unknown>;
  readonly capabilities: Record<string, unknown>;
  readonly facts: Record<string, unknown>;
  readonly groups: string[];
}

async function insertDevices(
  organizationId: string,
  devices: readonly Drawn[],
): Promise<{ ids: string[]; groupIds: string[] }> {
  const { kysely } = database;
  const rows = devices.map((device) => ({ id: randomUUID(), ...device }));
  await kysely
    .insertInto('devices')
    .values(
      rows.map(({ id, labels, capabilities, facts }) => ({
        id,
        organization_id: organizationId,
        device_identifier: id,
        credential_hash: null,
        placement: 0.5,
        labels: JSON.stringify(labels),
        capabilities: JSON.stringify(capabilities),
        facts: JSON.stringify(facts),
        site: '{}',
        agent_version: null,
        status: 'active' as const,
        session_process_id: null,
        session_host: null,
        session_coordinator_id: null,
      })),
    )
    .execute();
  const groups = [...new Set(rows.flatMap((row) => row.groups))].map((name) => ({ id: randomUUID(), name }));
  if (groups.length > 0) {
    await kysely
      .insertInto('device_groups')
      .values(groups.map(({ id, name }) => ({ id, organization_id: organizationId, name, description: '' })))
      .execute();
    await kysely
      .insertInto('device_group_members')
      .values(
        rows.flatMap((row) =>
          row.groups.map((name) => ({
            device_id: row.id,
            group_id: groups.find((group) => group.name === name)?.id ?? '',
          })),
        ),
      )
      .execute();
  }
  return { ids: rows.map(({ id }) => id), groupIds: groups.map(({ id }) => id) };
}
