import { setImmediate } from 'node:timers/promises';
import { OctomilError } from '@octomil/shared/errors';
import type { Dataset } from '@octomil/shared/features';
import { type BuiltModel, type Output, seededRandom, shuffle, trainableVariables } from '@octomil/shared/models';
import type { NamedTensorMap, Optimizer, Scalar, Tensor, Variable } from '@tensorflow/tfjs-core';
import { throwIfCancelled } from './cancellation.js';
import { classWeightsOf } from './class-weights.js';
import { EarlyStop } from './early-stop.js';
import { type GradientTerm, type GradientTermFactory, proximalTerm, type TrainedVariable } from './gradient-terms.js';
import type { LocalOptions } from './local-options.js';
import { batchLoss } from './loss.js';
import { EpochSteps } from './steps.js';
import type { TrainingProgress } from './task.js';

export interface LocalTrainingOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: TrainingProgress) => void;
  /** Parts of the loss beside the proximal one of `proximalMu`. Default: none. */
  readonly terms?: readonly GradientTermFactory[];
  /** Rows that are not trained on, for `earlyStop`. */
  readonly heldOut?: Dataset;
  /** Names of the classes for `classWeights`, in the order of the model's outputs. Default: `0`, `1`, … */
  readonly classes?: readonly string[];
}

export interface LocalTraining {
  /** Mean over the rows of the last epoch, each row's loss as it was when its batch was trained, times its class's weight. */
  readonly trainLoss: number;
  /** Steps taken, those after the best epoch of `earlyStop` included. */
  readonly steps: number;
  /** With `earlyStop`: the epoch, from 1, whose weights the model has now. */
  readonly bestEpoch?: number;
}

/**
 * Trains the model in place, from the weights it has, by mini-batches in seeded order. The same weights, rows, options and
 * backend give the same bytes: shuffling and dropout draw from the seed alone.
 *
 * With `proximalMu` > 0 the loss gains (μ/2)·‖w − w₀‖² over the trainable weights, w₀ being those at the start (FedProx:
 * Li et al. 2020, "Federated Optimization in Heterogeneous Networks").
 *
 * @throws OctomilError `training_failed` when the loss is no number any more, `too_few_rows` for fewer than 10 rows, or
 * held-out ones for `earlyStop`, `invalid_input` for a batch size below 10 or weights of classes that there are not, `cancelled`
 */
export async function trainLocally(
  built: BuiltModel,
  output: Output,
  dataset: Dataset,
  options: LocalOptions,
  { signal, onProgress, terms = [], heldOut, classes }: LocalTrainingOptions = {},
): Promise<LocalTraining> {
  const steps = new EpochSteps(dataset.rows, options);
  const weights =
    options.classWeights === undefined ? undefined : classWeightsOf(options.classWeights, output, dataset.y, classes);
  const earlyStop =
    options.earlyStop === undefined ? undefined : new EarlyStop(built, output, heldOut, options.earlyStop);
  const { tf } = built.backend;
  const optimizer = makeOptimizer(tf, options);
  const trained = trainableVariables(built).map(({ name, variable }) => ({
    name,
    variable: variable.read() as Variable,
  }));
  const factories = options.proximalMu > 0 ? [proximalTerm(options.proximalMu), ...terms] : terms;
  const made = factories.map((make) => make(built.backend, trained, built));
  const shuffling = seededRandom(options.seed, 'shuffle');
  const dropping = seededRandom(options.seed, 'dropout');
  const dropouts = built.layersModel.layers.filter((layer) => layer.getClassName().includes('Dropout'));
  const order = Uint32Array.from({ length: dataset.rows }, (_, row) => row);
  const totalSteps = Math.min(steps.count * options.epochs, options.maxSteps ?? Number.POSITIVE_INFINITY);
  let step = 0;
  let lossSum = 0;
  let rowsSeen = 0;
  try {
    for (let epoch = 1; step < totalSteps; epoch++) {
      lossSum = 0;
      rowsSeen = 0;
      shuffle(order, shuffling);
      for (let inEpoch = 0; inEpoch < steps.count && step < totalSteps; inEpoch++) {
        throwIfCancelled(signal);
        const { start, end } = steps.at(inEpoch);
        const rows = order.subarray(start, end);
        // tfjs would draw the same mask at every step from one seed, and an unseeded one without.
        for (const layer of dropouts) (layer as unknown as { seed: number }).seed = dropping.uint32();
        const batch = await gather(dataset, rows, weights);
        const loss = await trainStep(built, output, batch, { optimizer, trained, terms: made });
        step += 1;
        if (!Number.isFinite(loss)) throw diverged(loss, step, options);
        lossSum += loss * rows.length;
        rowsSeen += rows.length;
        onProgress?.({ step, totalSteps, epoch, loss, rows: rows.length });
        // Lets the message that cancels come in.
        await setImmediate();
      }
      if ((await earlyStop?.epochEnded(signal)) === true) break;
    }
    earlyStop?.restore();
  } finally {
    for (const term of made) term.dispose();
    optimizer.dispose();
  }
  return {
    trainLoss: lossSum / rowsSeen,
    steps: step,
    ...(earlyStop === undefined ? {} : { bestEpoch: earlyStop.bestEpoch }),
  };
}

