import { writeFileSync } from 'node:fs';
import { readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { expect, test } from '@jest/globals';
import { AssignmentSchema } from '@octomil/proto';
import { encodedWidth, mergeStatistics, parseTargetRule } from '@octomil/shared/features';
import { initialWeights, parseArchitecture, seededRandom } from '@octomil/shared/models';
import { decodeWeights, encodeWeights } from '@octomil/shared/tensors';
import { DEFAULT_LOCAL_OPTIONS, InProcessTrainer, type OwnCode, runTask } from '@octomil/shared/training';
import { exportPersonalModel, listPersonalModels, removePersonalModel } from '../personal/personal-models.js';
import { type Bench, onBench } from '../testing/agent-under-test.js';
import { toTrainerTask } from './task.js';

/** A site with a table, and an agent that really trains on it. */
async function atSite(bench: Bench) {
  const path = join(bench.stateDir, 'site.csv');
  const random = seededRandom(4, 'table');
  const rows = Array.from({ length: 90 }, () => {
    const age = 50 + 10 * random.normal();
    return `${age.toFixed(1)},${(7 + random.normal()).toFixed(2)},${age + 5 * random.normal() > 50 ? 1 : 0}`;
  });
  writeFileSync(path, ['age,chol,sick', ...rows].join('\n'));
  const target = parseTargetRule('sick');
  const statistics = await runTask({ kind: 'describe', source: { path }, target });
  const featureSpec = mergeStatistics([{ deviceId: 'd', name: 'here', statistics }], { target });
  const architecture = parseArchitecture({ name: 'mlp', hidden: [6] });
  const base = encodeWeights(initialWeights(architecture, encodedWidth(featureSpec), 3));
  const start = () => bench.start({ data_sets: { default: { path } } }, { trainer: new InProcessTrainer() });
  let agent = await start();
  await agent.ready;
  const restart = async (): Promise<void> => {
    await agent.stop();
    agent = await start();
    await agent.ready;
  };
  const task = {
    trainer: 'tfjs',
    architecture,
    featureSpec,
    holdout: { salt: 's', shareRatio: 0.3 },
    options: { ...DEFAULT_LOCAL_OPTIONS, learningRate: 0.05 },
  };
  const object = bench.coordinator.addObject(Buffer.from(base));
  const round = async (
    number: number,
    json: object,
  ): Promise<{ update: Uint8Array; metrics: Record<string, unknown> }> => {
    const { coordinator } = bench;
    const id = `round-${number}`;
    coordinator.assign({
      ref: { assignmentId: id, attempt: 1 },
      sessionId: 's1',
      roundNumber: number,
      base: object,
      taskJson: JSON.stringify({ ...task, ...json }),
    });
    await coordinator.until(() => coordinator.updates.has(id) || coordinator.of('assignmentFailure').length > 0);
    const sent = coordinator.updates.get(id);
    expect(coordinator.of('assignmentFailure')).toEqual([]);
    return { update: sent?.bytes ?? new Uint8Array(), metrics: JSON.parse(sent?.header.metricsJson ?? '{}') };
  };
  return { round, restart, base, path, task };
}

const FEDPER = { personalization: { method: 'fedper', headLayers: ['output'] } };

test('what stays is not in what the coordinator gets, the audit log names it, and it is kept over a restart', () =>
  onBench(async (bench) => {
    const { round, restart, base } = await atSite(bench);
    const first = await round(1, FEDPER);
    const tensors = decodeWeights(first.update);
    expect(tensors.map(({ name }) => name)).toEqual(decodeWeights(base).map(({ name }) => name));
    for (const { name, data } of tensors) {
      expect([name, data.some((value) => value !== 0)]).toEqual([name, name.startsWith('dense_1/')]);
    }
    const stayed = ['output/bias', 'output/kernel'];
    expect(first.metrics['personalization']).toEqual({ method: 'fedper', stayed, startedFrom: 'base' });
    const updates = (await bench.audit()).filter(({ kind }) => kind === 'update');
    expect(updates).toMatchObject([{ details: { stayed, format: 'delta' } }]);

    const [kept] = await listPersonalModels(bench.stateDir);
    expect(kept?.record).toMatchObject({ federation: 'heart', model: 'risk', dataSet: 'default', method: 'fedper' });
    const folder = join(bench.stateDir, 'personal');
    if (process.platform !== 'win32') expect((await stat(folder)).mode & 0o777).toBe(0o700);

    await restart();
    const second = await round(2, FEDPER);
    expect(second.metrics['personalization']).toMatchObject({ startedFrom: 'kept' });
    expect((await listPersonalModels(bench.stateDir))[0]?.record?.current).toMatchObject({ rounds: 2, roundNumber: 2 });

    // Lost: the round starts from the base and both sides are told.
    for (const name of await readdir(kept?.path ?? ''))
      if (name.endsWith('.safetensors')) await rm(join(kept?.path ?? '', name));
    const third = await round(3, FEDPER);
    const reason = expect.stringMatching(/damaged or lost/);
    expect(third.metrics['personalization']).toMatchObject({ startedFrom: 'base', reason });
    expect(bench.log).toContainEqual(expect.objectContaining({ level: 'warn', message: reason }));
  }));

test("ditto's metrics go beside the global ones; its model is exported, evaluated like any other, and removed", () =>
  onBench(async (bench) => {
    const { round, path, task } = await atSite(bench);
    const { metrics } = await round(1, { personalization: { method: 'ditto', lambda: 0.2 } });
    expect(metrics['personal']).toMatchObject({ count: (metrics['evaluation'] as { count: number }).count });
    expect(metrics['personal']).not.toEqual(metrics['evaluation']);
    expect((await bench.audit()).filter(({ kind }) => kind === 'update')).toMatchObject([
      { details: { stayed: ['the personal model'], metrics: { personal: { count: expect.any(Number) } } } },
    ]);
    const [{ id } = { id: '' }] = await listPersonalModels(bench.stateDir);
    const output = join(bench.stateDir, 'exported');
    const paths = await exportPersonalModel(bench.stateDir, id, output);
    const { architecture, featureSpec, holdout } = task;
    const evaluation = await runTask({
      kind: 'evaluate',
      source: { path },
      ...{ architecture, featureSpec, holdout, weightsPath: paths.weightsPath },
    });
    expect(evaluation).toEqual(metrics['personal']);
    const width = encodedWidth(featureSpec);
    const predicted = await runTask({ kind: 'predict', ...paths, rows: [new Array<number>(width).fill(0.5)] });
    expect(predicted.outputs[0]).toHaveLength(1);
    await expect(exportPersonalModel(bench.stateDir, id, output)).rejects.toThrow(/is not empty/);
    await removePersonalModel(bench.stateDir, id);
    expect(await listPersonalModels(bench.stateDir)).toEqual([]);
    await expect(exportPersonalModel(bench.stateDir, id, output)).rejects.toMatchObject({ code: 'not_found' });
  }));

test('layers of the site are exported in the place of those of a version', () =>
  onBench(async (bench) => {
    const { round, base } = await atSite(bench);
    await round(1, FEDPER);
    const [{ id, path } = { id: '', path: '' }] = await listPersonalModels(bench.stateDir);
    const output = join(bench.stateDir, 'exported');
    await expect(exportPersonalModel(bench.stateDir, id, output)).rejects.toThrow(/name the weights of a version/);
    const version = join(bench.stateDir, 'version.safetensors');
    await writeFile(version, base);
    const { weightsPath } = await exportPersonalModel(bench.stateDir, id, output, version);
    const own = new Map<string, Float32Array>();
    for (const name of await readdir(path)) {
      if (!name.endsWith('.safetensors')) continue;
      for (const { name: tensor, data } of decodeWeights(await readFile(join(path, name)))) own.set(tensor, data);
    }
    const before = new Map(decodeWeights(base).map(({ name, data }) => [name, data]));
    for (const { name, data } of decodeWeights(await readFile(weightsPath))) {
      expect([...data]).toEqual([...(own.get(name) ?? before.get(name) ?? [])]);
    }
    const other = join(bench.stateDir, 'other.safetensors');
    await writeFile(other, encodeWeights([{ name: 'x', shape: [1], data: Float32Array.of(1) }]));
    await expect(exportPersonalModel(bench.stateDir, id, join(output, 'b'), other)).rejects.toMatchObject({
      code: 'data_mismatch',
    });
  }));

test.each(['echo', 'pytorch', 'tfjs'])('code other than ours is refused with a personalization: %s', (trainer) => {
  const own = { code: { name: trainer, path: '/code' } as unknown as OwnCode, sha256: '', workPath: '' };
  const assignment = create(AssignmentSchema, { kind: 'train', updateFormat: 'delta' });
  const places = { source: { path: 'x' }, basePath: '', outputPath: '', personal: { path: '/p', dataSet: 'd' } };
  expect(() =>
    toTrainerTask(assignment, { trainer, ...FEDPER }, { ...places, ...(trainer === 'echo' ? {} : { own }) }),
  ).toThrow(new RegExp(`personalization "fedper" needs the trainer tfjs; "${trainer}" trains here`));
});
