import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { decodeWeights, encodeWeights, type NamedTensor } from '@octomil/shared/tensors';
import { runTask } from './run-task.js';
import type { EchoTrainTask } from './task.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'echo-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const tensor = (name: string, size: number, start: number): NamedTensor => ({
  name,
  shape: [size],
  data: Float32Array.from({ length: size }, (_, index) => start + index),
});

async function echoOf(tensors: NamedTensor[], updateFormat: 'weights' | 'delta'): Promise<Map<string, number[]>> {
  const basePath = join(folder, 'base');
  await writeFile(basePath, encodeWeights(tensors, { round: '3' }));
  const task: EchoTrainTask = {
    kind: 'train',
    trainer: 'echo',
    basePath,
    outputPath: join(folder, 'out'),
    updateFormat,
  };
  const { update, backend } = await runTask(task);
  const bytes = await readFile(update.path);
  expect(update).toMatchObject({
    sizeBytes: bytes.length,
    sha256: createHash('sha256').update(bytes).digest('hex'),
  });
  expect(backend).toBe('echo');
  return new Map(decodeWeights(bytes).map(({ name, data }) => [name, [...data]]));
}

test('as weights: the base with its smallest tensor raised', async () => {
  const echoed = await echoOf([tensor('a', 5, 1), tensor('b', 2, 10), tensor('c', 3, 20)], 'weights');
  expect(echoed.get('a')).toEqual([1, 2, 3, 4, 5]);
  expect(echoed.get('b')).toEqual([10 + 2 ** -10, 11 + 2 ** -10]);
  expect(echoed.get('c')).toEqual([20, 21, 22]);
});

test('as a delta: zero but for the smallest tensor', async () => {
  const echoed = await echoOf([tensor('a', 5, 1), tensor('b', 2, 10)], 'delta');
  expect(echoed.get('a')).toEqual([0, 0, 0, 0, 0]);
  expect(echoed.get('b')).toEqual([2 ** -10, 2 ** -10]);
});

test('a single tensor larger than a chunk changes at its start alone, and survives whole', async () => {
  const size = 2 * 1024 * 1024 + 7;
  const echoed = await echoOf([tensor('a', size, 1)], 'weights');
  const changed = (echoed.get('a') ?? []).flatMap((value, index) => (value === Math.fround(1 + index) ? [] : [index]));
  expect(changed).toEqual(Array.from({ length: 256 }, (_, index) => index));
});

test('a base cut short is refused, and nothing is left half-written', async () => {
  const basePath = join(folder, 'base');
  await writeFile(basePath, encodeWeights([tensor('a', 100, 0)]).subarray(0, 200));
  const task: EchoTrainTask = {
    kind: 'train',
    trainer: 'echo',
    basePath,
    outputPath: join(folder, 'out'),
    updateFormat: 'weights',
  };
  await expect(runTask(task)).rejects.toMatchObject({ code: 'corrupt_file' });
  expect(await readdir(folder)).toEqual(['base']);
});
