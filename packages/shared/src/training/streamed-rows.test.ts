import { spawnSync } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import {
  encodedWidth,
  type FeatureSpec,
  loadDataset,
  mergeStatistics,
  parseTargetRule,
} from '@octomil/shared/features';
import { initialWeights, parseArchitecture, seededRandom } from '@octomil/shared/models';
import { encodeWeights } from '@octomil/shared/tensors';
import { DatasetCache } from './dataset-cache.js';
import { DEFAULT_LOCAL_OPTIONS } from './local-options.js';
import { writeRowsAsParquet, writeRowsAsTensors } from './own-code/encoded-rows.js';
import { runTask } from './run-task.js';
import type { TfjsTrainTask } from './task.js';
import { TrainerSupervisor } from './trainer-supervisor.js';

const MEMORY = { rowsBytes: 60_000, readerBytes: 2 ** 28 };
const HOLDOUT = { salt: 'salt', shareRatio: 0.25 };

let folder: string;
let task: TfjsTrainTask;
let supervisor: TrainerSupervisor | undefined;
afterEach(() => supervisor?.stop());
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'streamed-rows-'));
  task = await taskFor(await writeTable(4_000, 8));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Columns of numbers, and of words that take 31 inputs each. */
async function writeTable(rows: number, columns: number, words = 0): Promise<string> {
  const random = seededRandom(7, 'table');
  const path = join(folder, `table-${rows}-${columns}.csv`);
  const names = Array.from({ length: columns }, (_, column) => `c${column}`);
  const lines = Array.from({ length: rows }, () => {
    const cells = names.map(() => random.normal().toFixed(4));
    const said = Array.from({ length: words }, () => `w${Math.floor(random.uniform() * 30)}`);
    return [...cells, ...said, random.uniform() < 0.5 ? 'f' : 'm', Number(cells[0]) > 0 ? 1 : 0].join(',');
  });
  const said = Array.from({ length: words }, (_, column) => `word${column}`);
  await writeFile(path, [[...names, ...said, 'sex', 'sick'].join(','), ...lines].join('\n'));
  return path;
}

async function specOf(path: string): Promise<FeatureSpec> {
  const target = parseTargetRule('sick');
  const statistics = await runTask({ kind: 'describe', source: { path }, target });
  return mergeStatistics([{ deviceId: 'd', name: 'one', statistics }], { target, missingMarkers: {} });
}

async function taskFor(path: string): Promise<TfjsTrainTask> {
  const featureSpec = await specOf(path);
  const architecture = parseArchitecture({ name: 'mlp', hidden: [8] });
  const basePath = `${path}.safetensors`;
  await writeFile(basePath, encodeWeights(initialWeights(architecture, encodedWidth(featureSpec), 3)));
  return {
    kind: 'train',
    trainer: 'tfjs',
    architecture,
    featureSpec,
    source: { path },
    basePath,
    outputPath: join(folder, 'update.safetensors'),
    updateFormat: 'weights',
    options: { ...DEFAULT_LOCAL_OPTIONS, epochs: 3, seed: 9 },
    holdout: HOLDOUT,
  };
}

/** A cache whose rows do not fit into memory. */
class StreamingCache extends DatasetCache {
  readonly kinds = new Set<string>();

  override async load(...[request, resources]: Parameters<DatasetCache['load']>) {
    const loaded = await super.load(request, { ...resources, memory: MEMORY });
    for (const side of [loaded.train, loaded.heldOut]) this.kinds.add(side.constructor.name);
    return loaded;
  }
}

test('training from a file gives the weights, the loss and the metrics of training in memory, to the byte', async () => {
  const inMemory = await runTask(task);
  const datasets = new StreamingCache();
  for (const round of [1, 2]) {
    const outputPath = join(folder, `streamed-${round}`);
    const streamed = await runTask({ ...task, outputPath }, { datasets });
    expect(streamed).toEqual({ ...inMemory, update: { ...inMemory.update, path: outputPath } });
  }
  const evaluation = { ...task, kind: 'evaluate', weightsPath: task.outputPath } as const;
  expect(await runTask(evaluation, { datasets })).toEqual(await runTask(evaluation));
  expect(datasets.kinds).toEqual(new Set(['FileDataset']));
  await datasets.close();
}, 180_000);

