import { fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { encodedWidth, type FeatureSpec, mergeStatistics, parseTargetRule } from '@octomil/shared/features';
import { initialWeights, parseArchitecture, seededRandom } from '@octomil/shared/models';
import { entryPoint } from '@octomil/shared/runtime';
import { decodeWeights, encodeWeights } from '@octomil/shared/tensors';
import { InProcessTrainer } from './in-process-trainer.js';
import { DEFAULT_LOCAL_OPTIONS } from './local-options.js';
import { runTask } from './run-task.js';
import type { TfjsTrainTask } from './task.js';
import { TrainerSupervisor } from './trainer-supervisor.js';

let folder: string;
let csv: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'run-task-'));
  const random = seededRandom(4, 'table');
  const lines = Array.from({ length: 300 }, () => {
    const age = 50 + 10 * random.normal();
    const sick = age + 8 * random.normal() > 52 ? 1 : 0;
    return `${age.toFixed(1)},${random.uniform() < 0.5 ? 'f' : 'm'},${sick}`;
  });
  csv = join(folder, 'site.csv');
  await writeFile(csv, ['age,sex,sick', ...lines].join('\n'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function specOf(path: string, target: string, missingMarkers = {}): Promise<FeatureSpec> {
  const rule = parseTargetRule(target);
  const statistics = await runTask({ kind: 'describe', source: { path }, target: rule, missingMarkers });
  return mergeStatistics([{ deviceId: 'd1', name: 'one', statistics }], { target: rule, missingMarkers });
}

async function taskFor(path: string, spec: FeatureSpec, options = {}): Promise<TfjsTrainTask> {
  const architecture = parseArchitecture({ name: 'mlp', hidden: [8] });
  const basePath = join(folder, 'base.safetensors');
  await writeFile(basePath, encodeWeights(initialWeights(architecture, encodedWidth(spec), 3)));
  return {
    kind: 'train',
    trainer: 'tfjs',
    architecture,
    featureSpec: spec,
    source: { path },
    basePath,
    outputPath: join(folder, 'update.safetensors'),
    updateFormat: 'weights',
    options: { ...DEFAULT_LOCAL_OPTIONS, epochs: 10, seed: 9, ...options },
    holdout: { salt: 'salt', shareRatio: 0.25 },
  };
}

test('a table is described, trained on and evaluated, alike in this process and in its own', async () => {
  const task = await taskFor(csv, await specOf(csv, 'sick'));
  const inProcess = new InProcessTrainer();
  const here = await inProcess.run(task);
  const update = await readFile(task.outputPath);
  expect(here.sampleCount).toBeGreaterThan(150);
  expect(here.sampleCount + (here.evaluation?.count ?? 0)).toBe(300);

  const after = await inProcess.run({ ...task, kind: 'evaluate', weightsPath: task.outputPath });
  expect(after?.count).toBe(here.evaluation?.count);
  expect(after?.loss).toBeLessThan(here.evaluation?.loss ?? 0);
  expect(after?.auc).toBeGreaterThan(0.8);
  await inProcess.stop();

  const supervisor = new TrainerSupervisor();
  const steps: number[] = [];
  const there = await supervisor.run(task, { onProgress: ({ step }) => steps.push(step) });
  await supervisor.stop();
  expect(there).toEqual(here);
  expect((await readFile(task.outputPath)).equals(update)).toBe(true);
  expect(steps.at(-1)).toBe(there.steps);
}, 180_000);

test('a cancelled training stops in its process, which stays; no update is left', async () => {
  const task = await taskFor(csv, await specOf(csv, 'sick'), { epochs: 10_000, batchSize: 10 });
  const outputPath = join(folder, 'cancelled.safetensors');
  const supervisor = new TrainerSupervisor({ graceMs: 60_000 });
  const controller = new AbortController();
  const run = supervisor.run(
    { ...task, outputPath },
    { signal: controller.signal, onProgress: () => controller.abort() },
  );
  await expect(run).rejects.toMatchObject({ code: 'cancelled' });
  expect(supervisor.pid).toBeDefined();
  expect(existsSync(outputPath)).toBe(false);
  await supervisor.stop();
}, 180_000);

test('trainers that share this process do not disturb each other', async () => {
  const task = await taskFor(csv, await specOf(csv, 'sick'), { epochs: 3 });
  const alone = await runTask(task);
  const trainers = [new InProcessTrainer(), new InProcessTrainer(), new InProcessTrainer()];
  const together = await Promise.all(
    trainers.map((trainer, index) => trainer.run({ ...task, outputPath: join(folder, `together-${index}`) })),
  );
  for (const { update } of together) expect(update.sha256).toBe(alone.update.sha256);
  await Promise.all(trainers.map((trainer) => trainer.stop()));
});

test('fewer than 10 rows to train on are refused', async () => {
  const task = await taskFor(csv, await specOf(csv, 'sick'));
  const few = join(folder, 'few.csv');
  await writeFile(
    few,
    ['age,sex,sick', ...Array.from({ length: 9 }, (_, row) => `${40 + row},f,${row % 2}`)].join('\n'),
  );
  // How many there are stays at the site.
  await expect(runTask({ ...task, source: { path: few } })).rejects.toMatchObject({
    code: 'too_few_rows',
    reason: expect.stringContaining('has fewer than 10 rows to train on'),
    details: { limit: 10 },
  });
});

test('a feature spec or an architecture that is none is refused before the table is read', async () => {
  const task = await taskFor(csv, await specOf(csv, 'sick'));
  const { featureSpec, architecture } = task;
  const [first] = featureSpec.columns;
  const changed = { ...featureSpec, columns: [{ ...first, deviation: 0 }] } as unknown as FeatureSpec;
  // Kept rows are found by the hash: another spec under it would be given rows that are not its own.
  const renamed = { ...featureSpec, layout: 'grid' as const };
  const wrong = { ...architecture, hidden: [-1] } as TfjsTrainTask['architecture'];
  for (const part of [{ featureSpec: changed }, { featureSpec: renamed }, { architecture: wrong }]) {
    const asked = runTask({ ...task, ...part, source: { path: join(folder, 'missing.csv') } });
    await expect(asked).rejects.toMatchObject({ code: 'invalid_input' });
  }
});

test('the trainer process ends by itself when its parent is gone', async () => {
  const { path, execArgv } = entryPoint(import.meta.url, 'trainer-process');
  const child = fork(path, { execArgv, serialization: 'advanced' });
  const exited = once(child, 'exit');
  child.disconnect();
  expect(await exited).toEqual([0, null]);
});

test('a delta is the trained weights minus the base', async () => {
  const task = await taskFor(csv, await specOf(csv, 'sick'));
  await runTask(task);
  const weights = decodeWeights(await readFile(task.outputPath));
  await runTask({ ...task, updateFormat: 'delta' });
  const delta = decodeWeights(await readFile(task.outputPath));
  const base = decodeWeights(await readFile(task.basePath));
  weights.forEach(({ name, data }, index) => {
    expect(delta[index]?.name).toBe(name);
    expect(delta[index]?.data).toEqual(data.map((value, at) => value - (base[index]?.data[at] ?? 0)));
  });
});

test('a base of another model is refused with the first difference', async () => {
  const task = await taskFor(csv, await specOf(csv, 'sick'));
  const architecture = parseArchitecture({ name: 'mlp', hidden: [9] });
  await expect(runTask({ ...task, architecture })).rejects.toMatchObject({
    code: 'data_mismatch',
    reason: expect.stringMatching(/dense_1\/bias.*\[8\], expected \[9\]/),
  });
});

test('an output that the target does not have is refused before anything is read', async () => {
  const task = await taskFor(csv, await specOf(csv, 'sick'));
  const architecture = parseArchitecture({ name: 'logistic', output: { kind: 'regression' } });
  await expect(runTask({ ...task, architecture, source: { path: 'absent.csv' } })).rejects.toMatchObject({
    code: 'data_mismatch',
    reason: "the model's output is regression, but the feature spec's target is binary",
  });
});

const cleveland = '../shared/data/heart-disease/cleveland.csv';
const testWithData = existsSync(cleveland) ? test : test.skip;

testWithData(
  `${cleveland}: a site alone predicts heart disease on rows that it has not seen`,
  async () => {
    const spec = await specOf(cleveland, 'num>0');
    const task = await taskFor(cleveland, spec, { epochs: 20 });
    const trainer = new InProcessTrainer();
    await trainer.run(task);
    const metrics = await trainer.run({ ...task, kind: 'evaluate', weightsPath: task.outputPath });
    await trainer.stop();
    expect(metrics?.auc).toBeGreaterThan(0.75);
  },
  180_000,
);
