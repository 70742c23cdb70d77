import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { decodeWeights, encodeWeights } from '@octomil/shared/tensors';
import type { LocalOptions } from './local-options.js';
import { runTask } from './run-task.js';
import type { TfjsTrainTask } from './task.js';
import { SitesForTests } from './testing/personal-sites.js';

const NORMALIZED = {
  name: 'layers',
  topology: {
    class_name: 'Sequential',
    config: {
      name: 's',
      layers: [
        { class_name: 'Dense', config: { name: 'hidden', units: 4, batch_input_shape: [null, 2], activation: 'relu' } },
        { class_name: 'BatchNormalization', config: { name: 'norm' } },
        { class_name: 'Dense', config: { name: 'output', units: 1, activation: 'linear' } },
      ],
    },
  },
  output: { kind: 'binary' },
};

let folder: string;
let sites: SitesForTests;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-control-'));
  const make = (random: { normal(): number }) => {
    const a = random.normal();
    return [a, random.normal(), a > 0 ? 1 : 0] as const;
  };
  sites = await SitesForTests.make(join(folder, 'sites'), NORMALIZED, [make]);
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const SGD: Partial<LocalOptions> = { optimizer: 'sgd', learningRate: 0.25, epochs: 50, maxSteps: 7 };

function taskOf(options: Partial<LocalOptions>, more: Partial<TfjsTrainTask> = {}): TfjsTrainTask {
  const controlVariates = { ownOutputPath: join(folder, 'own') };
  return { ...sites.task(0, 1, undefined, options), controlVariates, ...more };
}

test('the next control variate is the way by the steps really taken; running means have none', async () => {
  const result = await runTask(taskOf(SGD));
  expect(result.steps).toBe(7);
  const update = decodeWeights(await readFile(result.update.path));
  const own = new Map(decodeWeights(await readFile(join(folder, 'own'))).map(({ name, data }) => [name, [...data]]));
  let moving = 0;
  for (const { name, data } of update.filter((tensor) => tensor.name.startsWith('weights/'))) {
    const control = `controlVariate/${name.slice('weights/'.length)}`;
    const told = update.find((tensor) => tensor.name === control);
    // The one before was zeros.
    expect(own.get(control)).toEqual([...(told?.data ?? [])]);
    const isMoving = /moving/.test(name);
    if (isMoving) moving += data.filter((value) => value !== 0).length;
    for (const [at, value] of data.entries()) {
      expect(told?.data[at]).toBeCloseTo(isMoving ? 0 : -value / (7 * 0.25), 5);
    }
  }
  expect(moving).toBeGreaterThan(0);
});

test.each([
  [{ optimizer: 'momentum' as const }, {}, /training_not_supported.*momentum/],
  [{ optimizer: 'adam' as const }, {}, /training_not_supported.*adam/],
  [{ proximalMu: 1 }, {}, /training_not_supported.*proximalMu/],
  [{ earlyStop: { patience: 1, minDelta: 0 } }, {}, /training_not_supported.*earlyStop/],
  [{}, { updateFormat: 'weights' as const }, /training_not_supported.*weights/],
])('%j %j is refused', async (options, more, message) => {
  await expect(runTask(taskOf({ ...SGD, ...options }, more))).rejects.toThrow(message);
});

test('a control variate of another model is refused', async () => {
  const serverPath = join(folder, 'server');
  await writeFile(serverPath, encodeWeights([{ name: 'controlVariate/x', shape: [1], data: Float32Array.of(1) }]));
  const controlVariates = { serverPath, ownOutputPath: join(folder, 'own') };
  await expect(runTask(taskOf(SGD, { controlVariates }))).rejects.toThrow(/data_mismatch.*another model/);
});