test('what is handed to own code is the same to the byte', async () => {
  const { source, featureSpec } = task;
  const memory = await loadDataset(source, featureSpec, HOLDOUT);
  const streamed = await loadDataset(source, featureSpec, HOLDOUT, { memory: MEMORY, folder });
  const written = async (data: typeof memory.train, name: string): Promise<Buffer[]> => {
    const [parquet, tensors] = [join(folder, `${name}.parquet`), join(folder, `${name}.safetensors`)];
    await writeRowsAsParquet(parquet, folder, data, MEMORY);
    await writeRowsAsTensors(tensors, data);
    return Promise.all([readFile(parquet), readFile(tensors)]);
  };
  expect(streamed.train.constructor.name).toBe('FileDataset');
  const [wanted, given] = [await written(memory.train, 'memory'), await written(streamed.train, 'streamed')];
  expect(given.map((bytes, index) => bytes.equals(wanted[index] ?? Buffer.of()))).toEqual([true, true]);
  await streamed.train.close();
  await streamed.heldOut.close();
});

test('the next data set takes the room of the last; without a cache nothing stays open', async () => {
  const open = async (): Promise<number> => (await readdir('/proc/self/fd').catch(() => [])).length;
  const datasets = new StreamingCache();
  await runTask(task, { datasets });
  const before = await open();
  const other = { ...task, holdout: { ...HOLDOUT, salt: 'pepper' } };
  await runTask(other, { datasets });
  expect(await open()).toBe(before);
  await datasets.close();
  expect(await open()).toBeLessThanOrEqual(before);
});

test('a trainer process that takes more memory than it may is ended; the next task has a new one', async () => {
  const path = join(folder, 'eats.mjs');
  await writeFile(
    path,
    `process.on('disconnect', () => process.exit(0));
     const held = [];
     process.on('message', ({ type, id, task }) => {
       if (type !== 'run') return;
       if (task.basePath === 'buffers') setInterval(() => held.push(Buffer.alloc(40_000_000, 1)), 20);
       else if (task.basePath === 'heap') for (;;) held.push(Array.from({ length: 1_000 }, Math.random));
       else process.send({ type: 'result', id, result: { pid: process.pid } });
     });`,
  );
  supervisor = new TrainerSupervisor({ entry: { path, execArgv: [] }, memoryLimitBytes: 300 * 2 ** 20 });
  const trainer = supervisor;
  const run = (basePath: string): Promise<unknown> =>
    trainer.run({ kind: 'train', trainer: 'echo', basePath, outputPath: '', updateFormat: 'weights' });
  const first = await run('base');
  await expect(run('buffers')).rejects.toMatchObject({
    code: 'insufficient_memory',
    reason: expect.stringMatching(/took \d+ MiB of memory, more than its limit of 300 MiB/),
    details: { limitBytes: 300 * 2 ** 20, usedBytes: expect.any(Number) },
  });
  const second = await run('base');
  expect(second).not.toEqual(first);
  await expect(run('heap')).rejects.toMatchObject({ code: 'insufficient_memory' });
  await run('base');
}, 180_000);

const withPrlimit = spawnSync('prlimit', ['--version']).status === 0 ? test : test.skip;

withPrlimit(
  'rows that fit neither into memory nor onto the disk are told with numbers; the trainer lives on',
  async () => {
    // Encoded, more than the 16 MiB that are the least.
    const large = await taskFor(await writeTable(25_000, 1, 10));
    supervisor = new TrainerSupervisor({
      memoryLimitBytes: 400 * 2 ** 20,
      temporaryFolder: join(folder, 'spill'),
    });
    await supervisor.run({ ...task, trainer: 'echo' });
    const { pid } = supervisor;
    // The kernel then refuses to let any file grow beyond, as a full disk would.
    spawnSync('prlimit', ['--pid', String(pid), '--fsize=4000000']);
    await expect(supervisor.run(large)).rejects.toMatchObject({
      code: 'insufficient_storage',
      reason: expect.stringMatching(/4 MiB are written, at least \d+ MiB more are needed, and \d+ MiB are free/),
    });
    expect(await readdir(join(folder, 'spill'))).toEqual([]);
    expect((await supervisor.run(task)).steps).toBeGreaterThan(0);
    expect(supervisor.pid).toBe(pid);
  },
  240_000,
);
