import { afterEach, beforeEach, expect, test } from '@jest/globals';
import type { SiteStatistics } from '@octomil/shared/features';
import { sql } from 'kysely';
import { describeOnDatabases } from '../testing/databases.js';
import { changesSince } from './drift-changes.js';
import type { TrainingEngine } from './engine.js';
import { memberDriftRound, memberRoundView } from './member-view.js';
import { driftOfRound } from './round-drift.js';
import { RoundFactsReader } from './round-facts.js';
import { RoundStore } from './round-store.js';
import { boundDrift, driftBytes, driftNews, driftRounds, readDrift } from './site-drift.js';
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

const STATISTICS: SiteStatistics = {
  ...{ formatVersion: 1, rows: 100, excluded: [] },
  columns: ['age', 'bp', 'chol', 'weight'].map((name) => ({
    ...{ name, seen: 'numeric', count: 100, missing: 0, zeros: 0, levels: null, categories: [], other: 0 },
    moments: { count: 100, mean: 50, deviation: 2 },
  })),
  target: {
    ...{ column: 'num', seen: 'integer', count: 100, missing: 0, other: 0, moments: null },
    classes: [
      { value: '0', count: 50 },
      { value: '1', count: 50 },
    ],
  },
};

const FIGURES = { count: 20, loss: 0.5, accuracy: 0.5, auc: null };

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
  const roundOf = (drift: object) =>
    ({ id: 'r', number: 1, kind: 'train', state: 'completed', metrics: { drift } }) as never;
  expect(driftRounds([roundOf(tight)])[0]).toMatchObject({
    drifted_sites: 1_000,
    new_drifted_sites: 1_000,
    changed_sites: 0,
  });
  // What has changed takes room before what differs, and counts where none of it fits.
  const changed = warnings.map((warning) => `${warning}!`);
  const both = many.map(([site, report]) => [site, { ...report, changed }] as const);
  const news = boundDrift(both, 1_000_000)['s1'];
  expect(news).toMatchObject({ changed: changed.slice(0, 1), warnings: [], left_out: { changed: 49, warnings: 50 } });
  expect(size(boundDrift(both, 1_000_000))).toBeLessThan(1_000_000 + 10 * many.length);
  const none = boundDrift(both, 150_000);
  expect(driftRounds([roundOf(none)])[0]).toMatchObject({ changed_sites: 1_000, new_drifted_sites: 0 });
  const told = driftNews(none)?.changed ?? {};
  expect(told).toMatchObject({ s1: ['too much to be kept'] });
  expect(Object.keys(told)).toHaveLength(100);
});

