import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { openTable } from '@octomil/shared/data';
import { encodedWidth, type FeatureSpec, mergeStatistics, parseTargetRule } from '@octomil/shared/features';
import { initialWeights, parseArchitecture } from '@octomil/shared/models';
import { decodeWeights, encodeWeights } from '@octomil/shared/tensors';
import { DEFAULT_LOCAL_OPTIONS } from '../local-options.js';
import { runTask } from '../run-task.js';
import type { OwnCodeTrainTask, TrainingProgress } from '../task.js';
import { TrainerSupervisor } from '../trainer-supervisor.js';
import { readCode } from './code-files.js';
import { removeLeftRuns } from './left-runs.js';
import { findProgram, limitingPrefix } from './limiting-prefix.js';
import { DEFAULT_OWN_CODE_LIMITS, type OwnCode } from './own-code.js';

let folder: string;
let spec: FeatureSpec;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'own-code-'));
  const lines = Array.from({ length: 60 }, (_, row) => `${row},${row % 2 ? 'f' : 'm'},${row > 30 ? 1 : 0}`);
  const path = join(folder, 'site.csv');
  await writeFile(path, ['age,sex,sick', ...lines].join('\n'));
  const target = parseTargetRule('sick');
  const statistics = await runTask({ kind: 'describe', source: { path }, target });
  spec = mergeStatistics([{ deviceId: 'd', name: 'one', statistics }], { target, missingMarkers: {} });
});
afterAll(() => rm(folder, { recursive: true, force: true }));

let made = 0;

/** A site's folder with one script, and the task that runs it. */
async function taskFor(script: string, change: Partial<OwnCode> = {}, name = 'train.mjs'): Promise<OwnCodeTrainTask> {
  made += 1;
  const root = join(folder, `site-${made}`);
  await mkdir(root);
  await writeFile(join(root, name), script);
  const architecture = parseArchitecture('logistic');
  const basePath = join(root, 'base.bin');
  await writeFile(basePath, encodeWeights(initialWeights(architecture, encodedWidth(spec), 3)));
  const code: OwnCode = {
    name: 'mine',
    command: ['node', name],
    root,
    wholeFolder: false,
    data: 'safetensors',
    environment: [],
    ...change,
    limits: { ...DEFAULT_OWN_CODE_LIMITS, timeoutMs: 20_000, ...change.limits },
  };
  return {
    kind: 'train',
    trainer: 'own',
    code,
    allowedSha256: (await readCode(code)).sha256,
    workPath: join(root, 'work'),
    roundNumber: 1,
    architecture,
    featureSpec: spec,
    source: { path: join(folder, 'site.csv') },
    basePath,
    outputPath: join(root, 'update.safetensors'),
    updateFormat: 'delta',
    options: { ...DEFAULT_LOCAL_OPTIONS, seed: 4 },
    holdout: { salt: 's', shareRatio: 0.25 },
  };
}

const IMPORTS = `import { readFileSync, writeFileSync, copyFileSync, openSync, writeSync } from 'node:fs';
const config = JSON.parse(readFileSync('config.json', 'utf8'));
const done = (count = config.rows) => writeFileSync('metrics.json', JSON.stringify({ sample_count: count, train_loss: 0.5, update_format: 'weights' }));
`;
const GOOD = `${IMPORTS}
console.log('a word, and a broken { line');
console.log(JSON.stringify({ step: 1, total_steps: 2, loss: 0.7 }));
const bytes = readFileSync('base.safetensors');
bytes.writeFloatLE(bytes.readFloatLE(bytes.length - 4) + 0.5, bytes.length - 4);
writeFileSync('update.safetensors', bytes);
done();
`;

test('a command gets base, settings and rows, and gives back weights that leave as a delta', async () => {
  const task = await taskFor(GOOD);
  const progress: TrainingProgress[] = [];
  const result = await runTask(task, { onProgress: (one) => progress.push(one) });
  expect(result).toMatchObject({ trainLoss: 0.5, backend: 'own:mine', steps: 1 });
  expect(result.sampleCount).toBeGreaterThan(30);
  expect(result.sampleCount).toBeLessThan(60);
  expect(result.evaluation?.count).toBe(60 - result.sampleCount);
  expect(progress).toEqual([{ step: 1, totalSteps: 2, epoch: 1, loss: 0.7 }]);
  const flat = decodeWeights(await readFile(task.outputPath)).flatMap(({ data }) => [...data]);
  expect(flat.slice(0, -1).every((value) => value === 0)).toBe(true);
  expect(flat.at(-1)).toBeCloseTo(0.5);
  expect(await readdir(task.workPath)).toEqual([]);
});

