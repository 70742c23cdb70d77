import { readFile } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import { outputWidth, parseModelDocument } from '@octomil/shared/models';
import type { Tensor } from '@tensorflow/tfjs-core';
import { throwIfCancelled } from './cancellation.js';
import type { PredictResult, PredictTask } from './task.js';
import { withModel } from './with-model.js';

const MAX_ROWS = 10_000;

/**
 * Loads a model from its two files and runs it.
 *
 * @throws OctomilError `inference_failed` when an output is not finite or of another shape, `invalid_input` for rows of
 * another width or too many, `data_mismatch` when document and weights do not fit, `corrupt_file`, `cancelled`
 */
export async function predict(task: PredictTask, signal?: AbortSignal): Promise<PredictResult> {
  const document = parseModelDocument(await readFile(task.documentPath));
  const { architecture, inputWidth } = document;
  const rows = task.rows ?? [Array.from({ length: inputWidth }, () => 0)];
  if (rows.length < 1 || rows.length > MAX_ROWS) {
    throw new OctomilError('invalid_input', `${rows.length} rows were given; predict takes 1 to ${MAX_ROWS}`);
  }
  for (const [index, row] of rows.entries()) {
    if (row.length !== inputWidth) {
      throw new OctomilError('invalid_input', `row ${index} has ${row.length} numbers, the model takes ${inputWidth}`);
    }
  }
  throwIfCancelled(signal);
  return withModel(architecture, inputWidth, task.weightsPath, async ({ built, backend }) => {
    const { tf } = built.backend;
    const result = tf.tidy(() => {
      const x = tf.tensor(Float32Array.from(rows.flat()), [rows.length, ...built.plan.inputShape]);
      return built.layersModel.apply(x, { training: false }) as Tensor;
    });
    const values = await result.data<'float32'>();
    result.dispose();
    const width = outputWidth(architecture.output);
    if (values.length !== rows.length * width) {
      throw new OctomilError(
        'inference_failed',
        `the model answered ${values.length} numbers to ${rows.length} rows where ${rows.length * width} are due`,
      );
    }
    const bad = values.find((value) => !Number.isFinite(value));
    if (bad !== undefined) {
      throw new OctomilError('inference_failed', `the model answered ${bad} to a row; its weights are not usable`);
    }
    const outputs = rows.map((_, index) => [...values.subarray(index * width, (index + 1) * width)]);
    return { outputs, backend };
  });
}
