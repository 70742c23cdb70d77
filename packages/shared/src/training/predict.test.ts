import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import {
  encodeModelDocument,
  initialWeights,
  type ModelDocument,
  modelDocument,
  parseArchitecture,
} from '@octomil/shared/models';
import { encodeWeights, type NamedTensor } from '@octomil/shared/tensors';
import { runTask } from './run-task.js';
import { TrainerSupervisor } from './trainer-supervisor.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'predict-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function files(document: ModelDocument, weights: readonly NamedTensor[]) {
  const task = {
    kind: 'predict',
    documentPath: join(folder, 'model.json'),
    weightsPath: join(folder, 'weights.safetensors'),
  } as const;
  await writeFile(task.documentPath, encodeModelDocument(document));
  await writeFile(task.weightsPath, encodeWeights(weights));
  return task;
}

const architecture = parseArchitecture({ name: 'logistic', output: { kind: 'multiclass', classes: 3 } });

test('a model answers given rows and a row of zeros, in a process of its own', async () => {
  const weights = initialWeights(architecture, 2, 1).map((tensor) => ({
    ...tensor,
    data: Float32Array.from(tensor.data, (_, index) => (tensor.shape.length === 2 ? index : 10 * (index + 1))),
  }));
  const task = await files(modelDocument(architecture, 2), weights);
  const supervisor = new TrainerSupervisor();
  try {
    // Kernel [[0, 1, 2], [3, 4, 5]] and bias [10, 20, 30].
    expect((await supervisor.run(task)).outputs).toEqual([[10, 20, 30]]);
    expect(
      (
        await supervisor.run({
          ...task,
          rows: [
            [1, 1],
            [0, 2],
          ],
        })
      ).outputs,
    ).toEqual([
      [13, 25, 37],
      [16, 28, 40],
    ]);
  } finally {
    await supervisor.stop();
  }
});

test('weights that are not finite, or of another model, and rows of another width are refused', async () => {
  const weights = initialWeights(architecture, 2, 1);
  const broken = weights.map((tensor) => ({ ...tensor, data: new Float32Array(tensor.data.length).fill(Number.NaN) }));
  await expect(runTask(await files(modelDocument(architecture, 2), broken))).rejects.toMatchObject({
    code: 'inference_failed',
  });
  await expect(runTask(await files(modelDocument(architecture, 3), weights))).rejects.toMatchObject({
    code: 'data_mismatch',
  });
  const task = await files(modelDocument(architecture, 2), weights);
  await expect(runTask({ ...task, rows: [[1]] })).rejects.toMatchObject({ code: 'invalid_input' });
});
