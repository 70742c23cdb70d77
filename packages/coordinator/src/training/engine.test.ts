import { randomUUID } from 'node:crypto';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { sql } from 'kysely';
import type { Jobs } from '../jobs/jobs.js';
import { describeOnDatabases } from '../testing/databases.js';
import type { TrainingAggregator } from './ports.js';
import { MAX_ASSIGNMENT_ATTEMPTS } from './round-machine.js';
import {
  ALLOW_ALL,
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

describeOnDatabases('Training', (open) => {
  let on: Fixture;
  beforeEach(async () => {
    on = await openFixture(open);
  }, 180_000);
  afterEach(() => on.close());

  test('two devices and two rounds make a version', async () => {
    const engine = await on.engine();
    const a = await on.device('a');
    const b = await on.device('b');
    const session = await on.session(engine, { new_version: '1.2.0' });
    for (const number of [1, 2]) {
      await until(async () => (await engine.assignments.openAssignments(a))[0]?.roundNumber === number);
      const [first] = await engine.assignments.openAssignments(a);
      expect(first).toMatchObject({ kind: 'train', totalRounds: 2, updateFormat: 'delta', modelName: 'heart' });
      expect(JSON.parse(first?.taskJson ?? '')).toEqual({ trainer: 'echo' });
      expect(await engine.assignments.baseObject(a, first?.base?.sha256 ?? '')).toMatchObject({
        sizeBytes: Number(first?.base?.sizeBytes),
      });
      expect(await answer(engine, b, 'b')).toEqual({ accepted: true });
      expect(await answer(engine, a, 'a')).toEqual({ accepted: true });
    }
    await until(async () => (await on.state(session)).state === 'completed');
    const rounds = await on.rounds(session);
    expect(rounds.map(({ number, state }) => [number, state])).toEqual([
      [1, 'completed'],
      [2, 'completed'],
    ]);
    const base = await on.registry.baseFor(on.modelId, '1.2.0');
    expect(base?.weights.sha256).toBe(rounds[1]?.sha256);
    const events = await on.events(engine, session);
    expect(events.map(({ type }) => type)).toEqual([
      'session',
      'round',
      'round',
      'update',
      'update',
      'round',
      'checkpoint',
      'round',
      'round',
      'update',
      'update',
      'round',
      'checkpoint',
      'round',
      'version',
      'session',
      'end',
    ]);
    expect(events.filter(({ type }) => type === 'update').map(({ data }) => data['accepted'])).toEqual([1, 2, 1, 2]);
  });

  test('the checkpoint does not depend on the order of arrival', async () => {
    const digests = new Set<string | null | undefined>();
    const engine = await on.engine();
    const ids = new Map<string, string>();
    for (const name of ['a', 'b', 'c']) ids.set(name, await on.device(name));
    for (const order of [
      ['a', 'b', 'c'],
      ['c', 'a', 'b'],
    ]) {
      const session = await on.session(engine, { rounds: 1, min_updates: 3, base_version: 'initial' });
      for (const name of order) expect(await answer(engine, ids.get(name) ?? '', name)).toEqual({ accepted: true });
      await until(async () => (await on.state(session)).state === 'completed');
      digests.add((await on.rounds(session))[0]?.sha256);
    }
    expect(digests.size).toBe(1);
  });

  test('over-selection closes at the quorum; a late update is refused and its assignment cancelled', async () => {
    const engine = await on.engine();
    const devices = [await on.device('a'), await on.device('b')];
    const session = await on.session(engine, { min_updates: 1, over_selection: 2, rounds: 1 });
    const [a = '', b = ''] = devices;
    const late = keyOf(await assignmentOf(engine, b));
    expect(await answer(engine, a, 'a')).toEqual({ accepted: true });
    await until(async () => (await on.state(session)).state === 'completed');
    const bytes = updateOf('b');
    await expect(engine.assignments.submitUpdate(b, headerOf(late, bytes), { bytes })).rejects.toMatchObject({
      code: 'round_closed',
    });
    expect(await engine.assignments.openAssignments(b)).toEqual([]);
    expect(await engine.assignments.obsolete(b, [late])).toMatchObject([
      { key: late, reason: { code: 'round_closed' } },
    ]);
    const { rows } = await sql<{ state: string }>`select state from updates`.execute(on.database.kysely);
    expect(rows).toEqual([{ state: 'accepted' }]);
  });

  test('a repeated update gets the first verdict and counts once', async () => {
    const engine = await on.engine();
    const a = await on.device('a');
    await on.device('b');
    await on.session(engine, { rounds: 1 });
    const key = keyOf(await assignmentOf(engine, a));
    const bytes = updateOf('a');
    const header = headerOf(key, bytes);
    const verdicts = await Promise.all([1, 2, 3].map(() => engine.assignments.submitUpdate(a, header, { bytes })));
    verdicts.push(await engine.assignments.submitUpdate(a, header, { bytes }));
    expect(verdicts).toEqual([{ accepted: true }, { accepted: true }, { accepted: true }, { accepted: true }]);
    const { rows } = await sql<{ n: number; counted: number }>`
    select (select count(*) from updates) as n, accepted_updates as counted from rounds`.execute(on.database.kysely);
    expect(rows).toEqual([{ n: 1, counted: 1 }]);
    const other = updateOf('else');
    expect(await engine.assignments.submitUpdate(a, headerOf(key, other), { bytes: other })).toMatchObject({
      accepted: false,
      reason: { code: 'update_rejected' },
    });
  });

  test('wrong updates are rejected with their reason, and another device is asked', async () => {
    const engine = await on.engine();
    const cases: [string, (bytes: Uint8Array) => { bytes: Uint8Array; fields?: object }, string][] = [
      ['nan', (bytes) => ({ bytes: withNan(bytes) }), 'update_rejected'],
      ['digest', (bytes) => ({ bytes, fields: { sha256: 'ab'.repeat(32) } }), 'checksum_mismatch'],
      ['size', (bytes) => ({ bytes, fields: { sizeBytes: bytes.length + 1 } }), 'update_rejected'],
      ['samples', (bytes) => ({ bytes, fields: { sampleCount: 0 } }), 'update_rejected'],
      ['format', (bytes) => ({ bytes, fields: { format: 'weights' } }), 'update_rejected'],
    ];
    for (const [name, change, code] of cases) {
      const device = await on.device(name);
      const spare = await on.device(`${name}-spare`, { online: false });
      const session = await on.session(engine, { min_updates: 1, rounds: 1, base_version: 'initial', selector: {} });
      const key = keyOf(await assignmentOf(engine, device));
      const { bytes, fields } = change(updateOf(name));
      await on.setOnline(spare, true);
      expect(await engine.assignments.submitUpdate(device, headerOf(key, bytes, fields), { bytes })).toMatchObject({
        accepted: false,
        reason: { code },
      });
      await until(async () => (await engine.assignments.openAssignments(spare)).length === 1);
      expect(await answer(engine, spare, spare)).toEqual({ accepted: true });
      await until(async () => (await on.state(session)).state === 'completed');
      await sql`update devices set status = 'revoked'`.execute(on.database.kysely);
    }
  });

  test('a refusal names its reason and brings in a replacement', async () => {
    const engine = await on.engine();
    const a = await on.device('a');
    const session = await on.session(engine, { min_updates: 1, rounds: 1 });
    const b = await on.device('b');
    const key = keyOf(await assignmentOf(engine, a));
    await engine.assignments.refuse(a, key, { code: 'policy_denied', message: 'not on Sundays' });
    await until(async () => (await engine.assignments.openAssignments(b)).length === 1);
    await expect(engine.assignments.accept(a, key)).rejects.toMatchObject({ code: 'superseded' });
    expect(await answer(engine, b, 'b')).toEqual({ accepted: true });
    await until(async () => (await on.state(session)).state === 'completed');
    const refused = (await on.events(engine, session)).find(({ data }) => data['state'] === 'refused');
    expect(refused?.data).toMatchObject({ device: 'a', reason: '[policy_denied] not on Sundays' });
  });

  test('without enough devices that could ever answer, a session does not start', async () => {
    const engine = await on.engine();
    await on.device('a');
    await on.device('b', { site: { ...ALLOW_ALL, policyRules: [] } });
    await expect(on.session(engine, { min_updates: 2 })).rejects.toMatchObject({
      code: 'insufficient_devices',
      reason: expect.stringMatching(/min_updates is 2, but only 1 .*b: no rule of its policy/),
    });
  });

  test('a federation is made with the session that asks for it, and never by a request that fails', async () => {
    const engine = await on.engine();
    await on.device('a');
    const named = async (name: string): Promise<string[]> =>
      (await sql<{ id: string }>`select id from federations where name = ${name}`.execute(on.database.kysely)).rows.map(
        ({ id }) => id,
      );
    const wish = { federation: 'cardiolgy', create_federation: true };
    await expect(on.session(engine, { federation: 'cardiolgy', min_updates: 1 })).rejects.toMatchObject({
      code: 'not_found',
    });
    for (const [wrong, code] of [
      [{ min_updates: 2 }, 'insufficient_devices'],
      [{ model: 'none' }, 'model_not_found'],
      [{ base_version: '9.9.9' }, 'version_not_found'],
      [{ federation: 'x'.repeat(201) }, 'invalid_input'],
    ] as const) {
      await expect(on.session(engine, { ...wish, ...wrong })).rejects.toMatchObject({ code });
    }
    expect(await named('cardiolgy')).toEqual([]);
    await Promise.all([1, 2].map(() => on.session(engine, { ...wish, min_updates: 1 })));
    expect(await named('cardiolgy')).toHaveLength(1);
  });

  test('devices that are merely registered are not counted on: no agent of theirs ever connected', async () => {
    const engine = await on.engine();
    const app = await on.device('app', { site: {}, online: false });
    await on.device('agent', { online: false });
    await sql`update devices set identity = 'shared'`.execute(on.database.kysely);
    await expect(on.session(engine, { min_updates: 2 })).rejects.toMatchObject({ code: 'insufficient_devices' });
    await sql`update devices set site = ${JSON.stringify(ALLOW_ALL)}::jsonb where id = ${app}`.execute(
      on.database.kysely,
    );
    await on.session(engine, { min_updates: 2 });
  });

  test('a round waits for devices that are offline, and starts when they come', async () => {
    const engine = await on.engine();
    const a = await on.device('a');
    const b = await on.device('b', { online: false });
    const session = await on.session(engine);
    expect(await on.rounds(session)).toMatchObject([
      { state: 'selecting', reason: '1 of the 2 devices needed are online and eligible' },
    ]);
    expect(await engine.assignments.openAssignments(a)).toEqual([]);
    await on.setOnline(b, true);
    await on.database.notify('octomil_presence', b);
    await until(async () => (await engine.assignments.openAssignments(b)).length === 1);
    expect(await on.rounds(session)).toMatchObject([{ state: 'collecting' }]);
  });

  test('an organization that left the federation is asked in no further round, one that joined is', async () => {
    const engine = await on.engine();
    const takeIn = (id: string) =>
      sql`insert into federation_members (federation_id, organization_id, status)
        select id, ${id}, 'active' from federations where name = 'lungs'`.execute(on.database.kysely);
    const [leaving, joining] = [randomUUID(), randomUUID()];
    for (const id of [leaving, joining]) {
      await sql`insert into organizations (id, name) values (${id}, ${id})`.execute(on.database.kysely);
    }
    await sql`insert into federations (id, organization_id, name)
      values (${randomUUID()}, ${on.organizationId}, 'lungs')`.execute(on.database.kysely);
    await takeIn(leaving);
    const a = await on.device('a');
    const left = await on.device('b', { organizationId: leaving });
    const joined = await on.device('c', { organizationId: joining });
    await on.session(engine, { federation: 'lungs', min_updates: 1, over_selection: 3 });
    await assignmentOf(engine, left);
    expect(await engine.assignments.openAssignments(joined)).toEqual([]);
    await sql`delete from federation_members where organization_id = ${leaving}`.execute(on.database.kysely);
    await takeIn(joining);
    // The quorum ends the first round.
    await answer(engine, a, 'a');
    await assignmentOf(engine, a);
    await assignmentOf(engine, joined);
    expect(await engine.assignments.openAssignments(left)).toEqual([]);
  });

  test('an older attempt is superseded; a device that came back is asked again', async () => {
    const engine = await on.engine();
    const a = await on.device('a');
    const session = await on.session(engine, { min_updates: 1, rounds: 1 });
    const key = keyOf(await assignmentOf(engine, a));
    await sql`update assignments set lease_until = now() - interval '1 second'`.execute(on.database.kysely);
    await engine.sweep();
    const again = keyOf(await assignmentOf(engine, a));
    expect(again).toEqual({ assignmentId: key.assignmentId, attempt: 2 });
    const bytes = updateOf('a');
    await expect(engine.assignments.submitUpdate(a, headerOf(key, bytes), { bytes })).rejects.toMatchObject({
      code: 'superseded',
    });
    // As large as the wire has it.
    const none = { ...again, attempt: 2 ** 32 - 1 };
    const superseded = { code: 'superseded' };
    await expect(engine.assignments.accept(a, none)).rejects.toMatchObject(superseded);
    const step = { phase: 'train', completed: 1, total: 2 };
    await expect(engine.assignments.progress(a, none, step)).rejects.toMatchObject(superseded);
    const problem = { code: 'unknown' as const, message: 'none' };
    await expect(engine.assignments.fail(a, none, problem)).rejects.toMatchObject(superseded);
    await expect(engine.assignments.submitUpdate(a, headerOf(none, bytes), { bytes })).rejects.toMatchObject(
      superseded,
    );
    expect(await engine.assignments.submitUpdate(a, headerOf(again, bytes), { bytes })).toEqual({ accepted: true });
    await until(async () => (await on.state(session)).state === 'completed');
  });

  test('rounds do not wait for the deletion of what is no longer needed, and it ends with the coordinator', async () => {
    const engine = await on.engine({ settings: { sweepEveryMs: 5 } });
    const { promise: begun, resolve: begin } = Promise.withResolvers<void>();
    const deletion = jest.spyOn(engine.retention, 'runIfDue').mockImplementation(
      (signal) =>
        new Promise((resolve) => {
          begin();
          signal?.addEventListener('abort', () => resolve());
        }),
    );
    const a = await on.device('a');
    await on.session(engine, { min_updates: 1, rounds: 1 });
    const key = keyOf(await assignmentOf(engine, a));
    await begun;
    await sql`update assignments set lease_until = now() - interval '1 second'`.execute(on.database.kysely);
    await until(async () => keyOf(await assignmentOf(engine, a)).attempt === key.attempt + 1);
    expect(deletion).toHaveBeenCalledTimes(1);
    await engine.stop();
  });

  test('a device that was lost too often is not waited for any more', async () => {
    const engine = await on.engine();
    const a = await on.device('a');
    const session = await on.session(engine, { min_updates: 1, rounds: 1, max_round_retries: 0 });
    for (let attempt = 1; attempt <= MAX_ASSIGNMENT_ATTEMPTS; attempt += 1) {
      expect(keyOf(await assignmentOf(engine, a)).attempt).toBe(attempt);
      await sql`update assignments set lease_until = now() - interval '1 second'`.execute(on.database.kysely);
      await engine.sweep();
    }
    expect(await on.state(session)).toMatchObject({
      state: 'paused',
      reason: expect.stringContaining('no other device can be asked; a: expired'),
    });
    const events = await on.events(engine, session);
    expect(events.filter(({ data }) => data['reason'] === 'replacement').map(({ data }) => data['device'])).toEqual(
      Array.from({ length: MAX_ASSIGNMENT_ATTEMPTS - 1 }, () => 'a'),
    );
  });

  test('the first progress that a coordinator hears of renews the lease, also after its restart', async () => {
    const first = await on.engine();
    const a = await on.device('a');
    await on.session(first, { min_updates: 1, rounds: 1, no_progress_seconds: 60 });
    const key = keyOf(await assignmentOf(first, a));
    await first.assignments.accept(a, key);
    const nearlyOver = () =>
      sql`update assignments set lease_until = now() + interval '1 second'`.execute(on.database.kysely);
    const leftSeconds = async (): Promise<number> => {
      const { rows } = await sql<{ left: number }>`
          select extract(epoch from lease_until - now())::float8 as left from assignments`.execute(on.database.kysely);
      return rows[0]?.left ?? 0;
    };
    const step = { phase: 'train', completed: 1, total: 10 };
    // Right after the acceptance, which renewed it, nothing is written.
    await nearlyOver();
    await first.assignments.progress(a, key, step);
    expect(await leftSeconds()).toBeLessThan(10);
    const second = await on.engine();
    await second.assignments.progress(a, key, step);
    expect(await leftSeconds()).toBeGreaterThan(10);
  });

  test('a deadline below the quorum is retried, then the session pauses and names the sites', async () => {
    const engine = await on.engine();
    const a = await on.device('a');
    await on.device('silent');
    const session = await on.session(engine, { max_round_retries: 1 });
    for (const attempt of [1, 2]) {
      await until(async () => (await on.rounds(session)).at(-1)?.attempt === attempt);
      await until(async () => (await engine.assignments.openAssignments(a)).length === 1);
      expect(await answer(engine, a, 'a')).toEqual({ accepted: true });
      await sql`update rounds set deadline_at = now() - interval '1 second' where state = 'collecting'`.execute(
        on.database.kysely,
      );
      await engine.sweep();
    }
    expect(await on.state(session)).toMatchObject({
      state: 'paused',
      reason_code: 'insufficient_updates',
      reason: expect.stringContaining('silent: did not answer'),
    });
    expect((await on.rounds(session)).map(({ state }) => state)).toEqual([
      'insufficient_updates',
      'insufficient_updates',
    ]);
    await engine.sessions.resume(on.organizationId, session);
    await until(async () => (await on.rounds(session)).at(-1)?.state === 'collecting');
    expect((await on.rounds(session)).at(-1)).toMatchObject({ number: 1, attempt: 3 });
  });

  test.each([
    ['policy_denied', 'paused', 'insufficient_updates', 1],
    ['invalid_input', 'failed', 'invalid_input', 1],
    ['training_failed', 'paused', 'insufficient_updates', 3],
  ] as const)(
    'what every site answers with %s ends as %s (%s) after %d attempts',
    async (code, state, told, attempts) => {
      const engine = await on.engine();
      const a = await on.device('a');
      const session = await on.session(engine, { min_updates: 1, max_round_retries: 2 });
      for (let attempt = 1; attempt <= attempts; attempt += 1) {
        await until(async () => (await on.rounds(session)).at(-1)?.attempt === attempt);
        await engine.assignments.fail(a, keyOf(await assignmentOf(engine, a)), {
          code,
          message: 'such a class there is not',
        });
      }
      await until(async () => (await on.state(session)).state !== 'running');
      expect(await on.state(session)).toMatchObject({
        state,
        reason_code: told,
        reason: expect.stringContaining('such a class'),
      });
      expect(await on.rounds(session)).toHaveLength(attempts);
    },
  );

  test('pause, resume and cancel', async () => {
    const engine = await on.engine();
    const a = await on.device('a');
    const b = await on.device('b');
    const session = await on.session(engine, { rounds: 1 });
    const key = keyOf(await assignmentOf(engine, a));
    await engine.sessions.pause(on.organizationId, session);
    const bytes = updateOf('a');
    await expect(engine.assignments.submitUpdate(a, headerOf(key, bytes), { bytes })).rejects.toMatchObject({
      code: 'round_closed',
    });
    await expect(engine.sessions.pause(on.organizationId, session)).rejects.toMatchObject({ code: 'wrong_state' });
    await engine.sessions.resume(on.organizationId, session);
    await until(async () => (await engine.assignments.openAssignments(a)).length === 1);
    expect(await answer(engine, a, 'a')).toEqual({ accepted: true });
    await engine.sessions.cancel(on.organizationId, session);
    await engine.sessions.cancel(on.organizationId, session);
    expect(await engine.assignments.openAssignments(b)).toEqual([]);
    await expect(engine.sessions.resume(on.organizationId, session)).rejects.toMatchObject({ code: 'wrong_state' });
    await expect(engine.sessions.cancel('somebody else', session)).rejects.toMatchObject({ code: 'not_found' });
    expect((await on.events(engine, session)).at(-1)).toMatchObject({ type: 'end', data: { state: 'cancelled' } });
  });

  test('an aggregation whose coordinator died is taken over and gives the same bytes', async () => {
    const hanging: TrainingAggregator = {
      ...inlineAggregator,
      aggregate: (_job, signal) =>
        new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason))),
    };
    const first = await on.engine({ aggregator: hanging });
    const a = await on.device('a');
    const b = await on.device('b');
    const session = await on.session(first, { rounds: 1, base_version: 'initial' });
    await answer(first, a, 'a');
    await answer(first, b, 'b');
    await until(async () => (await on.rounds(session))[0]?.state === 'aggregating');
    const second = await on.engine();
    await second.sweep();
    expect(await on.rounds(session)).toMatchObject([{ state: 'aggregating' }]);
    await sql`update rounds set owner_until = now() - interval '1 second'`.execute(on.database.kysely);
    await second.sweep();
    await until(async () => (await on.state(session)).state === 'completed');
    const undisturbed = await on.session(second, { rounds: 1, base_version: 'initial' });
    await answer(second, b, 'b');
    await answer(second, a, 'a');
    await until(async () => (await on.state(undisturbed)).state === 'completed');
    expect((await on.rounds(session))[0]?.sha256).toBe((await on.rounds(undisturbed))[0]?.sha256);
  });

  test('a coordinator that lost its claim does not commit what it computed', async () => {
    const gate = Promise.withResolvers<void>();
    const slow: TrainingAggregator = {
      ...inlineAggregator,
      aggregate: async (job, signal) => {
        await gate.promise;
        return inlineAggregator.aggregate(job, signal);
      },
    };
    const first = await on.engine({ aggregator: slow });
    const a = await on.device('a');
    const session = await on.session(first, { rounds: 1, min_updates: 1 });
    await answer(first, a, 'a');
    await until(async () => (await on.rounds(session))[0]?.state === 'aggregating');
    await sql`update rounds set owner_until = now() - interval '1 second'`.execute(on.database.kysely);
    const second = await on.engine();
    await second.sweep();
    gate.resolve();
    await until(async () => (await on.state(session)).state === 'completed');
    await first.stop();
    const { rows } = await sql<{
      n: number;
    }>`select count(*) as n from checkpoints where round_id is not null`.execute(on.database.kysely);
    expect(rows).toEqual([{ n: 1 }]);
    expect((await on.events(second, session)).filter(({ type }) => type === 'checkpoint')).toHaveLength(1);
  });

  test('a result that the store does not take leaves no files behind', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'octomil-closer-test-'));
    try {
      const engine = await on.engine({ settings: { temporaryFolder: folder } });
      const a = await on.device('a');
      const full = jest.spyOn(on.objects, 'putFile').mockRejectedValue(new RangeError('the disk is full'));
      const options = { rounds: 1, min_updates: 1, max_round_retries: 0, strategy: 'fedadam' };
      const session = await on.session(engine, options);
      await answer(engine, a, 'a');
      await until(async () => (await on.state(session)).state === 'paused');
      expect(full).toHaveBeenCalledTimes(1);
      const left = await readdir(folder, { recursive: true, withFileTypes: true });
      expect(left.filter((entry) => entry.isFile())).toEqual([]);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });

  test('a session has one job at its deadline, and another when that one ended with nothing to follow', async () => {
    const added: { roundId: string; delayMs: number | undefined }[] = [];
    let handle: (job: { roundId: string }) => Promise<void> = async () => undefined;
    const jobs: Jobs = {
      backend: 'pglite',
      queue: async <D extends object>() => ({
        add: async (data: D, options: { delayMs?: number } = {}) => {
          added.push({ roundId: (data as D & { roundId: string }).roundId, delayMs: options.delayMs });
        },
        close: async () => undefined,
      }),
      worker: async <D extends object>(_name: string, work: (data: D) => Promise<void>) => {
        handle = (job) => work(job as D & { roundId: string });
        return { close: async () => undefined };
      },
      close: async () => undefined,
    };
    const engine = await on.engine({ jobs });
    const a = await on.device('a');
    const session = await on.session(engine, { rounds: 2, min_updates: 1, round_deadline_seconds: 60 });
    await until(async () => (await engine.assignments.openAssignments(a)).length === 1);
    await answer(engine, a, 'a');
    await until(async () => (await engine.assignments.openAssignments(a))[0]?.roundNumber === 2);
    const [first, second] = await on.rounds(session);
    expect(added).toEqual([{ roundId: first?.id, delayMs: 60_050 }]);
    // It follows the round there is now.
    await handle({ roundId: first?.id ?? '' });
    expect(added.map(({ roundId }) => roundId)).toEqual([first?.id, second?.id]);
    await engine.sessions.pause(on.organizationId, session);
    await handle({ roundId: second?.id ?? '' });
    expect(added).toHaveLength(2);
    await engine.sessions.resume(on.organizationId, session);
    await until(async () => (await engine.assignments.openAssignments(a)).length === 1);
    expect(added.at(-1)?.roundId).toBe((await on.rounds(session)).at(-1)?.id);
    expect(added).toHaveLength(3);
  });

  test('two coordinators that close at once make one checkpoint per round', async () => {
    const engines = [await on.engine(), await on.engine()];
    const names = ['a', 'b', 'c', 'd'];
    const ids = await Promise.all(names.map((name) => on.device(name)));
    const [one, two] = engines;
    if (one === undefined || two === undefined) throw new TypeError('two engines');
    const session = await on.session(one, { rounds: 3, min_updates: 4 });
    for (const number of [1, 2, 3]) {
      await until(async () => (await one.assignments.openAssignments(ids[0] ?? ''))[0]?.roundNumber === number);
      await Promise.all(ids.map((id, place) => answer(place % 2 === 0 ? one : two, id, names[place] ?? '')));
      await Promise.all([one.sweep(), two.sweep()]);
    }
    await until(async () => (await on.state(session)).state === 'completed');
    const { rows } = await sql<{ n: number }>`
    select count(*) as n from checkpoints where round_id is not null group by round_id`.execute(on.database.kysely);
    expect(rows).toEqual([{ n: 1 }, { n: 1 }, { n: 1 }]);
  });

  test('a failed aggregation is retried, then pauses the session with the reason', async () => {
    const broken: TrainingAggregator = {
      ...inlineAggregator,
      aggregate: async () => {
        throw new RangeError('out of luck');
      },
    };
    const engine = await on.engine({ aggregator: broken });
    const a = await on.device('a');
    const session = await on.session(engine, { rounds: 1, min_updates: 1, max_round_retries: 1 });
    for (const attempt of [1, 2]) {
      await until(async () => (await on.rounds(session)).at(-1)?.attempt === attempt);
      await until(async () => (await engine.assignments.openAssignments(a)).length === 1);
      await answer(engine, a, 'a');
      await until(async () => (await on.rounds(session))[attempt - 1]?.state === 'failed');
    }
    await until(async () => (await on.state(session)).state === 'paused');
    expect(await on.state(session)).toMatchObject({ reason_code: 'internal' });
  });
});

function withNan(bytes: Uint8Array): Uint8Array {
  const changed = new Uint8Array(bytes);
  new DataView(changed.buffer).setFloat32(changed.length - 4, Number.NaN, true);
  return changed;
}
