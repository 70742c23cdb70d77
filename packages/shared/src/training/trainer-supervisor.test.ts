import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { type Clock, entryPoint, systemClock } from '@octomil/shared/runtime';
import { encodeWeights } from '@octomil/shared/tensors';
import { InProcessTrainer } from './in-process-trainer.js';
import type { EchoTrainTask, TrainingProgress } from './task.js';
import { TrainerSupervisor, type TrainerSupervisorOptions } from './trainer-supervisor.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'supervisor-'));
  await writeFile(join(folder, 'base'), encodeWeights([{ name: 'a', shape: [3], data: Float32Array.of(1, 2, 3) }]));
  // Stands in for the trainer: what it does follows from the task's base path.
  await writeFile(
    join(folder, 'stand-in.mjs'),
    `process.on('disconnect', () => process.exit(0));
     process.on('message', ({ type, id, task }) => {
       if (type === 'cancel') return;
       const send = (message, then) => process.send({ id, ...message }, then);
       if (task.basePath === 'crash') { console.error('out of luck'); process.exit(3); }
       if (task.basePath === 'hang') return send({ type: 'progress', progress: { step: 1 } });
       if (task.basePath === 'fail') return send({ type: 'error', error: { code: 'data_unreadable', message: 'no' } });
       send({ type: 'result', result: { pid: process.pid } });
     });`,
  );
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const supervisors: TrainerSupervisor[] = [];
afterEach(() => Promise.all(supervisors.splice(0).map((supervisor) => supervisor.stop())));

function supervise(options: TrainerSupervisorOptions = {}): TrainerSupervisor {
  const entry = { path: join(folder, 'stand-in.mjs'), execArgv: [] };
  const supervisor = new TrainerSupervisor({ entry, ...options });
  supervisors.push(supervisor);
  return supervisor;
}

const task = (basePath: string): EchoTrainTask => ({
  kind: 'train',
  trainer: 'echo',
  basePath,
  outputPath: join(folder, 'out'),
  updateFormat: 'weights',
});
const pidOf = async (running: Promise<unknown>): Promise<number> => ((await running) as { pid: number }).pid;

test('a warm process keeps no results of tasks that are over', async () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  // The flag would hold for the tests of other files in this process.
  setFlagsFromString('--no-expose-gc');
  const supervisor = supervise();
  const results: WeakRef<object>[] = [];
  for (let count = 0; count < 3; count++) results.push(new WeakRef(await supervisor.run(task('base'))));
  await new Promise((resolve) => setTimeout(resolve, 10));
  collect();
  expect(supervisor.pid).toBeDefined();
  // The last one may still be in a register of this test.
  expect(results.slice(0, 2).map((result) => result.deref())).toEqual([undefined, undefined]);
});

/** Time that passes when it is told to. */
class ManualClock implements Clock {
  readonly now = (): number => 0;
  readonly sleep = systemClock.sleep;
  readonly waiting = new Set<{ delayMs: number; callback: () => void }>();

  readonly after = (delayMs: number, callback: () => void): (() => void) => {
    const timer = { delayMs, callback };
    this.waiting.add(timer);
    return () => this.waiting.delete(timer);
  };

  fire(delayMs: number): void {
    for (const timer of [...this.waiting].filter((timer) => timer.delayMs === delayMs)) {
      this.waiting.delete(timer);
      timer.callback();
    }
  }
}

test('the real trainer process echoes a base without tfjs and DuckDB', async () => {
  const real = entryPoint(import.meta.url, 'trainer-process');
  const hook = `import { registerHooks } from 'node:module';
    registerHooks({ resolve(specifier, context, next) {
      if (/^@(tensorflow|duckdb)/.test(specifier)) throw new TypeError(specifier + ' was loaded');
      return next(specifier, context);
    } });`;
  const execArgv = [...real.execArgv, '--import', `data:text/javascript,${encodeURIComponent(hook)}`];
  const supervisor = supervise({ entry: { ...real, execArgv } });
  const result = await supervisor.run(task(join(folder, 'base')));
  expect(result).toMatchObject({ backend: 'echo', update: { path: join(folder, 'out') } });
  await expect(supervisor.run(task(join(folder, 'absent')))).rejects.toMatchObject({ code: 'training_failed' });
});