interface Batch {
  readonly rows: number;
  readonly x: Float32Array;
  readonly y: Float32Array;
  readonly weights: Float32Array | undefined;
}

async function gather(dataset: Dataset, rows: Uint32Array, weights: Float32Array | undefined): Promise<Batch> {
  const x = await dataset.read(rows);
  const y = Float32Array.from(rows, (row) => dataset.y[row] ?? 0);
  return { rows: rows.length, x, y, weights: weights && y.map((label) => weights[label] ?? 1) };
}

interface StepContext {
  readonly optimizer: Optimizer;
  readonly trained: readonly TrainedVariable[];
  readonly terms: readonly GradientTerm[];
}

async function trainStep(built: BuiltModel, output: Output, batch: Batch, context: StepContext): Promise<number> {
  const { tf } = built.backend;
  const loss = tf.tidy(() => {
    const x = tf.tensor(batch.x, [batch.rows, ...built.plan.inputShape]);
    const y = tf.tensor1d(batch.y);
    const weights = batch.weights && tf.tensor1d(batch.weights);
    let plain: Scalar | undefined;
    const { grads } = tf.variableGrads(
      () => {
        plain = batchLoss(tf, output, built.layersModel.apply(x, { training: true }) as Tensor, y, weights);
        // Weight regularisers of the topology; they belong to the loss that is reported, as in tfjs.
        for (const penalty of built.layersModel.calculateLosses()) plain = tf.add(plain, penalty);
        tf.keep(plain);
        return plain;
      },
      context.trained.map(({ variable }) => variable),
    );
    context.optimizer.applyGradients(withTerms(tf, grads, context));
    return plain ?? tf.scalar(Number.NaN);
  });
  const [value = Number.NaN] = await loss.data();
  loss.dispose();
  return value;
}

function withTerms(tf: BuiltModel['backend']['tf'], grads: NamedTensorMap, context: StepContext): NamedTensorMap {
  if (context.terms.length === 0) return grads;
  return Object.fromEntries(
    context.trained.flatMap((trained, index) => {
      const parts = context.terms.flatMap((term) => term.gradient(trained, index) ?? []);
      const own = grads[trained.variable.name];
      const [first, ...rest] = own === undefined ? parts : [own, ...parts];
      return first === undefined ? [] : [[trained.variable.name, rest.reduce((sum, part) => tf.add(sum, part), first)]];
    }),
  );
}

function makeOptimizer(tf: BuiltModel['backend']['tf'], { optimizer, learningRate }: LocalOptions): Optimizer {
  return optimizer === 'momentum' ? tf.train.momentum(learningRate, 0.9) : tf.train[optimizer](learningRate);
}

function diverged(loss: number, step: number, options: LocalOptions): OctomilError {
  return new OctomilError(
    'training_failed',
    `the loss became ${loss} at step ${step} with ${options.optimizer} at learning rate ${options.learningRate}; try a smaller learning rate`,
    { details: { step, learningRate: options.learningRate, optimizer: options.optimizer } },
  );
}
