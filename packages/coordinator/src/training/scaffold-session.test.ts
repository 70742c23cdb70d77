import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import type { SiteStatistics } from '@octomil/shared/features';
import { controlledUpdateLayout, encodeFlat, flatView, layoutOf, parseLayout } from '@octomil/shared/tensors';
import { sql } from 'kysely';
import { describeOnDatabases } from '../testing/databases.js';
import type { Verdict } from './assignment-port.js';
import { controlStep, requireControllable } from './control-variates.js';
import type { TrainingEngine } from './engine.js';
import { parseSessionConfig } from './session-config.js';
import { assignmentOf, type Fixture, headerOf, keyOf, openFixture, until } from './testing/training-fixture.js';

const column = (name: string) => ({
  ...{ name, seen: 'numeric' as const, count: 100, missing: 0, zeros: 0, levels: null, categories: [], other: 0 },
  moments: { count: 100, mean: 50, deviation: 2 },
});
const STATISTICS: SiteStatistics = {
  formatVersion: 1,
  rows: 100,
  columns: [column('age'), column('chol')],
  excluded: [],
  target: {
    ...{ column: 'num', seen: 'integer' as const, count: 100, missing: 0, other: 0, moments: null },
    classes: [
      { value: '0', count: 50 },
      { value: '1', count: 50 },
    ],
  },
};

interface Task {
  readonly options: { readonly optimizer: string };
  readonly controlVariates: {
    readonly server?: { readonly sha256: string; readonly sizeBytes: number };
    readonly ofUpdate?: string;
  };
}