test('there is no process before the first task, and one for all that follow', async () => {
  const supervisor = supervise();
  expect(supervisor.pid).toBeUndefined();
  const [first, second] = await Promise.all([pidOf(supervisor.run(task('a'))), pidOf(supervisor.run(task('b')))]);
  expect(second).toBe(first);
  expect(supervisor.pid).toBe(first);
});

test('an error of the task keeps its code, and the process', async () => {
  const supervisor = supervise();
  const pid = await pidOf(supervisor.run(task('a')));
  await expect(supervisor.run(task('fail'))).rejects.toMatchObject({ code: 'data_unreadable', reason: 'no' });
  expect(await pidOf(supervisor.run(task('a')))).toBe(pid);
});

test('a crash is training_failed with the exit code and the last output; the next task gets a new process', async () => {
  const supervisor = supervise();
  const pid = await pidOf(supervisor.run(task('a')));
  const crash = supervisor.run(task('crash'));
  const next = supervisor.run(task('a'));
  await expect(crash).rejects.toMatchObject({
    code: 'training_failed',
    reason: expect.stringMatching(/exit code 3; its last output:\nout of luck$/),
  });
  expect(await pidOf(next)).not.toBe(pid);
});

test('a program that is not there is training_failed too', async () => {
  const supervisor = supervise({ entry: { path: join(folder, 'absent.mjs'), execArgv: [] } });
  await expect(supervisor.run(task('a'))).rejects.toMatchObject({ code: 'training_failed' });
});

test('a cancelled task that does not stop is killed after the grace; what waited behind it runs', async () => {
  const clock = new ManualClock();
  const supervisor = supervise({ clock, graceMs: 77 });
  const controller = new AbortController();
  const { promise: started, resolve } = Promise.withResolvers<TrainingProgress>();
  const hanging = supervisor.run(task('hang'), { signal: controller.signal, onProgress: resolve });
  const behind = supervisor.run(task('a'));
  await started;
  const pid = supervisor.pid;
  controller.abort();
  clock.fire(77);
  await expect(hanging).rejects.toMatchObject({ code: 'cancelled' });
  expect(await pidOf(behind)).not.toBe(pid);
  clock.fire(5 * 60_000);
});

test('a task that waits is cancelled at once, and one that comes cancelled never runs', async () => {
  const clock = new ManualClock();
  const supervisor = supervise({ clock, graceMs: 77 });
  const { promise: started, resolve } = Promise.withResolvers<TrainingProgress>();
  const hanging = supervisor.run(task('hang'), { onProgress: resolve });
  const controller = new AbortController();
  const waiting = supervisor.run(task('a'), { signal: controller.signal });
  await started;
  controller.abort();
  await expect(waiting).rejects.toMatchObject({ code: 'cancelled' });
  await expect(supervisor.run(task('a'), { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'cancelled' });
  const stopped = supervisor.stop();
  clock.fire(77);
  await expect(hanging).rejects.toMatchObject({ code: 'cancelled' });
  await stopped;
  expect(supervisor.pid).toBeUndefined();
});

test('the process is ended when idle, and started again for the next task', async () => {
  const clock = new ManualClock();
  const supervisor = supervise({ clock });
  const pid = await pidOf(supervisor.run(task('a')));
  clock.fire(5 * 60_000);
  expect(supervisor.pid).toBeUndefined();
  expect(await pidOf(supervisor.run(task('a')))).not.toBe(pid);
  // The first process is gone, not only forgotten.
  expect(() => process.kill(pid, 0)).toThrow('ESRCH');
});

test('after stop, tasks are refused', async () => {
  const supervisor = supervise();
  await supervisor.run(task('a'));
  await supervisor.stop();
  await supervisor.stop();
  await expect(supervisor.run(task('a'))).rejects.toMatchObject({ code: 'cancelled' });
});

test('the trainer in this process has the same contract', async () => {
  const trainer = new InProcessTrainer();
  expect(await trainer.run(task(join(folder, 'base')))).toMatchObject({ backend: 'echo' });
  await expect(trainer.run(task('a'), { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'cancelled' });
  await trainer.stop();
  await expect(trainer.run(task(join(folder, 'base')))).rejects.toMatchObject({ code: 'cancelled' });
});