test('rows as Parquet are those that tfjs would train on, and the environment is clean', async () => {
  process.env['OWN_CODE_SECRET'] = 'secret';
  process.env['OWN_CODE_PASSED'] = 'passed';
  const keep = join(folder, 'seen');
  await mkdir(keep);
  const task = await taskFor(
    `${GOOD}
copyFileSync('train.parquet', ${JSON.stringify(join(keep, 'train.parquet'))});
writeFileSync(${JSON.stringify(join(keep, 'seen.json'))}, JSON.stringify({ config, env: process.env }));`,
    { data: 'parquet', environment: ['OWN_CODE_PASSED'] },
  );
  const { sampleCount } = await runTask(task);
  const seen = JSON.parse(await readFile(join(keep, 'seen.json'), 'utf8'));
  expect(seen.env).toMatchObject({ OWN_CODE_PASSED: 'passed' });
  expect(seen.env.OWN_CODE_SECRET).toBeUndefined();
  expect(seen.config).toMatchObject({
    rows: sampleCount,
    update_format: 'delta',
    seed: 4,
    feature_spec_hash: spec.hash,
  });
  expect(seen.config.inputs).toHaveLength(encodedWidth(spec));
  const reader = await openTable({ path: join(keep, 'train.parquet') });
  try {
    expect(reader.columns.map(({ name }) => name)).toEqual(seen.config.columns);
    expect(await reader.countRows()).toBe(sampleCount);
  } finally {
    reader.close();
  }
});

const BAD: readonly (readonly [what: string, script: string, RegExp, Partial<OwnCode>?])[] = [
  [
    'hangs',
    'setInterval(() => undefined, 1000)',
    /did not end within 0.7 s/,
    { limits: { ...DEFAULT_OWN_CODE_LIMITS, timeoutMs: 700 } },
  ],
  [
    'hangs and heeds no signal',
    "process.on('SIGTERM', () => undefined); setInterval(() => undefined, 1000)",
    /did not end/,
    { limits: { ...DEFAULT_OWN_CODE_LIMITS, timeoutMs: 700 } },
  ],
  [
    'floods its output',
    "const line = 'x'.repeat(1e6); (function more() { process.stdout.write(line, more) })()",
    /more than 32 MiB to its output/,
  ],
  ['writes nothing', '', /wrote no file metrics.json/],
  ['writes no update', `${IMPORTS} done()`, /wrote no file update.safetensors/],
  [
    'writes a broken update',
    `${IMPORTS} writeFileSync('update.safetensors', 'x'.repeat(50)); done()`,
    /no whole safetensors file/,
  ],
  [
    'writes a link for an update',
    `${IMPORTS} import { symlinkSync } from 'node:fs'; symlinkSync('base.safetensors', 'update.safetensors'); done()`,
    /wrote no file update/,
  ],
  [
    'writes other shapes',
    `${IMPORTS} copyFileSync('train.safetensors', 'update.safetensors'); done()`,
    /another shape than the base: tensor ".*" of shape \[.*\] is missing/,
  ],
  [
    'writes NaN',
    `${GOOD} bytes.writeFloatLE(NaN, bytes.length - 4); writeFileSync('update.safetensors', bytes)`,
    /NaN in tensor/,
  ],
  ['says that it had more rows', `${GOOD} done(1e6)`, /more rows than it was given/],
  ['says nothing of rows', `${GOOD} writeFileSync('metrics.json', '{}')`, /without sample_count/],
  ['writes metrics that are no JSON', `${GOOD} writeFileSync('metrics.json', '{')`, /not JSON/],
  [
    'fills the disk',
    `${IMPORTS} const file = openSync('big', 'w'); for (;;) writeSync(file, Buffer.alloc(1 << 20))`,
    /more than 5 MiB to disk/,
    { limits: { ...DEFAULT_OWN_CODE_LIMITS, maxOutputMb: 5 } },
  ],
  [
    'takes all memory',
    'const held = []; setInterval(() => held.push(Buffer.alloc(30e6, 1)), 20)',
    /memory_limit_mb|exit status|SIG/,
    { limits: { ...DEFAULT_OWN_CODE_LIMITS, memoryMb: 300 } },
  ],
  ['exits with 3', "console.error('row 7: Jane Doe'); process.exit(3)", /exit status 3/],
  [
    'is not there',
    '',
    /needs no-such-program, which is not on this machine/,
    { command: ['no-such-program', 'train.mjs'] },
  ],
];

test.each(BAD)(
  'code that %s fails by a clear reason, and the next round is possible',
  async (_, script, reason, change = {}) => {
    const task = await taskFor(script, change);
    const failure = await runTask(task).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: 'training_failed' });
    const [first, ...others] = String((failure as Error & { reason: string }).reason).split('\n');
    expect(first).toMatch(reason);
    expect(first).not.toContain('Jane');
    if (script.includes('Jane')) expect(others.join()).toContain('Jane Doe');
    expect(existsSync(task.outputPath)).toBe(false);
    expect(await readdir(task.workPath)).toEqual([]);
  },
  180_000,
);