describeOnDatabases('Sessions with SCAFFOLD', (open) => {
  let on: Fixture;
  let engine: TrainingEngine;
  let a: string;
  let b: string;
  beforeEach(async () => {
    on = await openFixture(open);
    engine = await on.engine();
    a = await on.device('a');
    b = await on.device('b');
  }, 180_000);
  afterEach(() => on.close());

  const BODY = {
    ...{ trainer: 'tfjs', target: 'num>0', rounds: 3, architecture: 'logistic', strategy: 'scaffold' },
    ...{ min_updates: 2 },
  };

  async function kindOf(device: string, wanted: string, number?: number): Promise<void> {
    await until(async () => {
      const [open] = await engine.assignments.openAssignments(device);
      return open?.kind === wanted && (number === undefined || open.roundNumber === number);
    });
  }

  async function begin(devices: readonly string[], body: object = {}): Promise<string> {
    const session = await on.session(engine, { ...BODY, ...body });
    for (const device of devices) {
      await kindOf(device, 'describe');
      await engine.assignments.report(device, keyOf(await assignmentOf(engine, device)), STATISTICS);
    }
    await kindOf(a, 'train');
    return session;
  }

  const taskOf = async (device: string): Promise<Task> =>
    JSON.parse((await assignmentOf(engine, device)).taskJson) as Task;

  async function updateOf(device: string, control: number, weights = 0.5): Promise<Uint8Array> {
    const { base } = await assignmentOf(engine, device);
    const { objectKey } = await engine.assignments.baseObject(device, base?.sha256 ?? '');
    const file = await on.objects.localFile(objectKey);
    const model = await layoutIn(file.path);
    await file.release();
    const both = controlledUpdateLayout(model);
    const values = Float32Array.from({ length: both.totalParams }, (_, at) =>
      at < model.totalParams ? control : weights,
    );
    return encodeFlat(both, values);
  }

  async function layoutIn(path: string) {
    return parseLayout(await readFile(path));
  }

  async function send(device: string, bytes: Uint8Array, metrics: object = {}): Promise<[string, Verdict]> {
    const header = headerOf(keyOf(await assignmentOf(engine, device)), bytes, {
      metrics: { trainLoss: 0.5, ...metrics },
      // Counts of rows weigh nothing here.
      sampleCount: device === a ? 10 : 90,
    });
    return [header.sha256, await engine.assignments.submitUpdate(device, header, { bytes })];
  }

  async function serverOf(device: string): Promise<number[]> {
    const { server } = (await taskOf(device)).controlVariates;
    const { objectKey, sizeBytes } = await engine.assignments.baseObject(device, server?.sha256 ?? '');
    expect(sizeBytes).toBe(server?.sizeBytes);
    const file = await on.objects.localFile(objectKey);
    const bytes = await readFile(file.path);
    await file.release();
    return [...flatView(bytes, parseLayout(bytes))];
  }

  test('sites are told the server’s control variate and which of theirs it counts on; the version is the model alone', async () => {
    // It takes part in nothing here, and counts as one that could.
    await on.device('c', { online: false });
    const session = await begin([a, b]);
    const first = await taskOf(a);
    expect(first).toMatchObject({ options: { optimizer: 'sgd' }, controlVariates: {} });
    expect(first.controlVariates).toEqual({});
    const [ofA, verdict] = await send(a, await updateOf(a, 3));
    expect(verdict).toEqual({ accepted: true });
    const [ofB] = await send(b, await updateOf(b, 6));
    await kindOf(a, 'train', 2);
    expect((await taskOf(a)).controlVariates).toMatchObject({ ofUpdate: ofA });
    expect((await taskOf(b)).controlVariates).toMatchObject({ ofUpdate: ofB });
    // 2 of 3 took part: 2/3 of the mean.
    expect(await serverOf(a)).toEqual([3, 3, 3]);

    // Another coordinator goes on from the same, even where one before it has not measured the control variate.
    await engine.stop();
    await sql`update checkpoints set lineage = lineage #- '{control,normL2}' where session_id = ${session}`.execute(
      on.database.kysely,
    );
    engine = await on.engine();
    expect(await serverOf(b)).toEqual([3, 3, 3]);
    for (const round of [2, 3]) {
      await kindOf(a, 'train', round);
      await kindOf(b, 'train', round);
      expect((await send(a, await updateOf(a, -3, round === 2 ? 0 : 1)))[1]).toEqual({ accepted: true });
      await send(b, await updateOf(b, 0, round));
    }
    await kindOf(a, 'evaluate');
    expect(JSON.parse((await assignmentOf(engine, a)).taskJson)).not.toHaveProperty('controlVariates');
    for (const device of [a, b]) {
      await engine.assignments.report(device, keyOf(await assignmentOf(engine, device)), null);
    }
    await until(async () => (await on.state(session)).state === 'completed');
    const version = await on.registry.baseFor(on.modelId, undefined);
    const file = await on.objects.localFile(version?.weights.objectKey ?? '');
    const { tensors } = await layoutIn(file.path);
    await file.release();
    expect(tensors.map(({ name }) => name.replace(/^.*\//, '')).sort()).toEqual(['bias', 'kernel']);
    const rounds = await engine.store.rounds(session);
    expect(rounds.find(({ number }) => number === 1)?.metrics).toMatchObject({
      control_variates: { devices: 3, restarted: false },
    });

    // Another session starts with zeros on both sides.
    await on.session(engine, { ...BODY, target: null, architecture: null, rounds: 1 });
    await kindOf(a, 'train', 1);
    expect((await taskOf(a)).controlVariates).toEqual({});
  }, 240_000);

  test('an update that was accepted in an attempt that failed is not counted on', async () => {
    const session = await begin([a, b]);
    await send(a, await updateOf(a, 3));
    await on.setOnline(b, false);
    await sql`update rounds set deadline_at = now() where session_id = ${session} and number = 1`.execute(
      on.database.kysely,
    );
    await engine.sweep();
    await on.setOnline(b, true);
    await engine.sweep();
    await until(async () => (await on.rounds(session)).some(({ number, attempt }) => number === 1 && attempt === 2));
    await engine.sweep();
    await kindOf(a, 'train', 1);
    expect((await taskOf(a)).controlVariates).toEqual({});
    const [again] = await send(a, await updateOf(a, 4));
    await send(b, await updateOf(b, 4));
    await kindOf(a, 'train', 2);
    expect((await taskOf(a)).controlVariates.ofUpdate).toBe(again);
    expect(await serverOf(a)).toEqual([4, 4, 4]);
  }, 240_000);

  test('when a site has lost its control variate, all start over', async () => {
    await begin([a, b]);
    await send(a, await updateOf(a, 3));
    await send(b, await updateOf(b, 3));
    await kindOf(a, 'train', 2);
    await send(a, await updateOf(a, 5), { controlVariateLost: true });
    await send(b, await updateOf(b, 5));
    await kindOf(a, 'train', 3);
    await kindOf(b, 'train', 3);
    expect(await serverOf(a)).toEqual([0, 0, 0]);
    expect((await taskOf(a)).controlVariates).not.toHaveProperty('ofUpdate');
    expect((await taskOf(b)).controlVariates).not.toHaveProperty('ofUpdate');
  }, 240_000);

  test('updates of one half, of numbers that are none and beyond the norm are rejected', async () => {
    await begin([a, b], { max_update_norm: 2 });
    // Who can take the place of the first that is refused, or the round would be over. Not before: two are asked, of three any.
    await on.device('c');
    const model = layoutOf([
      { name: 'output/bias', shape: [1] },
      { name: 'output/kernel', shape: [2, 1] },
    ]);
    const [, half] = await send(a, encodeFlat(model, new Float32Array(3)));
    expect(half).toMatchObject({ accepted: false, reason: { code: 'update_rejected' } });
    const [, spoiled] = await send(b, await updateOf(b, Number.NaN));
    expect(spoiled).toMatchObject({ accepted: false, reason: { message: expect.stringMatching(/controlVariate/) } });
  }, 240_000);

  test('the limit on the norm is one on the weights, and by them on the control variate', async () => {
    await begin([a, b], { max_update_norm: 2, local: { learning_rate: 0.01, epochs: 5 } });
    // Weights that move by 1 in 5 steps of 0.01 say of the gradient that it is 20.
    const [, large] = await send(a, await updateOf(a, 20, 1));
    expect(large).toEqual({ accepted: true });
    const [, far] = await send(b, await updateOf(b, 0, 10));
    expect(far).toMatchObject({ accepted: false, reason: { message: expect.stringMatching(/norm/) } });
  }, 240_000);

  test('no control variate moves further from the server’s than the weights allow', async () => {
    await begin([a, b], { local: { learning_rate: 0.01, epochs: 1_000, max_steps: 5 } });
    const huge = await updateOf(a, 3e38, 1);
    const [, refused] = await send(a, huge);
    const reason = {
      code: 'update_rejected',
      message: expect.stringMatching(/control variate has a norm of [\d.]+e\+38/),
    };
    expect(refused).toMatchObject({ accepted: false, reason });
  }, 240_000);

  test('nor in a file that was uploaded by itself', async () => {
    await begin([a, b], { local: { learning_rate: 0.01, epochs: 1_000, max_steps: 5 } });
    const folder = await mkdtemp(join(tmpdir(), 'octomil-scaffold-test-'));
    const path = join(folder, 'update');
    await writeFile(path, await updateOf(b, 21, 1));
    const bytes = await readFile(path);
    const header = headerOf(keyOf(await assignmentOf(engine, b)), bytes);
    const sent = await engine.assignments.submitUpdate(b, header, { path, sha256: header.sha256 });
    await rm(folder, { recursive: true });
    expect(sent).toMatchObject({
      accepted: false,
      reason: { message: expect.stringMatching(/in at least 5 steps/) },
    });
  }, 240_000);

  test('the server’s own counts for the limit, since a site’s change begins by taking it off', async () => {
    await begin([a, b], { local: { learning_rate: 0.1 } });
    for (const device of [a, b]) await send(device, await updateOf(device, 4, 0.5));
    await kindOf(a, 'train', 2);
    expect((await send(a, await updateOf(a, -4, 0)))[1]).toEqual({ accepted: true });
    await kindOf(b, 'train', 2);
    expect((await send(b, await updateOf(b, -5, 0)))[1]).toMatchObject({ accepted: false });
  }, 240_000);

  test('who has nothing to lose is not believed', async () => {
    await begin([a, b], { rounds: 10 });
    const lost = { controlVariateLost: true };
    const [, first] = await send(a, await updateOf(a, 3), lost);
    expect(first).toMatchObject({
      accepted: false,
      reason: { message: expect.stringMatching(/no control variate/) },
    });
  }, 240_000);

  test('a device that makes all start over again and again is refused, with what to do', async () => {
    await begin([a, b], { rounds: 10 });
    for (let round = 1; round <= 8; round++) {
      await kindOf(a, 'train', round);
      await kindOf(b, 'train', round);
      const { ofUpdate } = (await taskOf(a)).controlVariates;
      const [, verdict] = await send(a, await updateOf(a, 0, round), { controlVariateLost: ofUpdate !== undefined });
      if (round < 8) expect(verdict).toEqual({ accepted: true });
      else {
        const message = expect.stringMatching(/lost its control variate 3 times.*state_dir/);
        expect(verdict).toMatchObject({ accepted: false, reason: { code: 'update_rejected', message } });
      }
      // With the last one refused there are too few, and the round is over.
      if (round < 8) await send(b, await updateOf(b, 0, round));
    }
  }, 240_000);

  test('agents that do not know it are left out, and a session that needs them says so', async () => {
    await on.device('old', { capabilities: { trainers: ['tfjs', 'echo'] } });
    const session = on.session(engine, { ...BODY, min_updates: 3 });
    await expect(session).rejects.toThrow(
      /insufficient_devices.*old: its agent does not know the strategy "scaffold"/s,
    );
    await expect(on.session(engine, { ...BODY, strategy: 'fedavg', min_updates: 3 })).resolves.toBeDefined();
  });

  test('what it cannot be combined with is refused when the session is asked for', async () => {
    await expect(on.session(engine, { ...BODY, trainer: 'echo' })).rejects.toThrow(/training_not_supported/);
  });

  test('aggregating what clients uploaded unasked cannot be by scaffold', async () => {
    const asked = engine.open.aggregate.aggregate(
      { model_id: on.modelId, strategy: 'scaffold' },
      { organizationId: on.organizationId, name: 'test' },
    );
    await expect(asked).rejects.toThrow(/training_not_supported.*scaffold/);
  });
});

test('the mean shrinks by devices that joined, and does not grow by those that left', () => {
  const answers = [{ metrics: {} }, { metrics: {} }];
  const base = { control: { sha256: '', sizeBytes: 0, population: 4 } };
  expect(controlStep(answers, 8, base).shares).toEqual({ stateShare: 0.5, updateShare: 0.25 });
  expect(controlStep(answers, 3, base).shares).toEqual({ stateShare: 1, updateShare: 2 / 3 });
  expect(controlStep(answers, 1, {})).toMatchObject({ population: 2, shares: { stateShare: 1, updateShare: 1 } });
});

test.each([
  [{ trainer: 'echo' }, /training_not_supported.*"tfjs", not "echo"/],
  [{ trainer: 'own' }, /training_not_supported.*"tfjs", not "own"/],
  [{ admission: 'open' }, /training_not_supported.*"open"/],
  [{ update_format: 'weights' }, /invalid_input.*update_format/],
  [{ local: { optimizer: 'adam' } }, /invalid_input.*local\.optimizer.*"adam"/],
  [{ local: { optimizer: 'momentum' } }, /invalid_input.*local\.optimizer/],
  [{ local: { proximal_mu: 0.1 } }, /invalid_input.*proximal_mu/],
  [{ local: { early_stop: { patience: 2 } } }, /invalid_input.*early_stop/],
  [{ personalization: { method: 'fedbn' } }, /training_not_supported.*fedbn/],
  [{ strategy_options: { serverLearningRate: 0 } }, /invalid_input.*serverLearningRate/],
])('refuses %j', (change, message) => {
  const body = { model: 'm', strategy: 'scaffold', ...change };
  expect(() => requireControllable(parseSessionConfig(body).config)).toThrow(message);
});
