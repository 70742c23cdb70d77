import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { systemClock } from '@octomil/shared/runtime';
import { encodeWeights, layoutOf } from '@octomil/shared/tensors';
import { aggregate } from './aggregate.js';
import type { AggregationJob } from './aggregation-job.js';
import { Aggregator } from './aggregator.js';

let folder: string;
let aggregator: Aggregator;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'octomil-aggregator-'));
  aggregator = new Aggregator();
});
afterEach(async () => {
  await aggregator.stop();
  rmSync(folder, { recursive: true });
});

const layout = layoutOf([{ name: 'w', shape: [4] }]);

function job(name: string, update: readonly number[]): AggregationJob {
  const file = (role: string, values: readonly number[]): string => {
    const path = join(folder, `${name}-${role}`);
    writeFileSync(path, encodeWeights([{ name: 'w', shape: [4], data: Float32Array.from(values) }]));
    return path;
  };
  return {
    basePath: file('base', [1, 2, 3, 4]),
    updates: [{ path: file('update', update), weight: 1 }],
    updateFormat: 'delta',
    strategy: 'fedavg',
    round: 1,
    outputPath: join(folder, `${name}-checkpoint`),
  };
}

/** A worker that obeys the name in the job's basePath: it exits, throws, or never answers anything but an abort. */
function workerFile(): { path: string; execArgv: string[] } {
  const path = join(folder, 'worker.mjs');
  writeFileSync(
    path,
    `import { parentPort } from 'node:worker_threads';
    parentPort.on('message', (request) => {
      if (request.kind === 'abort') {
        return parentPort.postMessage({ id: request.id, error: { code: 'cancelled', message: 'told' }, cause: '' });
      }
      const order = request.task.job.basePath;
      if (order === 'exit') process.exit(3);
      if (order === 'throw') throw new Error('a bug');
      if (order === 'answer') parentPort.postMessage({ id: request.id, result: request.task.kind });
    });`,
  );
  return { path, execArgv: [] };
}

const order = (basePath: string): AggregationJob => ({ ...job('order', [0, 0, 0, 0]), basePath });

test('the worker gives the bytes of the function, and its errors in full', async () => {
  const good = job('good', [1, 1, 1, 1]);
  const here = await aggregate(good);
  const there = await aggregator.aggregate(good);
  expect({ ...there, seconds: 0 }).toEqual({ ...here, seconds: 0 });
  await expect(aggregator.aggregate(job('bad', [1, Number.NaN, 1, 1]))).rejects.toMatchObject({
    code: 'update_rejected',
    details: { updateIndex: 0, tensor: 'w', element: 1 },
  });
  const [update] = good.updates;
  const measure = await aggregator.validate({ path: update?.path ?? '', layout });
  expect(measure).toMatchObject({ normL2: 2, maxAbs: 1 });
});

test.each(['exit', 'throw'])('a worker that ends by %s costs its task alone', async (how) => {
  aggregator = new Aggregator({ entry: workerFile() });
  const crashing = aggregator.aggregate(order(how));
  const waiting = aggregator.aggregate(order('answer'));
  await expect(crashing).rejects.toMatchObject({ code: 'internal' });
  expect(await waiting).toBe('aggregate');
});

test('a validation does not wait behind an aggregation', async () => {
  aggregator = new Aggregator({ entry: workerFile() });
  const stuck = expect(aggregator.aggregate(order('never answers'))).rejects.toMatchObject({ code: 'cancelled' });
  expect(await aggregator.validate({ basePath: 'answer', path: '', layout } as never)).toBe('validate');
  await aggregator.stop();
  await stuck;
  await expect(aggregator.aggregate(order('answer'))).rejects.toMatchObject({ code: 'cancelled' });
});

test('an abort reaches a running task and takes a waiting one out of the queue', async () => {
  aggregator = new Aggregator({ entry: workerFile() });
  const running = new AbortController();
  const queued = new AbortController();
  const first = aggregator.aggregate(order('never answers'), running.signal);
  const second = aggregator.aggregate(order('answer'), queued.signal);
  const third = aggregator.aggregate(order('answer'));
  queued.abort();
  await expect(second).rejects.toMatchObject({ code: 'cancelled' });
  running.abort();
  await expect(first).rejects.toMatchObject({ code: 'cancelled', reason: 'told' });
  expect(await third).toBe('aggregate');
  await expect(aggregator.aggregate(order('answer'), AbortSignal.abort())).rejects.toMatchObject({ code: 'cancelled' });
});

test('an idle worker is ended, and the next task starts another', async () => {
  const idle: (() => void)[] = [];
  const clock = {
    ...systemClock,
    after: (_delayMs: number, callback: () => void) => {
      idle.push(callback);
      return () => undefined;
    },
  };
  aggregator = new Aggregator({ clock });
  await aggregator.aggregate(job('first', [1, 1, 1, 1]));
  expect(idle).toHaveLength(1);
  idle[0]?.();
  await aggregator.aggregate(job('second', [1, 1, 1, 1]));
  expect(readdirSync(folder).filter((name) => name.endsWith('checkpoint'))).toHaveLength(2);
});
