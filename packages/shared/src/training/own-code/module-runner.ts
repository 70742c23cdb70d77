/** A process of its own for a site's Node module: files in, files out, like any other command of a site. */
import { readFile, writeFile } from 'node:fs/promises';
import { pathToFileURL } from 'node:url';
import { OctomilError } from '@octomil/shared/errors';
import { decodeWeights, encodeWeights } from '@octomil/shared/tensors';
import type { OwnModuleTrain } from './own-module.js';

const controller = new AbortController();
process.once('SIGTERM', () => controller.abort());

const path = process.argv[2] ?? '';
const { train } = (await import(pathToFileURL(path).href)) as { readonly train?: OwnModuleTrain };
if (typeof train !== 'function') {
  throw new OctomilError('training_failed', 'the module exports no function train');
}
const config = JSON.parse(await readFile('config.json', 'utf8')) as Readonly<Record<string, unknown>>;
const [x, y] = decodeWeights(await readFile('train.safetensors'));
const [rows = 0, width = 0] = x?.shape ?? [];
const inputs = (config['inputs'] ?? []) as readonly { readonly feature: string; readonly index: number }[];
const result = await train({
  weights: decodeWeights(await readFile('base.safetensors')),
  data: {
    x: x?.data ?? new Float32Array(0),
    y: y?.data ?? new Float32Array(0),
    rows,
    width,
    columns: inputs.map(({ feature, index }) => (index === 0 ? feature : `${feature}.${index}`)),
  },
  config,
  signal: controller.signal,
  report: ({ step, totalSteps, loss }) =>
    process.stdout.write(`${JSON.stringify({ step, total_steps: totalSteps, loss })}\n`),
});
const update = result.weights ?? result.delta;
if (update !== undefined) await writeFile('update.safetensors', encodeWeights(update));
await writeFile(
  'metrics.json',
  JSON.stringify({
    sample_count: result.sampleCount,
    train_loss: result.metrics?.trainLoss,
    update_format: result.weights === undefined ? 'delta' : 'weights',
  }),
);
process.exit(0);
