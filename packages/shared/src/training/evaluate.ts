import { setImmediate } from 'node:timers/promises';
import { type Dataset, MINIMUM_ROWS } from '@octomil/shared/features';
import { type BuiltModel, type Output, outputWidth } from '@octomil/shared/models';
import type { Tensor } from '@tensorflow/tfjs-core';
import { throwIfCancelled } from './cancellation.js';
import { type EvaluationMetrics, metricsOf } from './metrics.js';

const ROWS_PER_BATCH = 1024;

/**
 * Runs the model, with the weights it has, over the rows.
 *
 * @returns null for fewer than 10 rows: metrics of a few rows would tell about these
 * @throws OctomilError `cancelled`
 */
export async function evaluate(
  built: BuiltModel,
  output: Output,
  dataset: Dataset,
  signal?: AbortSignal,
): Promise<EvaluationMetrics | null> {
  if (dataset.rows < MINIMUM_ROWS) return null;
  const { tf } = built.backend;
  const width = outputWidth(output);
  const logits = new Float32Array(dataset.rows * width);
  for (let start = 0; start < dataset.rows; start += ROWS_PER_BATCH) {
    throwIfCancelled(signal);
    const end = Math.min(start + ROWS_PER_BATCH, dataset.rows);
    const rows = await dataset.readRange(start, end);
    const result = tf.tidy(() => {
      const x = tf.tensor(rows.slice(), [end - start, ...built.plan.inputShape]);
      return built.layersModel.apply(x, { training: false }) as Tensor;
    });
    logits.set(await result.data<'float32'>(), start * width);
    result.dispose();
    // Lets the message that cancels come in.
    await setImmediate();
  }
  return metricsOf(output, logits, dataset.y);
}
