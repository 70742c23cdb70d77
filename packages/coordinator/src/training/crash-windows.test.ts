import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { sql } from 'kysely';
import { describeOnDatabases } from '../testing/databases.js';
import type { TrainingAggregator } from './ports.js';
import { RoundStore } from './round-store.js';
import {
  answer,
  assignmentOf,
  type Fixture,
  headerOf,
  inlineAggregator,
  keyOf,
  openFixture,
  until,
  updateOf,
} from './testing/training-fixture.js';

/** A coordinator that is killed is one that does nothing any more: another engine goes on with the rows it left. */
describeOnDatabases('Killed coordinators', (open) => {
  let on: Fixture;
  beforeEach(async () => {
    on = await openFixture(open);
  }, 180_000);
  afterEach(() => on.close());

  test('killed between the count and the verdict: the next one gives it, also when the round is over', async () => {
    const first = await on.engine();
    const devices = [await on.device('a'), await on.device('b')];
    const [a = '', b = ''] = devices;
    const session = await on.session(first, { rounds: 1 });
    const key = keyOf(await assignmentOf(first, a));
    const bytes = updateOf('a');
    const header = headerOf(key, bytes);
    expect(await first.assignments.verdictOn(a, header)).toBeUndefined();
    await first.assignments.submitUpdate(a, header, { bytes });
    await answer(first, b, 'b');
    await until(async () => (await on.state(session)).state === 'completed');

    const second = await on.engine();
    expect(await second.assignments.verdictOn(a, header)).toEqual({ accepted: true });
    expect(await second.assignments.submitUpdate(a, header, { bytes })).toEqual({ accepted: true });
    expect(await second.assignments.obsolete(a, [key])).toEqual([{ key, verdict: { accepted: true } }]);
    const other = headerOf(key, updateOf('other'));
    expect(await second.assignments.verdictOn(a, other)).toMatchObject({ accepted: false });
    // Of another device nothing is told.
    expect(await second.assignments.verdictOn(b, header)).toBeUndefined();
    expect(await second.assignments.obsolete(b, [key])).toMatchObject([{ reason: { code: 'assignment_not_found' } }]);
  });

  test('a first verdict of "rejected" is repeated too', async () => {
    const first = await on.engine();
    const a = await on.device('a');
    await on.device('b');
    await on.session(first, { rounds: 1 });
    const key = keyOf(await assignmentOf(first, a));
    const bytes = updateOf('a', 'weights');
    const header = headerOf(key, bytes, { format: 'weights' });
    const verdict = await first.assignments.submitUpdate(a, header, { bytes });
    expect(verdict).toMatchObject({ accepted: false, reason: { code: 'update_rejected' } });
    const second = await on.engine();
    expect(await second.assignments.submitUpdate(a, header, { bytes })).toEqual(verdict);
  });

  test('an update that came too late leaves the bytes alone: an accepted one may have the same', async () => {
    const engine = await on.engine();
    const a = await on.device('a');
    await on.device('b');
    await on.session(engine, { rounds: 1 });
    const key = keyOf(await assignmentOf(engine, a));
    await engine.assignments.accept(a, key);
    await sql`update assignments set lease_until = now() - interval '1 second' where device_id = ${a}`.execute(
      on.database.kysely,
    );
    await engine.sweep();
    const again = keyOf(await assignmentOf(engine, a));
    expect(again).toEqual({ assignmentId: key.assignmentId, attempt: key.attempt + 1 });
    const bytes = updateOf('a');
    // Both attempts made the same bytes; the older one is turned away while the newer one is stored and not yet counted.
    const [late] = await Promise.allSettled([engine.assignments.submitUpdate(a, headerOf(key, bytes), { bytes })]);
    expect(late).toMatchObject({ status: 'rejected', reason: { code: 'superseded' } });
    const stored: string[] = [];
    for await (const { key: name } of on.objects.list('updates/')) stored.push(name);
    expect(stored).toHaveLength(1);
  });

  test('a claim that is given up is free at once, also by a clock that still shows the same time', async () => {
    const first = await on.engine();
    await on.device('a');
    await on.device('b');
    const session = await on.session(first);
    const [round] = await on.rounds(session);
    const id = round?.id ?? '';
    // The embedded database's clock has milliseconds; a transaction's now() stands still on both.
    await on.database.transact(async (kysely) => {
      const rounds = new RoundStore({ ...on.database, kysely });
      await sql`update rounds set state = 'aggregating', owner = 'killed', owner_until = now() + interval '9 seconds'
          where id = ${id}`.execute(kysely);
      expect(await rounds.due()).toEqual([]);
      await rounds.releaseAll();
      expect(await rounds.due()).toEqual([id]);
      expect(await rounds.tally(id)).toMatchObject({ orphaned: true });
      expect(await rounds.takeOver(id, 'next', 1_000)).toBe(true);
      expect(await rounds.takeOver(id, 'third', 1_000)).toBe(false);
    });
  });

  test('killed while it aggregated: on the embedded database the next start goes on at once', async () => {
    let begun = 0;
    const never: TrainingAggregator = {
      ...inlineAggregator,
      aggregate: (job, signal) => {
        begun += 1;
        // The one that is taken for dead lives on in this test, and may claim the released round again.
        if (begun > 1) return inlineAggregator.aggregate(job, signal);
        return new Promise((_, reject) => {
          // The engine may be stopped before it comes to aggregating.
          if (signal?.aborted) reject(signal.reason);
          signal?.addEventListener('abort', () => reject(signal.reason));
        });
      },
    };
    const first = await on.engine({ aggregator: never });
    const devices = [await on.device('a'), await on.device('b')];
    const session = await on.session(first, { rounds: 1, base_version: 'initial' });
    for (const [place, device] of devices.entries()) await answer(first, device, `${place}`);
    const state = async () => (await on.rounds(session))[0]?.state;
    await until(async () => (await state()) === 'aggregating');
    await on.engine();
    if (on.database.kind === 'pglite') {
      await until(async () => (await on.state(session)).state === 'completed');
      return;
    }
    // Elsewhere another coordinator may live: its claim has to run out.
    expect(await state()).toBe('aggregating');
  });
});
