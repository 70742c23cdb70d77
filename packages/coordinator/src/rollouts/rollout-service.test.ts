import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { sql } from 'kysely';
import { createAuditLog } from '../audit/index.js';
import { VersionStore } from '../models/version-store.js';
import { describeOnDatabases } from '../testing/databases.js';
import { openRolloutBench, type RolloutBench } from '../testing/rollout-bench.js';
import type { DesiredModels } from './desired.js';
import type { RawObservedModel } from './observed.js';
import { RolloutCommands, type RolloutRequest } from './rollout-commands.js';
import { RolloutDriver } from './rollout-driver.js';
import type { Rollout } from './rollout-store.js';

const PLACEMENTS = Array.from({ length: 20 }, (_, index) => index / 20 + 0.01);
const ME = 'key:me';

describeOnDatabases('Rollouts', (open) => {
  let bench: RolloutBench;
  let deviceIds: string[];

  beforeAll(async () => {
    bench = await openRolloutBench(open, { sweepEveryMs: 3_600_000 });
    deviceIds = await bench.devices(PLACEMENTS);
    await bench.service.start();
  }, 240_000);
  afterAll(() => bench.close(), 30_000);

  const request = (version: string, given: Partial<RolloutRequest> = {}): RolloutRequest => ({
    version,
    initialRatio: 0.1,
    targetRatio: 1,
    incrementRatio: 0.1,
    advanceEverySeconds: null,
    selector: undefined,
    health: undefined,
    startImmediately: true,
    reason: null,
    ...given,
  });
  const newModel = () => bench.models.create(bench.organizationId, { name: randomUUID() });
  /** A model with one version in force everywhere, and a rollout of the next one. */
  const scene = async (given: Partial<RolloutRequest> = {}) => {
    const model = await newModel();
    const first = await bench.version('published', model);
    const second = await bench.version('published', model);
    await bench.service.commands.create(model, request(first.version, { initialRatio: 1 }), ME);
    const rollout = await bench.service.commands.create(model, request(second.version, given), ME);
    return { model, first, second, rollout };
  };
  const desired = async (modelId: string): Promise<(string | undefined)[]> =>
    Promise.all(
      deviceIds.map(async (id) => {
        const models = await bench.service.desiredState(id);
        return models.find((model) => model.modelId === modelId)?.versionId;
      }),
    );
  const say = (deviceId: string, rollout: Rollout, said: Partial<RawObservedModel> = {}) =>
    bench.service.observeRaw(deviceId, [
      {
        modelId: rollout.model_id,
        versionId: rollout.version_id,
        rolloutId: rollout.id,
        state: 'active',
        activeVersionId: rollout.version_id,
        ...said,
      },
    ]);
  const inShare = async (rollout: Rollout) => {
    const page = await bench.service.affectedDevices(rollout, { limit: 100, offset: 0 });
    return page.devices.map(({ id }) => id);
  };
  const reload = (rollout: Rollout) => bench.service.store.get(rollout.model_id, rollout.id);
  const codeOf = (work: Promise<unknown>) =>
    work.then(
      () => 'none',
      (error: { code: string }) => error.code,
    );

  test('devices in the share get the new version, growth adds to them, and the rest keeps the old one', async () => {
    const { model, first, second, rollout } = await scene({ initialRatio: 0.25 });
    const share = new Set(await inShare(rollout));
    expect(share.size).toBe(5);
    const at25 = await desired(model.id);
    for (const [index, id] of deviceIds.entries()) expect(at25[index]).toBe(share.has(id) ? second.id : first.id);
    const grown = await bench.service.commands.updateShare(model.id, rollout.id, 0.5, 'looks good', ME);
    expect(grown).toMatchObject({ state: 'active', share_ratio: 0.5, stage: 2, reason: 'looks good' });
    const at50 = await desired(model.id);
    expect(at50.filter((version) => version === second.id)).toHaveLength(10);
    for (const [index, version] of at25.entries()) if (version === second.id) expect(at50[index]).toBe(second.id);
    const done = await bench.service.commands.updateShare(model.id, rollout.id, 1, null, ME);
    expect(done).toMatchObject({ state: 'completed', finished_at: expect.any(Date), next_stage_at: null });
    expect(new Set(await desired(model.id))).toEqual(new Set([second.id]));
    expect((await bench.service.store.list(model.id)).map(({ covered }) => covered)).toEqual([false, true]);
  });

  test('a rollback restores exactly what every device should have run, whatever came before', async () => {
    const model = await newModel();
    const north = await bench.devices([0.2, 0.6], { region: 'north' });
    deviceIds = [...deviceIds, ...north];
    const { commands, store } = bench.service;
    // Each adds a rollout, then takes the last one back; shares, selectors and ends differ.
    for (const given of [
      { initialRatio: 0.7, selector: { labels: { region: 'north' } }, targetRatio: 0.7 },
      { initialRatio: 0.5 },
      { initialRatio: 1 },
      { initialRatio: 0.3, targetRatio: 0.3 },
      { initialRatio: 1, selector: { labels: {} } },
    ]) {
      const before = await desired(model.id);
      const { version } = await bench.version('published', model);
      const rollout = await commands.create(model, request(version, given), ME);
      expect(await desired(model.id)).not.toEqual(before);
      const back = await commands.rollback(model.id, rollout.id, 'worse', ME);
      expect(back).toMatchObject({ state: 'rolling_back', reason: 'worse' });
      expect(await desired(model.id)).toEqual(before);
      await bench.service.wake(rollout.id);
      expect(await reload(rollout)).toMatchObject({ state: 'rolled_back' });
      // The same again, to stay: what later rollouts are taken back to.
      const kept = await commands.create(model, request(version, given), ME);
      if (kept.state === 'active') await commands.updateShare(model.id, kept.id, kept.target_ratio, null, ME);
    }
    expect(await store.list(model.id, { states: ['rolled_back'] })).toHaveLength(5);
    deviceIds = deviceIds.slice(0, PLACEMENTS.length);
    await bench.database.kysely.updateTable('devices').set({ status: 'revoked' }).where('id', 'in', north).execute();
  });

  test('what a device says is stored for its own models only, and counts only for the version it names', async () => {
    const { model, first, rollout } = await scene({ initialRatio: 0.5, health: { min_devices: 2 } });
    const [one = '', two = ''] = await inShare(rollout);
    const stranger = randomUUID();
    const stored = await bench.service.observeRaw(one, [
      {
        modelId: model.id,
        versionId: rollout.version_id,
        rolloutId: rollout.id,
        state: 'active',
        activeVersionId: rollout.version_id,
      },
      { modelId: stranger, state: 'active' },
    ]);
    expect([...stored]).toEqual([model.id]);
    await say(two, rollout, { versionId: first.id, activeVersionId: first.id });
    const judged = await bench.service.judgement(rollout);
    expect(judged).toMatchObject({ seen: { aggregate: { active: 1, failed: 0 } }, verdict: { verdict: 'wait' } });
    await say(two, rollout);
    expect(await bench.service.judgement(rollout)).toMatchObject({ verdict: { verdict: 'ok' } });
    // An id of another model is stored as none.
    const other = await bench.version('published', await newModel());
    await say(two, rollout, { previousVersionId: other.id, rolloutId: 2 ** 40 });
    const row = await bench.database.kysely
      .selectFrom('device_models')
      .selectAll()
      .where('device_id', '=', two)
      .where('model_id', '=', model.id)
      .executeTakeFirstOrThrow();
    expect(row).toMatchObject({ previous_version_id: null, rollout_id: null, version_id: rollout.version_id });
  });

  test('figures are added up over devices: errors, latency against the previous version, metrics by rows', async () => {
    const health = { max_latency_ratio: 2, max_metric_drop: { metric: 'accuracy', drop: 0.1 } };
    const { first, rollout } = await scene({ initialRatio: 0.5, health });
    const [one = '', two = ''] = await inShare(rollout);
    const outside = deviceIds.find((id) => id !== one && id !== two) ?? '';
    const latency = (mean: number) => ({ mean, p95: mean });
    const metrics = (count: number, accuracy: number) => ({ count, loss: 1, accuracy, auc: null });
    const figures = { inferenceErrors: 0, evaluation: null, baseline: null };
    await say(outside, rollout, {
      versionId: first.id,
      activeVersionId: first.id,
      rolloutId: null,
      health: { ...figures, inferences: 40, latencyMs: latency(10) },
    });
    await say(one, rollout, {
      health: {
        inferences: 30,
        inferenceErrors: 10,
        latencyMs: latency(10),
        evaluation: metrics(30, 0.9),
        baseline: metrics(30, 0.8),
      },
    });
    await say(two, rollout, {
      health: {
        inferences: 60,
        inferenceErrors: 0,
        latencyMs: latency(20),
        evaluation: metrics(10, 0.5),
        baseline: metrics(10, 0.7),
      },
    });
    const judged = await bench.service.judgement(rollout);
    expect(judged?.seen.aggregate).toMatchObject({
      inferences: 90,
      inferenceErrors: 10,
      // The one in the middle of two has 30 inferences and 10 rows: so much each counts for.
      countedInferences: 60,
      countedErrors: expect.closeTo(10, 12),
      latencyMs: expect.closeTo((20 * 10 + 30 * 20) / 50, 12),
      previousLatencyMs: 10,
      previousInferences: 40,
      metric: { count: 40, value: expect.closeTo(0.7, 12), previous: expect.closeTo(0.75, 12) },
    });
  });

  test('a breach takes the rollout back by itself, with figures in the history and the audit log', async () => {
    const { model, first, rollout } = await scene({ initialRatio: 0.5 });
    const devices = await inShare(rollout);
    // At once, so that they are stored in one statement: else the first of them would decide on a busy machine.
    await Promise.all(
      devices.map((id, index) => say(id, rollout, index < 5 ? { state: 'failed', activeVersionId: first.id } : {})),
    );
    await until(async () => (await reload(rollout)).state !== 'active');
    const back = await reload(rollout);
    expect(back).toMatchObject({
      reason_code: 'gate_breached',
      reason: expect.stringContaining(`5 of ${devices.length} devices could not`),
    });
    expect(new Set(await desired(model.id))).toEqual(new Set([first.id]));
    const audit = await bench.database.kysely
      .selectFrom('audit_entries')
      .selectAll()
      .where('resource', '=', `models/${model.id}/rollouts/${rollout.id}`)
      .where('action', '=', 'rollout.rolling_back')
      .executeTakeFirstOrThrow();
    expect(audit).toMatchObject({
      actor: 'coordinator',
      details: { failed: expect.any(Number), gate: 'max_activation_failure_ratio' },
    });
    await bench.service.wake(rollout.id);
    const history = await bench.service.store.history(rollout.id);
    expect(history.map(({ to_state, actor }) => [to_state, actor])).toEqual([
      ['draft', ME],
      ['active', ME],
      ['rolling_back', 'coordinator'],
      ['rolled_back', 'coordinator'],
    ]);
  });

  test('with on_breach pause it stops where it is, and devices keep what they have', async () => {
    const { model, rollout } = await scene({ initialRatio: 0.5, health: { on_breach: 'pause' } });
    const before = await desired(model.id);
    for (const id of await inShare(rollout)) await say(id, rollout, { state: 'failed' });
    await bench.service.wake(rollout.id);
    expect(await reload(rollout)).toMatchObject({ state: 'paused', reason_code: 'gate_breached' });
    expect(await desired(model.id)).toEqual(before);
  });

  test('a rollback waits for devices with a session, and not for ever', async () => {
    const { first, rollout } = await scene({ initialRatio: 0.5 });
    const [online = '', offline = ''] = await inShare(rollout);
    await say(online, rollout);
    await say(offline, rollout);
    await bench.database.kysely
      .updateTable('devices')
      .set({ lease_until: sql<Date>`now() + interval '1 hour'` })
      .where('id', '=', online)
      .execute();
    await bench.service.commands.rollback(rollout.model_id, rollout.id, null, ME);
    await bench.service.wake(rollout.id);
    expect(await reload(rollout)).toMatchObject({ state: 'rolling_back' });
    await say(online, rollout, { versionId: first.id, activeVersionId: first.id, rolloutId: null });
    await bench.service.wake(rollout.id);
    expect(await reload(rollout)).toMatchObject({ state: 'rolled_back' });
  });

  test.each([-1, 1])(
    'a coordinator whose clock is %i hour off judges and ends rollouts as any other',
    async (hours) => {
      const { database, service } = bench;
      const now = () => systemClock.now() + hours * 3_600_000;
      const clock = { now, after: systemClock.after.bind(systemClock), sleep: systemClock.sleep.bind(systemClock) };
      const driver = new RolloutDriver({
        database,
        store: service.store,
        audit: createAuditLog({ database }),
        clock,
        logger: silentLogger,
        rollbackWithinMs: 600_000,
        watchSeconds: 600,
        changed: () => undefined,
      });
      const { first, rollout } = await scene({ initialRatio: 1 });
      const [online = '', ...others] = await inShare(rollout);
      await database.kysely
        .updateTable('devices')
        .set({ lease_until: sql<Date>`now() + interval '1 hour'` })
        .where('id', '=', online)
        .execute();
      const aged = (minutes: number) =>
        sql`update rollouts set finished_at = now() - make_interval(mins => ${minutes}),
        updated_at = now() - make_interval(mins => ${minutes}) where id = ${rollout.id}`.execute(database.kysely);
      await aged(20);
      const wrong = { state: 'failed', activeVersionId: first.id } as const;
      await Promise.all([online, ...others.slice(0, 9)].map((id) => say(id, rollout, wrong)));
      await driver.wake(rollout.id);
      expect(await reload(rollout)).toMatchObject({ state: 'completed' });
      await aged(5);
      await driver.wake(rollout.id);
      expect(await reload(rollout)).toMatchObject({ state: 'rolling_back' });
      await driver.wake(rollout.id);
      expect(await reload(rollout)).toMatchObject({ state: 'rolling_back' });
      await aged(20);
      await driver.wake(rollout.id);
      expect(await reload(rollout)).toMatchObject({ state: 'rolled_back' });
    },
  );

  test('stages advance when they are due and the gates allow it, also by two coordinators at once', async () => {
    const { rollout } = await scene({ initialRatio: 0.1, incrementRatio: 0.4, advanceEverySeconds: 3600 });
    expect(rollout.next_stage_at).toEqual(expect.any(Date));
    const due = () =>
      sql`update rollouts set next_stage_at = now() - interval '1 second' where id = ${rollout.id}`.execute(
        bench.database.kysely,
      );
    await due();
    await bench.service.wake(rollout.id);
    expect(await reload(rollout)).toMatchObject({ share_ratio: 0.1, stage: 1 });
    for (const id of await inShare(rollout)) await say(id, rollout);
    await Promise.all([bench.service.wake(rollout.id), bench.service.wake(rollout.id), bench.service.sweep()]);
    expect(await reload(rollout)).toMatchObject({ share_ratio: 0.5, stage: 2, state: 'active' });
    await due();
    await bench.service.wake(rollout.id);
    await due();
    await bench.service.wake(rollout.id);
    expect(await reload(rollout)).toMatchObject({ share_ratio: 1, state: 'completed' });
  });

  test('only one rollout of a model is under way, however many start at once', async () => {
    const model = await newModel();
    const versions = await Promise.all([1, 2, 3, 4].map(() => bench.version('published', model)));
    const outcomes = await Promise.allSettled(
      versions.map(({ version }, index) =>
        bench.service.commands.create(model, request(version, { initialRatio: index % 2 === 0 ? 0.1 : 0.2 }), ME),
      ),
    );
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    const [active] = await bench.service.store.list(model.id, { states: ['active'] });
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') {
        expect(outcome.reason).toMatchObject({
          code: 'conflict',
          details: { rollout_id: active?.id, status: 'active' },
        });
      }
    }
    // One that would be complete at once is no way around it.
    const whole = bench.service.commands.create(model, request(versions[0]?.version ?? '', { initialRatio: 1 }), ME);
    expect(await codeOf(whole)).toBe('conflict');
  });

  test('a version that is deleted just before the rollout is stored is said to be gone', async () => {
    const { database, service } = bench;
    const model = await newModel();
    const { id, version } = await bench.version('published', model);
    const versions = new VersionStore(database);
    const commands = new RolloutCommands({
      database,
      store: service.store,
      registry: {
        versions: {
          get: async (...asked) => {
            const found = await versions.get(...asked);
            await database.kysely.deleteFrom('artifacts').where('version_id', '=', id).execute();
            await database.kysely.deleteFrom('versions').where('id', '=', id).execute();
            return found;
          },
        },
      },
      random: Math.random,
      changed: () => undefined,
    });
    await expect(commands.create(model, request(version, { startImmediately: false }), ME)).rejects.toMatchObject({
      code: 'version_not_found',
    });
  });

  test('a draft that a newer rollout has overtaken cannot start', async () => {
    const model = await newModel();
    const { version } = await bench.version('published', model);
    const draft = await bench.service.commands.create(model, request(version, { startImmediately: false }), ME);
    await bench.service.commands.create(model, request(version, { initialRatio: 1 }), ME);
    await expect(bench.service.commands.start(model.id, draft.id, ME)).rejects.toMatchObject({
      code: 'wrong_state',
      reason: expect.stringContaining('is newer and completed'),
    });
  });

  test('deleting what decides needs force, and gives devices back what they had', async () => {
    const { model, first, rollout } = await scene({ initialRatio: 1 });
    const remove = (force: boolean) => bench.service.commands.delete(model.id, rollout.id, force);
    expect(await codeOf(remove(false))).toBe('wrong_state');
    expect(await remove(true)).toMatchObject({ state: 'rolled_back' });
    expect(new Set(await desired(model.id))).toEqual(new Set([first.id]));
    expect(await codeOf(remove(true))).toBe('not_found');
  });

  test('what devices would go back to is deleted by force only', async () => {
    const { model, first, rollout } = await scene({ initialRatio: 1 });
    const older = (await bench.service.store.list(model.id)).at(-1)?.id ?? 0;
    await expect(bench.service.commands.delete(model.id, older, false)).rejects.toMatchObject({
      code: 'wrong_state',
      reason: expect.stringContaining('go back to'),
    });
    await bench.service.commands.rollback(model.id, rollout.id, null, ME);
    expect(new Set(await desired(model.id))).toEqual(new Set([first.id]));
    await bench.service.commands.delete(model.id, older, true);
    expect(new Set(await desired(model.id))).toEqual(new Set([undefined]));
  });

  test('pages of affected devices go round the placements, by cursor and by offset, and name what devices said', async () => {
    const { rollout } = await scene({ initialRatio: 0.75 });
    const whole = await inShare(rollout);
    expect(whole).toHaveLength(15);
    const [first = ''] = whole;
    await say(first, rollout, { state: 'failed', problem: { code: 'activation_failed', message: 'no' } });
    const byCursor: string[] = [];
    for (let cursor: string | null = ''; cursor !== null; ) {
      const page = await bench.service.affectedDevices(rollout, {
        limit: 4,
        offset: 0,
        ...(cursor === '' ? {} : { cursor }),
      });
      expect(page).toMatchObject({ total: 15, totalIsExact: true });
      byCursor.push(...page.devices.map(({ id }) => id));
      cursor = page.nextCursor;
    }
    expect(byCursor).toEqual(whole);
    for (const offset of [0, 1, 7, 11, 14, 15, 99]) {
      const page = await bench.service.affectedDevices(rollout, { limit: 3, offset });
      expect(page.devices.map(({ id }) => id)).toEqual(whole.slice(offset, offset + 3));
    }
    const [shown] = (await bench.service.affectedDevices(rollout, { limit: 1, offset: 0 })).devices;
    expect(shown).toMatchObject({ id: first, state: 'failed', reason_code: 'activation_failed', current: true });
  });

  test('pages and totals of selectors name only the devices that match', async () => {
    const model = await newModel();
    const { version } = await bench.version('published', model);
    const [one = '', two = ''] = deviceIds;
    for (const [selector, expected] of [
      [{ devices: [one, two, randomUUID()] }, 2],
      [{ labels: { region: 'nowhere' } }, 0],
      [{ capabilities: { memoryBytes: { min: 1 } } }, 0],
    ] as const) {
      const rollout = await bench.service.commands.create(
        model,
        request(version, { initialRatio: 0.99, selector }),
        ME,
      );
      const whole = await bench.service.affectedDevices({ ...rollout, share_ratio: 1 }, { limit: 5, offset: 0 });
      expect([whole.devices.length, whole.total, whole.totalIsExact]).toEqual([expected, expected, true]);
      const counted = await bench.service.countAffected({ ...rollout, share_ratio: 1 });
      expect(counted).toEqual({ total: expected, totalIsExact: true });
      await bench.service.commands.delete(model.id, rollout.id, true);
    }
  });

  test('a device may have the files of what it should run or ran, and no others', async () => {
    const { first, second, rollout } = await scene({ initialRatio: 0.5 });
    const [inside = ''] = await inShare(rollout);
    const share = new Set(await inShare(rollout));
    const outside = deviceIds.find((id) => !share.has(id)) ?? '';
    const file = { objectKey: `objects/${second.id}`, sizeBytes: 5 };
    expect(await bench.service.desiredObject(inside, second.sha256)).toEqual(file);
    expect(await bench.service.desiredObject(inside, first.sha256)).toBeUndefined();
    expect(await bench.service.toldObject(inside, first.sha256)).toMatchObject({ objectKey: `objects/${first.id}` });
    expect(await bench.service.desiredObject(outside, second.sha256)).toBeUndefined();
    // Claiming to have run it opens nothing.
    await say(outside, rollout);
    expect(await bench.service.toldObject(outside, second.sha256)).toBeUndefined();
    await bench.service.commands.rollback(rollout.model_id, rollout.id, null, ME);
    expect(await bench.service.desiredObject(inside, second.sha256)).toBeUndefined();
    expect(await bench.service.toldObject(inside, second.sha256)).toEqual(file);
    const [
      {
        artifacts: [artifact],
      } = { artifacts: [] },
    ] = await bench.service
      .desiredState(inside)
      .then((models) => models.filter(({ modelId }) => modelId === rollout.model_id));
    expect(artifact).toEqual({ format: 'onnx', fileName: 'a_b_model.onnx', sha256: first.sha256, sizeBytes: 5 });
  });

  test('a rollout whose file is gone fails, and devices keep what they had', async () => {
    const { model, first, second, rollout } = await scene({ initialRatio: 0.5 });
    await bench.service.objectMissing('objects/of nobody');
    expect(await reload(rollout)).toMatchObject({ state: 'active' });
    await bench.service.objectMissing(`objects/${second.id}`);
    expect(await reload(rollout)).toMatchObject({ state: 'failed', reason_code: 'download_failed' });
    expect(new Set(await desired(model.id))).toEqual(new Set([first.id]));
    await expect(bench.service.commands.resume(model.id, rollout.id, null, ME)).rejects.toMatchObject({
      details: { status: 'failed' },
    });
  });

  test('a listener is told at once, again when something changes, and never the same twice in a row', async () => {
    const { rollout, first, second, model } = await scene({ initialRatio: 0.1 });
    const [deviceId = ''] = await inShare(rollout);
    const told: DesiredModels[] = [];
    const listener = {
      deviceId,
      organizationId: bench.organizationId,
      desire: (desired: DesiredModels) => {
        if (told.at(-1)?.digest !== desired.digest) told.push(desired);
      },
    };
    const last = () => told.at(-1)?.models.find(({ modelId }) => modelId === model.id)?.versionId;
    bench.service.opened(listener);
    await until(() => last() === second.id);
    await bench.service.commands.rollback(model.id, rollout.id, null, ME);
    await until(() => last() === first.id);
    // Rows that changed behind everybody's back: found by the sweep.
    await sql`update rollouts set state = 'failed' where model_id = ${model.id}`.execute(bench.database.kysely);
    await bench.service.sweep();
    await until(() => last() === undefined);
    bench.service.closed(listener);
    const count = told.length;
    const { version } = await bench.version('published', model);
    await bench.service.commands.create(model, request(version, { initialRatio: 1 }), ME);
    expect(told).toHaveLength(count);
  });

  test("a device's labels decide as soon as they change", async () => {
    const model = await newModel();
    const { id: versionId, version } = await bench.version('published', model);
    const [deviceId = ''] = deviceIds;
    const selector = { labels: { region: 'moved' } };
    await bench.service.commands.create(model, request(version, { initialRatio: 1, selector }), ME);
    const last = async () =>
      (await bench.service.desiredState(deviceId)).find(({ modelId }) => modelId === model.id)?.versionId;
    expect(await last()).toBeUndefined();
    await sql`update devices set labels = '{"region": "moved"}' where id = ${deviceId}`.execute(bench.database.kysely);
    bench.service.devicesChanged([deviceId]);
    expect(await last()).toBe(versionId);
    await sql`update devices set labels = '{}' where id = ${deviceId}`.execute(bench.database.kysely);
    bench.service.devicesChanged([deviceId]);
  });
});

async function until(done: () => boolean | Promise<boolean>): Promise<void> {
  for (let attempt = 0; attempt < 400; attempt++) {
    if (await done()) return;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  expect('what was waited for').toBe('so');
}
