import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import type { SiteStatistics } from '@octomil/shared/features';
import { initialWeights } from '@octomil/shared/models';
import { encodeWeights } from '@octomil/shared/tensors';
import { sql } from 'kysely';
import { describeOnDatabases } from '../testing/databases.js';
import type { TrainingEngine } from './engine.js';
import { RoundStore } from './round-store.js';
import {
  ALLOW_ALL,
  assignmentOf,
  type Fixture,
  headerOf,
  keyOf,
  openFixture,
  until,
} from './testing/training-fixture.js';
import { roundView, sessionView } from './views.js';

describeOnDatabases('Sessions with tables', (open) => {
  let on: Fixture;
  let engine: TrainingEngine;
  let a: string;
  let b: string;
  beforeEach(async () => {
    on = await openFixture(open);
    engine = await on.engine();
    a = await on.device('a');
    b = await on.device('b', { site: { ...ALLOW_ALL, dataSets: [{ ...ALLOW_ALL.dataSets[0], digest: 'another' }] } });
  }, 180_000);
  afterEach(() => on.close());

  const BODY = { trainer: 'tfjs', target: 'num>0', rounds: 1, architecture: 'logistic' };

  const siteOf = (digest: string) => ({ ...ALLOW_ALL, dataSets: [{ ...ALLOW_ALL.dataSets[0], digest }] });

  function statistics(classes: readonly string[] = ['0', '1']): SiteStatistics {
    const column = (name: string, mean: number) => ({
      name,
      seen: 'numeric' as const,
      count: 100,
      missing: 0,
      zeros: 0,
      moments: { count: 100, mean, deviation: 2 },
      levels: null,
      categories: [],
      other: 0,
    });
    return {
      formatVersion: 1,
      rows: 100,
      columns: [column('age', 50), column('chol', 200)],
      excluded: [],
      target: {
        column: 'num',
        seen: 'integer',
        count: 100,
        missing: 0,
        classes: classes.map((value) => ({ value, count: 100 / classes.length })),
        other: 0,
        moments: null,
      },
    };
  }

  async function kindOf(device: string, kind: string): Promise<void> {
    await until(async () => (await engine.assignments.openAssignments(device))[0]?.kind === kind);
  }

  async function report(device: string, content: unknown): Promise<void> {
    await engine.assignments.report(device, keyOf(await assignmentOf(engine, device)), content);
  }

  async function train(device: string, evaluation: object | null): Promise<void> {
    const assignment = await assignmentOf(engine, device);
    const bytes = encodeWeights(
      initialWeights({ name: 'logistic', output: { kind: 'binary' } }, 2, 1).map((tensor) => ({
        ...tensor,
        data: tensor.data.map(() => 0.25),
      })),
    );
    const header = headerOf(keyOf(assignment), bytes, { metrics: { trainLoss: 0.6, evaluation } });
    expect(await engine.assignments.submitUpdate(device, header, { bytes })).toEqual({ accepted: true });
  }

  test('what stays at the sites is checked before the session starts, and told to them with every task', async () => {
    const started = (body: object) => on.session(engine, { ...BODY, ...body });
    const refused = { code: 'invalid_input', details: { field: 'personalization', layers: ['dense_1', 'output'] } };
    const architecture = { name: 'mlp', hidden: [4] };
    await expect(
      started({ architecture, personalization: { method: 'fedper', head_layers: ['dense_2'] } }),
    ).rejects.toMatchObject({ ...refused, reason: expect.stringMatching(/names dense_2.*are dense_1, output/) });
    await expect(started({ architecture, personalization: 'fedbn' })).rejects.toMatchObject(refused);
    const regression = { name: 'logistic', output: { kind: 'regression' } };
    await expect(started({ architecture: regression, local: { class_weights: 'balanced' } })).rejects.toMatchObject({
      code: 'invalid_input',
      details: { field: 'local.class_weights' },
    });

    await started({ personalization: 'ditto', local: { max_steps: 3 } });
    await report(a, statistics());
    await report(b, statistics());
    await kindOf(a, 'train');
    const personalization = { method: 'ditto', lambda: 0.1 };
    const task = JSON.parse((await assignmentOf(engine, a)).taskJson) as object;
    expect(task).toMatchObject({ personalization, options: { maxSteps: 3 } });
    await train(a, null);
    await train(b, null);
    await kindOf(a, 'evaluate');
    expect(JSON.parse((await assignmentOf(engine, a)).taskJson)).toMatchObject({ personalization });
  });

  test('a site whose agent would send what should stay is named and not asked', async () => {
    const old = await on.device('old', { capabilities: { trainers: ['tfjs'] } });
    const body = { ...BODY, personalization: 'ditto' };
    await expect(on.session(engine, { ...body, min_updates: 3 })).rejects.toThrow(
      /insufficient_devices.*old: its agent does not know personalization; update the agent/s,
    );
    await on.session(engine, body);
    await report(a, statistics());
    await report(b, statistics());
    await kindOf(a, 'train');
    expect(await engine.assignments.openAssignments(old)).toEqual([]);
  });

  test('an agent that cannot read the columns that were agreed is not asked to train on them', async () => {
    const old = await on.device('old', { capabilities: { trainers: ['tfjs'] } });
    const session = await on.session(engine, BODY);
    for (const device of [a, b]) {
      const { columns, ...rest } = statistics();
      // Enough cells are missing that the spec says how many.
      await report(device, { ...rest, columns: columns.map((column) => ({ ...column, count: 60, missing: 40 })) });
    }
    await report(old, statistics());
    await kindOf(a, 'train');
    expect((await assignmentOf(engine, a)).taskJson).toContain('"reference"');
    expect(await engine.assignments.openAssignments(old)).toEqual([]);
    await engine.sessions.cancel(on.organizationId, session);
  });

  test('columns are described, weights trained, the result evaluated at the sites and kept as a version', async () => {
    const session = await on.session(engine, BODY);
    await kindOf(a, 'describe');
    expect(JSON.parse((await assignmentOf(engine, a)).taskJson)).toMatchObject({
      target: { column: 'num', comparison: '>', value: 0 },
    });
    await report(a, statistics());
    await report(b, statistics());
    await kindOf(a, 'train');
    const task = JSON.parse((await assignmentOf(engine, a)).taskJson) as Record<string, unknown>;
    expect(task).toMatchObject({
      trainer: 'tfjs',
      architecture: { name: 'logistic', output: { kind: 'binary' } },
      holdout: { salt: 'heart', shareRatio: 0.2 },
      featureSpec: {
        columns: [
          { name: 'age', mean: 50 },
          { name: 'chol', mean: 200 },
        ],
      },
    });
    await train(a, { count: 20, loss: 0.7, accuracy: 0.5, auc: null });
    await train(b, null);
    await kindOf(b, 'evaluate');
    await report(a, { count: 20, loss: 0.4, accuracy: 0.8, auc: 0.9 });
    await report(b, { count: 60, loss: 0.8, accuracy: 0.4, auc: null });
    await until(async () => (await on.state(session)).state === 'completed');
    const base = await on.registry.baseFor(on.modelId, undefined);
    expect(base?.document).toMatchObject({
      inputWidth: 2,
      featureSpec: { columns: [{ name: 'age' }, { name: 'chol' }] },
    });
    const [row] = await engine.store.findSessions({ organizationId: on.organizationId, id: session });
    const overall = { count: 80, loss: expect.closeTo(0.7), accuracy: expect.closeTo(0.5), auc: 0.9 };
    expect(row === undefined ? row : sessionView(row)).toMatchObject({
      status: 'completed',
      result_version: '1.0.0',
      wait: null,
      metrics: { overall, sites: { a: { count: 20 }, b: { count: 60 } } },
    });
    const rounds = await engine.store.rounds(session);
    const views = rounds.map((round) => roundView(round, rounds));
    expect(views.map(({ kind, number, state }) => [kind, number, state])).toEqual([
      ['describe', 0, 'completed'],
      ['train', 1, 'completed'],
      ['evaluate', 2, 'completed'],
    ]);
    // The training round made what the evaluate round measured; its own answers measured the weights before it.
    expect(views[1]?.['metrics']).toMatchObject({ overall });
    expect(views[0]?.['metrics']).toMatchObject({ overall: { count: 20, loss: 0.7 }, sites: { b: null } });

    // The next session starts from that version: nothing is described again.
    await on.session(engine, { trainer: 'tfjs', rounds: 1 });
    await kindOf(a, 'train');
  });

  test('what a site said about the very same data is not asked again', async () => {
    const first = await on.session(engine, BODY);
    await report(a, statistics());
    await report(b, statistics());
    await kindOf(a, 'train');
    await engine.sessions.cancel(on.organizationId, first);
    await on.session(engine, BODY);
    await kindOf(a, 'train');
    expect((await assignmentOf(engine, b)).kind).toBe('train');
  });

  test('a site is asked again when its data is other data, and what it said of the former is not kept', async () => {
    const first = await on.session(engine, BODY);
    for (const device of [a, b]) await report(device, statistics());
    await kindOf(a, 'train');
    await engine.sessions.cancel(on.organizationId, first);
    await sql`update devices set site = jsonb_set(site, '{dataSets,0,digest}', '"other"') where id = ${a}`.execute(
      on.database.kysely,
    );
    await on.session(engine, BODY);
    await report(a, statistics());
    await kindOf(b, 'train');
    const kept = await on.database.kysely.selectFrom('site_statistics').select(['device_id', 'digest']).execute();
    expect(new Set(kept.map(({ device_id, digest }) => `${device_id} ${digest}`))).toEqual(
      new Set([`${a} other`, `${b} another`]),
    );
  });

  test('sites that are away for a moment when training ends are waited for, but not for ever', async () => {
    const session = await on.session(engine, BODY);
    for (const device of [a, b]) await report(device, statistics());
    await kindOf(a, 'train');
    await kindOf(b, 'train');
    // As after a restart of the coordinator: nobody has come back yet when the last round is to be evaluated.
    for (const device of [a, b]) await on.setOnline(device, false);
    for (const device of [a, b]) await train(device, null);
    const evaluating = async () => (await on.rounds(session)).find(({ kind }) => kind === 'evaluate')?.state;
    await until(async () => (await evaluating()) === 'selecting');
    await engine.sweep();
    expect(await evaluating()).toBe('selecting');
    await on.setOnline(a, true);
    await sql`update rounds set deadline_at = now() where kind = 'evaluate'`.execute(on.database.kysely);
    await engine.sweep();
    await kindOf(a, 'evaluate');
    await report(a, { count: 20, loss: 0.4, accuracy: 0.8, auc: 0.9 });
    await until(async () => (await on.state(session)).state === 'completed');
  });

  test('a site that fails to evaluate does not fail the session', async () => {
    const session = await on.session(engine, { ...BODY, min_updates: 1 });
    await report(a, statistics());
    await report(b, statistics());
    // Which of the two is asked is drawn.
    const isAsked = async (device: string) => (await engine.assignments.openAssignments(device))[0]?.kind === 'train';
    await until(async () => (await isAsked(a)) || (await isAsked(b)));
    const trained = (await isAsked(a)) ? a : b;
    await train(trained, null);
    await kindOf(a, 'evaluate');
    const problem = { code: 'training_failed', message: 'no memory' } as const;
    await engine.assignments.fail(a, keyOf(await assignmentOf(engine, a)), problem);
    await report(b, null);
    await until(async () => (await on.state(session)).state === 'completed');
  });

  test('a target with one class over all sites ends the session with the reason', async () => {
    const session = await on.session(engine, BODY);
    await report(a, statistics(['1']));
    await report(b, statistics(['1']));
    await until(async () => (await on.state(session)).state === 'failed');
    expect(await on.state(session)).toMatchObject({
      reason_code: 'data_mismatch',
      reason: expect.stringContaining('num'),
    });
    expect((await on.events(engine, session)).at(-1)?.type).toBe('end');
  });

  test('answers that are too much to be merged end the session with the reason, and are not read again and again', async () => {
    const small = await on.engine({ settings: { maxAnswersBytes: 1_000 } });
    await engine.stop();
    engine = small;
    const session = await on.session(small, BODY);
    await report(a, statistics());
    await report(b, statistics());
    await until(async () => (await on.state(session)).state === 'failed');
    expect(await on.state(session)).toMatchObject({
      reason_code: 'too_large',
      reason: expect.stringContaining('more than 1000 bytes of JSON together'),
    });
    expect(await on.rounds(session)).toHaveLength(1);
  });

  test('a kept answer that is replaced before it counts is asked for anew', async () => {
    const first = await on.session(engine, { ...BODY, dry_run: true });
    await report(a, statistics());
    await report(b, statistics());
    await until(async () => (await on.state(first)).state === 'completed');
    const replaced = jest.spyOn(RoundStore.prototype, 'start').mockImplementationOnce(async function (
      this: RoundStore,
      ...values
    ) {
      await sql`delete from site_statistics where device_id = ${a}`.execute(on.database.kysely);
      replaced.mockRestore();
      return this.start(...values);
    });
    const session = await on.session(engine, BODY);
    await kindOf(a, 'describe');
    await report(a, statistics());
    await kindOf(b, 'train');
    expect((await on.rounds(session))[0]?.state).toBe('completed');
  });

  test('a site without the target cannot take part; where it is needed, the session fails and names it', async () => {
    const session = await on.session(engine, { ...BODY, max_round_retries: 0 });
    await report(a, statistics());
    await expect(report(b, { ...statistics(), target: null })).rejects.toMatchObject({ code: 'data_mismatch' });
    await until(async () => (await on.state(session)).state === 'failed');
    expect((await on.state(session)).reason).toMatch(/b: failed .*no target column "num"/);
  });

  test('when no site has the target, all are heard and the session fails at once, naming each', async () => {
    const names = ['a', 'b', 'c', 'd'];
    const devices = [a, b, await on.device('c', { site: siteOf('c') }), await on.device('d', { site: siteOf('d') })];
    const session = await on.session(engine, { ...BODY, target: 'nope>0', min_updates: 4 });
    for (const device of devices) {
      const key = keyOf(await assignmentOf(engine, device));
      const message = 'there is no column "nope"';
      await engine.assignments.fail(device, key, { code: 'data_mismatch', message });
      await engine.sweep();
    }
    await until(async () => (await on.state(session)).state === 'failed');
    const { reason_code: code, reason } = await on.state(session);
    expect(code).toBe('data_mismatch');
    for (const name of names) expect(reason).toContain(`${name}: failed ([data_mismatch] there is no column "nope")`);
    expect(await on.rounds(session)).toHaveLength(1);
  });

  test('a dry run reports coverage and trains nothing', async () => {
    await on.device('refusing', { site: { ...ALLOW_ALL, policyRules: [] } });
    const body = { model: 'heart', ...BODY };
    const caller = { organizationId: on.organizationId, name: 'test' };
    expect(await engine.sessions.sites(body, caller)).toMatchObject({
      eligible: expect.arrayContaining([expect.objectContaining({ name: 'a', rowCount: 100 })]),
      refused: [{ name: 'refusing', rule: 'policy' }],
    });
    const { id } = await engine.sessions.create(body, caller, { dryRun: true });
    await kindOf(a, 'describe');
    await report(a, statistics());
    await report(b, { ...statistics(), columns: statistics().columns.slice(0, 1) });
    await until(async () => (await on.state(id)).state === 'completed');
    const [row] = await engine.store.findSessions({ organizationId: on.organizationId, id });
    expect(row === undefined ? row : sessionView(row)['report']).toMatchObject({
      problem: null,
      columns: [
        { column: 'age', sites: { a: 1, b: 1 } },
        { column: 'chol', sites: { a: 1, b: null } },
      ],
    });
    expect(await on.registry.baseFor(on.modelId, undefined)).toBeUndefined();
  });

  test('updates are deleted after their time, orphans after their grace, checkpoints stay', async () => {
    const session = await on.session(engine, BODY);
    await report(a, statistics());
    await report(b, statistics());
    await kindOf(a, 'train');
    await train(a, null);
    await train(b, null);
    await kindOf(a, 'evaluate');
    await on.objects.put('updates/lost/orphan', new Uint8Array(8));
    expect(await engine.retention.run()).toEqual({ updates: 0, events: 0, orphans: 0, tickets: 0 });
    const patient = await on.engine({ settings: { retention: { keepUpdatesHours: 72.5 } } });
    await sql`update rounds set finished_at = finished_at - interval '2 days'`.execute(on.database.kysely);
    expect(await patient.retention.run()).toMatchObject({ updates: 0 });
    expect(await engine.retention.run()).toMatchObject({ updates: 2, orphans: 0 });
    const kept: string[] = [];
    for await (const { key } of on.objects.list('checkpoints/')) kept.push(key);
    expect(kept).toHaveLength(2);
    expect((await on.rounds(session))[1]?.state).toBe('completed');
  });
});