test('a cancelled command ends with everything that it started', async () => {
  const mark = join(folder, 'alive');
  const child = `setInterval(() => require('node:fs').writeFileSync(${JSON.stringify(mark)}, String(Date.now())), 20)`;
  const task = await taskFor(`
import { spawn } from 'node:child_process';
spawn(process.execPath, ['-e', ${JSON.stringify(child)}], { detached: true, stdio: 'ignore' }).unref();
setInterval(() => undefined, 1000)`);
  const controller = new AbortController();
  const failure = runTask(task, { signal: controller.signal }).catch((error: unknown) => error);
  while (!existsSync(mark)) await sleep(20);
  controller.abort();
  expect(await failure).toMatchObject({ code: 'cancelled' });
  if (process.platform !== 'linux') return;
  await rm(mark, { force: true });
  await sleep(150);
  expect(existsSync(mark)).toBe(false);
}, 180_000);

test('code is run only as it was allowed: a changed file, also one beside it, is refused with the digest found', async () => {
  const task = await taskFor(GOOD, { wholeFolder: true });
  await rm(task.basePath);
  const base = encodeWeights(initialWeights(task.architecture, encodedWidth(spec), 3));
  const basePath = join(folder, 'base-elsewhere');
  await writeFile(basePath, base);
  const { sha256 } = await readCode(task.code);
  await writeFile(join(task.code.root, 'helper.mjs'), 'export {}');
  const now = await readCode(task.code);
  expect(now.files.map(({ name }) => name)).toEqual(['helper.mjs', 'train.mjs']);
  const failure = runTask({ ...task, basePath, allowedSha256: sha256 });
  await expect(failure).rejects.toMatchObject({ code: 'policy_denied', reason: expect.stringContaining(now.sha256) });
});

test('a file outside of the allowed ones is not there for the code', async () => {
  const task = await taskFor("import './helper.mjs';");
  await writeFile(join(task.code.root, 'helper.mjs'), 'throw 1');
  await expect(runTask(task)).rejects.toMatchObject({ reason: expect.stringMatching(/ERR_MODULE_NOT_FOUND/) });
});

test('the command is part of the digest, in its order', async () => {
  const { code } = await taskFor(GOOD);
  const digests = [
    ['node', 'train.mjs'],
    ['node', '--no-warnings', 'train.mjs'],
    ['node', 'train.mjs', '--no-warnings'],
  ];
  const found = await Promise.all(digests.map(async (command) => (await readCode({ ...code, command })).sha256));
  expect(new Set(found).size).toBe(3);
});

function moduleTask(script: string): Promise<OwnCodeTrainTask> {
  return taskFor(script, { command: undefined, module: 'train.mjs' } as unknown as Partial<OwnCode>);
}

test('a Node module trains in a process of its own', async () => {
  const task = await moduleTask(`export async function train({ weights, data, config, signal, report }) {
  if (signal.aborted || config.seed !== 4 || data.x.length !== data.rows * data.width || data.y.length !== data.rows) throw 1;
  report({ step: 2, totalSteps: 2, loss: 0.1 });
  const delta = weights.map(({ name, shape, data: from }) => ({ name, shape, data: from.map(() => data.columns.length) }));
  return { delta: delta.reverse(), sampleCount: data.rows, metrics: { trainLoss: 0.25 } };
}`);
  const result = await runTask(task);
  expect(result).toMatchObject({ trainLoss: 0.25, steps: 2, backend: 'own:mine' });
  const flat = decodeWeights(await readFile(task.outputPath)).flatMap(({ data }) => [...data]);
  expect(new Set(flat)).toEqual(new Set([encodedWidth(spec)]));
});

test.each([
  ['export const train = 1', /exports no function train/],
  ['export function train() { throw new RangeError("odd") }', /odd/],
  ['export function train() { process.exit(0) }', /no file metrics/],
  ['export const train = () => ({ sampleCount: 40 })', /no file update/],
])('a module that does otherwise fails: %s', async (script, reason) => {
  await expect(runTask(await moduleTask(script))).rejects.toMatchObject({
    code: 'training_failed',
    reason: expect.stringMatching(reason),
  });
});

/** As another user than root, whom no file's rights hold back. */
async function asAnybody<R>(use: () => Promise<R>): Promise<R> {
  if (process.getuid?.() !== 0) return use();
  process.seteuid?.(65_534);
  try {
    return await use();
  } finally {
    process.seteuid?.(0);
  }
}