test('what a site told first is what its later reports are compared with, column by column', () => {
  const first = [
    { name: 'chol', shift: 3, missingRatio: 0.1, clippedRatio: 0 },
    { name: 'ward', missingRatio: 0, unknownRatio: 0, levelShift: 0.5 },
    { name: 'bp', missingRatio: 0, implausibleRatio: 0 },
  ];
  // Unlike the others from the start, and still the same.
  expect(changesSince(first, first)).toEqual([]);
  const edge = { shift: 3.5, missingRatio: 0.15, clippedRatio: 0.01 };
  expect(changesSince(first, [{ name: 'chol', ...edge }])).toEqual([]);
  const now = [
    { name: 'new', shift: 9 },
    { name: 'chol', shift: 2, missingRatio: 0.4, clippedRatio: 0.05 },
    { name: 'ward', missingRatio: 0, unknownRatio: 0.2, levelShift: 0.1 },
    { name: 'bp', missingRatio: 0, implausibleRatio: 0.5 },
  ];
  const then = "the site's first report";
  expect(changesSince(first, now)).toEqual([
    `column "chol": its mean is 1.00 standard deviations below that of ${then}`,
    `column "chol": 40 % is missing, against 10 % in ${then}`,
    `column "chol": 5 % of its values are cut off as too far out, against 0 % in ${then}`,
    `column "ward": 20 % of its values are no agreed level, against 0 % in ${then}`,
    `column "ward": its levels are spread otherwise than in ${then}: at least 40 % of the rows would have to change`,
    `column "bp": 50 % of its values are implausible, against 0 % in ${then}`,
  ]);
  const many = Array.from({ length: 120 }, (_, place) => ({ name: `c${place}`, shift: 0 }));
  const moved = changesSince(
    many,
    many.map(({ name }) => ({ name, shift: 1 })),
  );
  expect([moved.length, moved.at(-1)]).toEqual([50, 'and 71 more']);
  // A measure that either site calls otherwise is none.
  expect(changesSince([{ name: 'a', shift: 0 }], [{ name: 'a', shift: 'far' }])).toEqual([]);
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
    expect(round).toMatchObject({ round_number: 1, reporting_sites: 2, drifted_sites: 1, changed_sites: 0 });
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
    expect(told).toMatchObject([
      { data: { round_number: 1, sites: { a: [...DRIFT.warnings, expect.any(String)] }, changed: {} } },
    ]);
  });

  test('what has changed is told from the second report on, across sessions, by device and not by name', async () => {
    const devices: Record<string, string> = { a: await on.device('a'), b: await on.device('b') };
    /** A session, one round for each list, in which the sites tell these shifts. @returns its rounds and what was told */
    const train = async (shifts: readonly Readonly<Record<string, number>>[]) => {
      const rounds = shifts.length;
      const session = await on.session(engine, { trainer: 'tfjs', architecture: 'logistic', target: 'num>0', rounds });
      const left = new Map(Object.keys(devices).map((name) => [name, [...shifts]]));
      await until(async () => {
        for (const [name, device] of Object.entries(devices)) {
          const [open] = await engine.assignments.openAssignments(device);
          if (open === undefined) continue;
          const key = keyOf(open);
          if (open.kind === 'train') {
            const shift = left.get(name)?.shift()?.[name] ?? 0;
            const warnings = shift > 1 ? [`column "chol" of ${name}`] : [];
            const metrics = { drift: { columns: [{ name: 'chol', shift }], warnings } };
            const bytes = updateOf(name);
            await engine.assignments.submitUpdate(device, headerOf(key, bytes, { metrics }), { bytes });
          } else {
            await engine.assignments.report(device, key, open.kind === 'describe' ? STATISTICS : FIGURES);
          }
        }
        return (await on.state(session)).state !== 'running';
      });
      expect(await on.state(session)).toMatchObject({ state: 'completed' });
      const events = (await on.events(engine, session)).filter(({ type }) => type === 'drift');
      return {
        rounds: driftRounds(await engine.store.rounds(session)),
        told: events.map(({ data: { round_number, sites, changed } }) => ({ round_number, sites, changed })),
      };
    };
    const moved = ['column "chol": its mean is 1.50 standard deviations above that of the site\'s first report'];
    const first = await train([
      { a: 3, b: 0 },
      { a: 3, b: 0 },
      { a: 3, b: 1.5 },
    ]);
    // That a is unlike the others is told once; that b has changed, when it has.
    expect(first.told).toEqual([
      { round_number: 1, sites: { a: ['column "chol" of a'] }, changed: {} },
      { round_number: 3, sites: {}, changed: { b: moved } },
    ]);
    expect(first.rounds).toMatchObject([
      { drifted_sites: 1, new_drifted_sites: 1, changed_sites: 0 },
      { drifted_sites: 1, new_drifted_sites: 0, changed_sites: 0, sites: { a: { changed: [] } } },
      { drifted_sites: 2, new_drifted_sites: 0, changed_sites: 1, sites: { b: { changed: moved } } },
    ]);
    expect(first.rounds[0]?.['sites']).not.toHaveProperty('a.changed');
    const [, , last] = first.rounds;
    if (last !== undefined) expect(memberDriftRound(last)).toMatchObject({ changed_sites: 1, sites: {} });
    // Whoever finishes a round again, after the first was killed, finds the same.
    const store = new RoundStore(on.database);
    for (const round of first.rounds) {
      const roundId = String(round['round_id']);
      const facts = await new RoundFactsReader(on.database).of(roundId);
      if (facts === undefined) throw new TypeError('the round is gone');
      expect(await driftOfRound(on.database, facts, await store.acceptedAnswers(roundId))).toEqual(round['sites']);
    }
    // Another machine that has taken the name of one is compared with nothing.
    await sql`update devices set device_identifier = 'old' where id = ${devices['a']}`.execute(on.database.kysely);
    await on.setOnline(devices['a'] ?? '', false);
    devices['a'] = await on.device('a');
    const second = await train([{ a: 4.5, b: 1.5 }]);
    expect(second.told).toEqual([{ round_number: 1, sites: { a: ['column "chol" of a'] }, changed: { b: moved } }]);
  });
});
