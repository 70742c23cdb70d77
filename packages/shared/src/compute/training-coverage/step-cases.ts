import type * as Tfjs from '@tensorflow/tfjs-core';
import type * as TfjsLayers from '@tensorflow/tfjs-layers';
import { type Kernels, numbers, seedMathRandom } from './train-once.js';

export interface StepCase {
  readonly kind: 'optimizer' | 'loss' | 'regularizer' | 'constraint';
  readonly name: string;
  /** Default: sgd. */
  optimizer?(tf: typeof Tfjs): Tfjs.Optimizer;
  /** Default: meanSquaredError. */
  readonly loss?: string;
  /** What the hidden layer's kernel is given. */
  kernel?(layers: typeof TfjsLayers): object;
}

const optimizers: StepCase[] = [
  { kind: 'optimizer', name: 'sgd', optimizer: (tf) => tf.train.sgd(0.1) },
  { kind: 'optimizer', name: 'momentum', optimizer: (tf) => tf.train.momentum(0.1, 0.9) },
  { kind: 'optimizer', name: 'momentum (Nesterov)', optimizer: (tf) => tf.train.momentum(0.1, 0.9, true) },
  { kind: 'optimizer', name: 'adagrad', optimizer: (tf) => tf.train.adagrad(0.1) },
  { kind: 'optimizer', name: 'adadelta', optimizer: (tf) => tf.train.adadelta(0.1) },
  { kind: 'optimizer', name: 'adam', optimizer: (tf) => tf.train.adam(0.1) },
  { kind: 'optimizer', name: 'adamax', optimizer: (tf) => tf.train.adamax(0.1) },
  { kind: 'optimizer', name: 'rmsprop', optimizer: (tf) => tf.train.rmsprop(0.1) },
  {
    kind: 'optimizer',
    // tfjs takes epsilon from the variance, where it should add it.
    name: 'rmsprop (centered; NaN for gradients below the root of epsilon, on every backend)',
    optimizer: (tf) => tf.train.rmsprop(0.01, 0.9, 0, 1e-12, true),
  },
];

const LOSSES = [
  'meanSquaredError',
  'meanAbsoluteError',
  'meanAbsolutePercentageError',
  'meanSquaredLogarithmicError',
  'squaredHinge',
  'hinge',
  'categoricalHinge',
  'logcosh',
  'categoricalCrossentropy',
  'sparseCategoricalCrossentropy',
  'binaryCrossentropy',
  'kullbackLeiblerDivergence',
  'poisson',
  'cosineProximity',
];

/** Every optimizer, loss, regularizer and constraint of tfjs 4.22. */
export const STEP_CASES: readonly StepCase[] = [
  ...optimizers,
  ...LOSSES.map((loss): StepCase => ({ kind: 'loss', name: loss, loss })),
  {
    kind: 'regularizer',
    name: 'l1l2',
    kernel: ({ regularizers }) => ({ kernelRegularizer: regularizers.l1l2({ l1: 0.1, l2: 0.1 }) }),
  },
  {
    kind: 'constraint',
    name: 'maxNorm',
    kernel: ({ constraints }) => ({ kernelConstraint: constraints.maxNorm({ maxValue: 0.5 }) }),
  },
  {
    kind: 'constraint',
    name: 'minMaxNorm',
    kernel: ({ constraints }) => ({ kernelConstraint: constraints.minMaxNorm({ minValue: 0.8, maxValue: 0.9 }) }),
  },
  { kind: 'constraint', name: 'nonNeg', kernel: ({ constraints }) => ({ kernelConstraint: constraints.nonNeg() }) },
  {
    kind: 'constraint',
    name: 'unitNorm',
    kernel: ({ constraints }) => ({ kernelConstraint: constraints.unitNorm({ axis: 0 }) }),
  },
];

export interface SteppedOnBackend {
  readonly losses: readonly number[];
  readonly weights: readonly Float32Array[];
  readonly kernels: Kernels;
}

const ROWS = 6;
const COLUMNS = 7;
const CLASSES = 3;

/** Three steps of a small model on the backend that is set, from the same numbers each time. */
export async function takeSteps(
  tf: typeof Tfjs,
  layers: typeof TfjsLayers,
  { optimizer, loss = 'meanSquaredError', kernel }: StepCase,
): Promise<SteppedOnBackend> {
  const random = Math.random;
  seedMathRandom();
  const stepping = optimizer?.(tf) ?? tf.train.sgd(0.1);
  const model = layers.sequential({
    layers: [
      layers.layers.dense({ inputShape: [COLUMNS], units: 5, activation: 'tanh', ...kernel?.(layers) }),
      layers.layers.dense({ units: CLASSES, activation: 'softmax' }),
    ],
  });
  const x = tf.tensor(numbers([ROWS, COLUMNS], 1), [ROWS, COLUMNS]);
  const y = targets(tf, loss);
  try {
    const weights = model.getWeights().map(({ shape }, index) => tf.tensor(numbers(shape, index + 3), shape));
    model.setWeights(weights);
    for (const weight of weights) weight.dispose();
    model.compile({ optimizer: stepping, loss });
    const losses: number[] = [];
    for (let step = 0; step < 2; step++) losses.push(Number(await model.trainOnBatch(x, y)));
    const { kernelNames } = await tf.profile(async () => {
      losses.push(Number(await model.trainOnBatch(x, y)));
      return [];
    });
    const trained = await Promise.all(model.getWeights().map(async (weight) => Float32Array.from(await weight.data())));
    return { losses, weights: trained, kernels: kernelNames };
  } finally {
    Math.random = random;
    x.dispose();
    y.dispose();
    model.dispose();
    stepping.dispose();
  }
}

function targets(tf: typeof Tfjs, loss: string): Tfjs.Tensor {
  const classes = Array.from({ length: ROWS }, (_, row) => (row * 2) % CLASSES);
  if (loss === 'sparseCategoricalCrossentropy') return tf.tensor2d(classes, [ROWS, 1]);
  const likely = classes.flatMap((wanted) =>
    Array.from({ length: CLASSES }, (_, index) => (index === wanted ? 0.8 : 0.1)),
  );
  return tf.tensor2d(likely, [ROWS, CLASSES]);
}