test('what a killed trainer left goes: folders that nobody may write, and processes that its code started', async () => {
  const work = join(folder, 'left-work');
  await asAnybody(async () => {
    const cache = join(tmpdir(), `left-${process.pid}`, 'run-1', 'home', 'go');
    await mkdir(cache, { recursive: true });
    await writeFile(join(cache, 'rows'), '1,2,3');
    await symlink(tmpdir(), join(cache, 'elsewhere'));
    await chmod(cache, 0o555);
    await removeLeftRuns(join(tmpdir(), `left-${process.pid}`));
    expect(existsSync(join(tmpdir(), `left-${process.pid}`))).toBe(false);
  });
  if (process.platform !== 'linux') return;
  const run = join(work, 'run-ä');
  await mkdir(run, { recursive: true });
  const child = spawn(process.execPath, ['-e', 'setInterval(() => undefined, 1000)'], {
    env: { OCTOMIL_FOLDER: run },
    stdio: 'ignore',
  });
  const ended = once(child, 'exit');
  await once(child, 'spawn');
  await removeLeftRuns(work);
  expect(await ended).toEqual([null, 'SIGKILL']);
  expect(existsSync(work)).toBe(false);
});

test('a trainer process that is killed leaves no rows of a run, and nothing of its code goes on', async () => {
  const mark = join(folder, 'orphan');
  const worker = `setInterval(() => require('node:fs').writeFileSync(${JSON.stringify(mark)}, String(Date.now())), 20)`;
  const task = await taskFor(`
import { spawn } from 'node:child_process';
spawn(process.execPath, ['-e', ${JSON.stringify(worker)}], { stdio: 'ignore' });
setInterval(() => undefined, 1000)`);
  const supervisor = new TrainerSupervisor();
  try {
    const failure = supervisor.run(task).catch((error: unknown) => error);
    while (!existsSync(mark)) await sleep(20);
    process.kill(supervisor.pid ?? 0, 'SIGKILL');
    expect(await failure).toMatchObject({ code: 'training_failed' });
    expect(existsSync(task.workPath)).toBe(false);
    if (process.platform !== 'linux') return;
    await rm(mark, { force: true });
    await sleep(150);
    expect(existsSync(mark)).toBe(false);
  } finally {
    await supervisor.stop();
  }
}, 180_000);

test('code is held to processors that its agent may use', () => {
  const processors = cpus().length;
  if (process.platform !== 'linux' || processors < 2 || findProgram('taskset') === undefined) return;
  const bind = (list: string) => execFileSync('taskset', ['--pid', '--cpu-list', list, String(process.pid)]);
  const before = /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1] ?? '';
  const last = before.split(/[,-]/).at(-1) ?? '';
  try {
    bind(last);
    expect(limitingPrefix({ ...DEFAULT_OWN_CODE_LIMITS, cpuPercent: 50 }).slice(-2)).toEqual(['--cpu-list', last]);
  } finally {
    bind(before);
  }
});

test('a tool of an installed package is run where it is, and finds its other files', async () => {
  const { code, ...task } = await taskFor(GOOD);
  const tool = join(code.root, 'node_modules', 'tool');
  await mkdir(tool, { recursive: true });
  await writeFile(join(tool, 'cli.mjs'), "import './other.mjs'; await import(process.argv[2]);");
  await writeFile(join(tool, 'other.mjs'), '');
  const own = { ...code, command: ['node', 'node_modules/tool/cli.mjs', 'train.mjs'] };
  const { sha256, files } = await readCode(own);
  expect(files.map(({ name }) => name)).toEqual(['node_modules/tool/cli.mjs', 'train.mjs']);
  const result = await runTask({ ...task, code: own, allowedSha256: sha256 });
  expect(result).toMatchObject({ trainLoss: 0.5 });
});

const EXAMPLES = resolve(import.meta.dirname, '../../../../../examples');
const PYTHON = findProgram('python3') === undefined ? test.skip : test;
for (const [named, folderName, change] of [
  [test, 'node-module-site', { command: undefined, module: 'train.js' }],
  [PYTHON, 'python-site', { command: ['python3', 'train.py'] }],
] as const) {
  named(`the example ${folderName} refuses a model that it would spoil`, async () => {
    const root = join(EXAMPLES, folderName);
    const { basePath, ...task } = await taskFor('', { ...change, root, wholeFolder: true } as Partial<OwnCode>);
    const architecture = parseArchitecture('mlp');
    await writeFile(basePath, encodeWeights(initialWeights(architecture, encodedWidth(spec), 3)));
    await expect(runTask({ ...task, basePath, architecture })).rejects.toMatchObject({
      code: 'training_failed',
      reason: expect.stringContaining('trains the architecture logistic'),
    });
  });
}
