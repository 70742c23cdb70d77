import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { systemClock } from '@octomil/shared/runtime';
import { sql } from 'kysely';
import { describeOnDatabases } from '../testing/databases.js';
import { MAX_NAMED_PARTICIPANTS } from './complete-version.js';
import { RoundDriver } from './round-driver.js';
import { DUE_AT_ONCE, RoundStore } from './round-store.js';
import { MAX_LOOKED_AT } from './selection.js';
import {
  ALLOW_ALL,
  answer,
  assignmentOf,
  type Fixture,
  headerOf,
  keyOf,
  openFixture,
  until,
  updateOf,
} from './testing/training-fixture.js';
import { roundView } from './views.js';

describeOnDatabases('Sessions of many rounds, sites and events', (open) => {
  let on: Fixture;

  beforeEach(async () => {
    on = await openFixture(open);
  });
  afterEach(() => on.close());

  /** Adds answers of as many other devices. */
  async function crowd(roundId: string, count: number): Promise<void> {
    await sql`
      with made as (insert into devices (id, organization_id, device_identifier, placement)
          select 'device' || n, ${on.organizationId}, 'device' || n, 0 from generate_series(1, ${count}::integer) n
          returning id),
        asked as (insert into assignments (id, round_id, device_id, attempt, state, lease_until)
          select 'assignment ' || id, ${roundId}, id, 1, 'done', now() from made returning id, device_id)
      insert into updates (id, round_id, device_id, assignment_id, state, format, sha256, size_bytes, sample_count, weight)
      select 'update ' || id, ${roundId}, device_id, id, 'accepted', 'delta', '', 0, 1, 1 from asked`.execute(
      on.database.kysely,
    );
  }

  test('a round is shown as among all of its session, from it and the one after it alone', async () => {
    const engine = await on.engine();
    const a = await on.device('a');
    const session = await on.session(engine, { rounds: 4, min_updates: 1 });
    for (let round = 1; round <= 4; round++) await answer(engine, a, 'a');
    await until(async () => (await on.state(session)).state === 'completed');
    const rounds = await engine.store.rounds(session);
    expect(rounds).toHaveLength(4);
    for (const [place, row] of rounds.entries()) {
      const few = await engine.store.roundAndNext(row.id);
      expect(few.map(({ number }) => number)).toEqual(place === 3 ? [4] : [row.number, row.number + 1]);
      expect(roundView(row, few)).toEqual(roundView(row, rounds));
    }
    expect(await engine.store.roundAndNext('none')).toEqual([]);
  });

  test('a round is swept however many older ones wait for devices', async () => {
    const engine = await on.engine();
    await on.device('a', { online: false });
    const session = await on.session(engine, { min_updates: 1 });
    const waiting = await on.rounds(session);
    expect(waiting).toMatchObject([{ state: 'selecting' }]);
    // Older by their time, and first by their identifiers.
    await sql`insert into rounds (id, session_id, kind, number, attempt, retries, state, seed, min_updates, target_devices,
        created_at)
      select '!' || n, ${session}, 'train', 1, 1 + n, 0, 'selecting', 7, 1, 1, now() - interval '1 hour'
      from generate_series(1, ${DUE_AT_ONCE}::integer) n`.execute(on.database.kysely);
    const wake = jest.spyOn(RoundDriver.prototype, 'wake').mockResolvedValue();
    await engine.sweep();
    expect(wake.mock.calls).toHaveLength(DUE_AT_ONCE + 1);
    expect(wake).toHaveBeenLastCalledWith(waiting[0]?.id ?? '');
    wake.mockRestore();
  });

  test('who gives up before the last device says of how many it speaks', async () => {
    const engine = await on.engine();
    await sql`insert into devices (id, organization_id, device_identifier, placement, capabilities, site)
      select 'device' || n, ${on.organizationId}, 'device' || n, n / 30000.0, '{}',
        ${JSON.stringify({ ...ALLOW_ALL, policyRules: [] })}::jsonb
      from generate_series(1, ${MAX_LOOKED_AT + 1}::integer) n`.execute(on.database.kysely);
    await expect(on.session(engine, { min_updates: 1 })).rejects.toMatchObject({
      code: 'insufficient_devices',
      reason: expect.stringContaining(`but only 0 of the first ${MAX_LOOKED_AT} of the enrolled devices of federation`),
    });
  });

  test('a lineage counts participants by round and names each once, those of most rounds', async () => {
    const engine = await on.engine();
    const [a, b] = [await on.device('a'), await on.device('b')];
    const session = await on.session(engine, { rounds: 2, min_updates: 2 });
    for (const [device, name] of [
      [a, 'a'],
      [b, 'b'],
    ] as const)
      await answer(engine, device, name);
    await assignmentOf(engine, a);
    const [first] = await on.rounds(session);
    await crowd(first?.id ?? '', MAX_NAMED_PARTICIPANTS);
    for (const [device, name] of [
      [a, 'a'],
      [b, 'b'],
    ] as const)
      await answer(engine, device, name);
    await until(async () => (await on.state(session)).state === 'completed');
    const rounds = await on.rounds(session);
    const { rows } = await sql<{ lineage: Record<string, unknown> & { participants: unknown[] } }>`
      select lineage from versions where session_id = ${session}`.execute(on.database.kysely);
    const lineage = rows[0]?.lineage;
    expect(lineage).toMatchObject({
      strategy: 'fedavg',
      // The last one, which completes together with the version.
      final: { round_number: 2, participants: [{ device: 'a' }, { device: 'b' }] },
      participant_count: MAX_NAMED_PARTICIPANTS + 2,
    });
    expect(lineage?.['rounds']).toEqual([
      {
        ...{ number: 1, attempt: 1, round_id: first?.id, sha256: rounds[0]?.sha256, participants: 2 },
        backend: expect.any(String),
      },
    ]);
    expect(lineage?.participants).toHaveLength(MAX_NAMED_PARTICIPANTS);
    expect(lineage?.participants.slice(0, 3)).toEqual([
      { device_id: a, device: 'a', rounds: 2 },
      { device_id: b, device: 'b', rounds: 2 },
      { device_id: 'device1', device: 'device1', rounds: 1 },
    ]);
  });

  test('all answers of a round are read, in pages, up to a limit in bytes', async () => {
    const engine = await on.engine();
    await on.device('a');
    const session = await on.session(engine, { min_updates: 1 });
    const [round] = await on.rounds(session);
    const id = round?.id ?? '';
    await crowd(id, 200);
    const answers = await new RoundStore(on.database).acceptedAnswers(id);
    expect(new Set(answers.map(({ deviceName }) => deviceName)).size).toBe(200);
    expect(Object.keys(answers[0] ?? {})).not.toContain('bytes');
    // Each is {}.
    expect(await new RoundStore(on.database, { maxAnswersBytes: 400 }).acceptedAnswers(id)).toHaveLength(200);
    await expect(new RoundStore(on.database, { maxAnswersBytes: 399 }).acceptedAnswers(id)).rejects.toMatchObject({
      code: 'too_large',
    });
  });

  test('of progress the newest event is kept, and none when the session has been over for as long as updates are kept', async () => {
    const engine = await on.engine();
    const a = await on.device('a');
    const session = await on.session(engine, { rounds: 1, min_updates: 1 });
    const key = keyOf(await assignmentOf(engine, a));
    await engine.assignments.accept(a, key);
    const progress = async () =>
      (await on.events(engine, session)).filter(
        ({ type, data }) => type === 'assignment' && data['phase'] !== undefined,
      );
    const told: number[] = [];
    const now = jest.spyOn(systemClock, 'now');
    for (let completed = 1; completed <= 3; completed++) {
      now.mockReturnValue(Date.now() + completed * 1_000);
      await engine.assignments.progress(a, key, { phase: 'train', completed, total: 3 });
      const [event, ...others] = await progress();
      expect(event?.data).toMatchObject({ device: 'a', completed });
      expect(others).toEqual([]);
      told.push(event?.id ?? 0);
    }
    now.mockRestore();
    const bytes = updateOf('a');
    await engine.assignments.submitUpdate(a, headerOf(key, bytes), { bytes });
    await until(async () => (await on.state(session)).state === 'completed');
    const [first = 0, , third = 0] = told;
    const events = await on.events(engine, session);
    // Whoever saw one that is gone misses none of those after it.
    expect(await engine.events.read(session, first)).toEqual(events.filter(({ id }) => id > first));
    expect(events.some(({ id }) => id === third)).toBe(true);

    const kept = await engine.retention.run();
    expect(kept.events).toBe(0);
    await sql`update training_sessions set finished_at = finished_at - interval '25 hours'`.execute(on.database.kysely);
    const running = await on.session(engine, { rounds: 1, min_updates: 1 });
    const other = keyOf(await assignmentOf(engine, a));
    await engine.assignments.progress(a, other, { phase: 'train', completed: 1, total: 3 });
    expect(await engine.retention.run()).toMatchObject({ events: 1 });
    expect(await on.events(engine, session)).toEqual(events.filter(({ id }) => id !== third));
    expect(await engine.events.read(session, third)).toEqual(events.filter(({ id }) => id > third));
    expect((await on.events(engine, running)).at(-1)?.data).toMatchObject({ phase: 'train' });
  });

  test('events of progress that were told at the same moment are all replaced by the next', async () => {
    const engine = await on.engine();
    const a = await on.device('a');
    const session = await on.session(engine, { rounds: 1, min_updates: 1 });
    const key = keyOf(await assignmentOf(engine, a));
    let nowMs = Date.now();
    const now = jest.spyOn(systemClock, 'now').mockImplementation(() => (nowMs += 1_000));
    const tell = (completed: number) => engine.assignments.progress(a, key, { phase: 'train', completed, total: 9 });
    const progress = async () =>
      (await on.events(engine, session)).flatMap(({ data }) =>
        data['phase'] === undefined ? [] : [data['completed']],
      );
    await tell(1);
    await Promise.all([tell(2), tell(3)]);
    expect((await progress()).sort()).toEqual([2, 3]);
    await tell(4);
    expect(await progress()).toEqual([4]);
    now.mockRestore();
  });
});
