import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { describeOnDatabases } from '../testing/databases.js';
import type { TrainingEngine } from './engine.js';
import { memberDriftRound, memberRoundView } from './member-view.js';
import { boundDrift, driftBytes, driftRounds, readDrift } from './site-drift.js';
import {
  assignmentOf,
  type Fixture,
  headerOf,
  keyOf,
  openFixture,
  until,
  updateOf,
} from './testing/training-fixture.js';
import { roundView } from './views.js';

const DRIFT = {
  specHash: 'x',
  rows: 120,
  columns: [{ name: 'chol', shift: 3.25, missingRatio: 0.1, referenceMissingRatio: 0.1 }],
  warnings: ['column "chol" is 3.3 standard deviations above what the features were made of; is its unit right?'],
};

/** Where it is cut to what is kept, a character is halved; no JSON column takes that. */
const HALVED = `${'x'.repeat(499)}😀`;

test('what a site says of its drift is kept within bounds, and nothing else is', () => {
  expect(readDrift(undefined)).toBeNull();
  expect(readDrift('much')).toBeNull();
  expect(readDrift(DRIFT)).toEqual({ columns: DRIFT.columns, warnings: DRIFT.warnings });
  const bounded = readDrift({
    columns: [
      null,
      { shift: 1 },
      { name: 'n'.repeat(10_000), shift: Number.NaN, note: 'free text', levels: { high: 4 } },
      ...Array.from({ length: 1_000 }, (_, place) => ({ name: `c${place}` })),
    ],
    warnings: [7, ...Array.from({ length: 1_000 }, () => 'w'.repeat(10_000))],
  });
  expect(bounded?.columns.length).toBeLessThanOrEqual(200);
  expect(bounded?.columns[0]).toEqual({ name: 'n'.repeat(500) });
  expect(JSON.stringify(bounded).length).toBeLessThan(40_000);
  const name = `${'n'.repeat(499)}😀`;
  const cut = readDrift({ columns: [{ name, ['m'.repeat(10_000)]: 1, shift: 2 }], warnings: [name] });
  expect(cut?.columns).toEqual([{ name: expect.stringMatching(/^n{499}.$/), shift: 2 }]);
  expect(JSON.stringify(cut)).not.toContain('\\ud83d');
});

test('of very many sites, what a round keeps stays within its budget: what drifted most, and how many were left out', () => {
  const columns = Array.from({ length: 200 }, (_, place) => ({ name: `c${place}`, shift: place === 150 ? 9 : 0.01 }));
  const warnings = Array.from({ length: 50 }, (_, place) => `column "c${place}": ${'w'.repeat(400)}`);
  const size = (value: unknown) => Buffer.byteLength(JSON.stringify(value));
  const many = Array.from({ length: 1_000 }, (_, place) => [`s${place}`, { columns, warnings }] as const);
  const quiet = { columns: columns.slice(0, 2), warnings: [] };
  const bounded = boundDrift([...many, ['quiet', quiet]], 1_000_000);
  expect(size(many)).toBeGreaterThan(20_000_000);
  expect(size(bounded)).toBeLessThan(1_000_000 + 10 * many.length);
  expect(Object.keys(bounded)).toEqual([...many.map(([site]) => site), 'quiet']);
  // Who says little is not cut for those who say much.
  expect(bounded['quiet']).toEqual(quiet);
  const kept = bounded['s500'];
  expect(kept?.columns).toContainEqual({ name: 'c150', shift: 9 });
  expect(kept?.columns.length).toBeGreaterThan(1);
  expect(kept?.left_out?.columns).toBe(200 - (kept?.columns.length ?? 0));
  expect(kept?.left_out?.warnings).toBe(50 - (kept?.warnings.length ?? 0));
  // Few sites keep all, and a site of which no warning fits counts as drifted.
  expect(boundDrift(many.slice(0, 3), 1_000_000)).toEqual(Object.fromEntries(many.slice(0, 3)));
  const tight = boundDrift(many, 100_000);
  expect(tight['s1']).toMatchObject({ warnings: [], left_out: { warnings: 50 } });
  const round = { id: 'r', number: 1, kind: 'train', state: 'completed', metrics: { drift: tight } } as never;
  expect(driftRounds([round])[0]?.['drifted_sites']).toBe(1_000);
});

test('a session of many rounds keeps less of each, so that all can be read together', () => {
  expect(driftBytes(1)).toBe(1_000_000);
  expect(driftBytes(1_000) * 1_000).toBeLessThanOrEqual(32_000_000);
  expect(driftBytes(10_000)).toBe(16_000);
});

describeOnDatabases('Drift of sites', (open) => {
  let on: Fixture;
  let engine: TrainingEngine;
  beforeEach(async () => {
    on = await openFixture(open);
    engine = await on.engine();
  }, 180_000);
  afterEach(() => on.close());

  test('drift is told round by round: to the owner by site and as an event, to members as a number', async () => {
    const devices = { a: await on.device('a'), b: await on.device('b') };
    const session = await on.session(engine, { rounds: 1 });
    for (const [name, device] of Object.entries(devices)) {
      await until(async () => (await engine.assignments.openAssignments(device)).length > 0);
      const bytes = updateOf(name);
      const key = keyOf(await assignmentOf(engine, device));
      const drift =
        name === 'a' ? { ...DRIFT, warnings: [...DRIFT.warnings, HALVED] } : { ...DRIFT, columns: [], warnings: [] };
      await engine.assignments.submitUpdate(
        device,
        headerOf(key, bytes, { metrics: { trainLoss: 0.5, drift, backend: HALVED.slice(460) } }),
        {
          bytes,
        },
      );
    }
    await until(async () => (await on.state(session)).state === 'completed');
    const rows = await engine.store.rounds(session);
    const [round] = driftRounds(rows);
    expect(round).toMatchObject({ round_number: 1, reporting_sites: 2, drifted_sites: 1 });
    expect(round?.['sites']).toEqual({
      a: { columns: DRIFT.columns, warnings: [...DRIFT.warnings, expect.stringMatching(/^x{499}.$/)] },
      b: { columns: [], warnings: [] },
    });
    const [row] = rows;
    if (row === undefined || round === undefined) return;
    expect(roundView(row, rows)).toMatchObject({ drift: { a: { columns: DRIFT.columns } } });
    expect(JSON.stringify([memberRoundView(row, rows), memberDriftRound(round)])).not.toContain('chol');
    expect(memberDriftRound(round)).toMatchObject({ drifted_sites: 1, sites: {} });
    const told = (await on.events(engine, session)).filter(({ type }) => type === 'drift');
    expect(told).toMatchObject([{ data: { round_number: 1, sites: { a: [...DRIFT.warnings, expect.any(String)] } } }]);
  });
});
