import { OctomilError } from '@octomil/shared/errors';
import { type Random, seededRandom } from './random.js';

/** How a weight starts. Semantics are those of tfjs-layers 4.22; numbers come from our own generator. */
export type Initializer =
  | { readonly kind: 'constant'; readonly value: number }
  | { readonly kind: 'uniform'; readonly minimum: number; readonly maximum: number }
  | { readonly kind: 'normal'; readonly mean: number; readonly deviation: number; readonly truncated: boolean }
  | {
      readonly kind: 'variance-scaling';
      readonly scale: number;
      readonly mode: 'fan_in' | 'fan_out' | 'fan_avg';
      readonly distribution: 'uniform' | 'normal';
    }
  | { readonly kind: 'orthogonal'; readonly gain: number }
  | { readonly kind: 'identity'; readonly gain: number }
  /** An LSTM's bias: ones for the forget gate, the second quarter (Jozefowicz et al. 2015). */
  | { readonly kind: 'unit-forget'; readonly rest: Initializer };

export const ZEROS: Initializer = { kind: 'constant', value: 0 };
export const ONES: Initializer = { kind: 'constant', value: 1 };
const scaling = (
  scale: number,
  mode: 'fan_in' | 'fan_out' | 'fan_avg',
  distribution: 'uniform' | 'normal',
): Initializer => ({ kind: 'variance-scaling', scale, mode, distribution });
/** Glorot and Bengio 2010. */
export const GLOROT_UNIFORM = scaling(1, 'fan_avg', 'uniform');
export const GLOROT_NORMAL = scaling(1, 'fan_avg', 'normal');
/** Saxe et al. 2013. */
export const ORTHOGONAL: Initializer = { kind: 'orthogonal', gain: 1 };
/** The tfjs default of embeddings and of `RandomUniform`. */
export const SMALL_UNIFORM: Initializer = { kind: 'uniform', minimum: -0.05, maximum: 0.05 };

type Settings = Readonly<Record<string, unknown>>;
const number = (settings: Settings, key: string, fallback: number): number => {
  const value = settings[key];
  return typeof value === 'number' && Number.isFinite(value) ? value : fallback;
};

const BY_NAME: Readonly<Record<string, (settings: Settings) => Initializer>> = {
  zeros: () => ZEROS,
  ones: () => ONES,
  constant: (settings) => ({ kind: 'constant', value: number(settings, 'value', 0) }),
  randomuniform: (settings) => ({
    kind: 'uniform',
    minimum: number(settings, 'minval', -0.05),
    maximum: number(settings, 'maxval', 0.05),
  }),
  randomnormal: (settings) => normalOf(settings, false),
  truncatednormal: (settings) => normalOf(settings, true),
  // He et al. 2015.
  henormal: () => scaling(2, 'fan_in', 'normal'),
  heuniform: () => scaling(2, 'fan_in', 'uniform'),
  // LeCun et al. 1998.
  lecunnormal: () => scaling(1, 'fan_in', 'normal'),
  lecununiform: () => scaling(1, 'fan_in', 'uniform'),
  glorotnormal: () => GLOROT_NORMAL,
  glorotuniform: () => GLOROT_UNIFORM,
  orthogonal: (settings) => ({ kind: 'orthogonal', gain: number(settings, 'gain', 1) }),
  identity: (settings) => ({ kind: 'identity', gain: number(settings, 'gain', 1) }),
  variancescaling: (settings) =>
    scaling(
      Math.max(0, number(settings, 'scale', 1)),
      settings['mode'] === 'fan_out' || settings['mode'] === 'fan_avg' ? settings['mode'] : 'fan_in',
      settings['distribution'] === 'uniform' ? 'uniform' : 'normal',
    ),
};

function normalOf(settings: Settings, truncated: boolean): Initializer {
  return {
    kind: 'normal',
    mean: number(settings, 'mean', 0),
    deviation: Math.abs(number(settings, 'stddev', 0.05)),
    truncated,
  };
}

/** Reads a name such as `"glorotUniform"` or tfjs's `{class_name, config}`. */
export function parseInitializer(value: unknown, refuse: (reason: string) => OctomilError): Initializer {
  const json = (typeof value === 'string' ? { class_name: value } : value) as Settings;
  const className = json['class_name'];
  const name = typeof className === 'string' ? className.replaceAll('_', '').toLowerCase() : '';
  const make = Object.hasOwn(BY_NAME, name) ? BY_NAME[name] : undefined;
  if (make === undefined) {
    throw refuse(
      `initialiser ${JSON.stringify(className ?? value)} is not known; use one of ${Object.keys(BY_NAME).join(', ')}`,
    );
  }
  const config = json['config'];
  return make(typeof config === 'object' && config !== null ? (config as Settings) : {});
}

/**
 * Draws a weight's first values. Each weight has its own stream, so that adding a layer leaves the others as they were.
 *
 * @param stream the weight's name
 */
export function drawWeight(
  initializer: Initializer,
  shape: readonly number[],
  seed: number,
  stream: string,
): Float32Array {
  const data = new Float32Array(shape.reduce((total, size) => total * size, 1));
  fill(data, initializer, shape, seededRandom(seed, stream));
  return data;
}

function fill(data: Float32Array, initializer: Initializer, shape: readonly number[], random: Random): void {
  switch (initializer.kind) {
    case 'constant':
      data.fill(initializer.value);
      return;
    case 'uniform':
      fillUniform(data, initializer.minimum, initializer.maximum, random);
      return;
    case 'normal':
      fillNormal(data, initializer, random);
      return;
    case 'variance-scaling': {
      const [fanIn, fanOut] = fans(shape);
      const fan = { fan_in: fanIn, fan_out: fanOut, fan_avg: (fanIn + fanOut) / 2 }[initializer.mode];
      const variance = initializer.scale / Math.max(1, fan);
      if (initializer.distribution === 'normal') {
        fillNormal(data, { mean: 0, deviation: Math.sqrt(variance), truncated: true }, random);
      } else {
        const limit = Math.sqrt(3 * variance);
        fillUniform(data, -limit, limit, random);
      }
      return;
    }
    case 'identity': {
      const side = shape.at(-1) ?? 1;
      for (let index = 0; index < data.length; index += side + 1) data[index] = initializer.gain;
      return;
    }
    case 'orthogonal':
      fillOrthogonal(data, shape.at(-1) ?? 1, initializer.gain, random);
      return;
    case 'unit-forget': {
      fill(data, initializer.rest, shape, random);
      data.fill(1, data.length / 4, data.length / 2);
      return;
    }
  }
}

function fillUniform(data: Float32Array, minimum: number, maximum: number, random: Random): void {
  const span = maximum - minimum;
  for (let index = 0; index < data.length; index++) data[index] = minimum + span * random.uniform();
}

function fillNormal(
  data: Float32Array,
  { mean, deviation, truncated }: { mean: number; deviation: number; truncated: boolean },
  random: Random,
): void {
  for (let index = 0; index < data.length; index++) {
    let value = random.normal();
    while (truncated && Math.abs(value) > 2) value = random.normal();
    data[index] = mean + deviation * value;
  }
}

/** Inputs and outputs of one unit; for convolutions each times the kernel's area. */
function fans(shape: readonly number[]): [number, number] {
  const total = shape.reduce((product, size) => product * size, 1);
  if (shape.length < 2) return [Math.sqrt(total), Math.sqrt(total)];
  const fanOut = shape.at(-1) ?? 1;
  const fanIn = shape.at(-2) ?? 1;
  return [total / fanOut, total / fanIn];
}

/** Multiplications; about ten seconds. */
const MAX_ORTHOGONAL_WORK = 1e10;

/** Rows (or columns, where there are fewer) made orthonormal by modified Gram-Schmidt. */
function fillOrthogonal(data: Float32Array, columns: number, gain: number, random: Random): void {
  const rows = data.length / columns;
  const count = Math.min(rows, columns);
  const length = Math.max(rows, columns);
  // Its time grows with the square of the short side.
  if (count * count * length > MAX_ORTHOGONAL_WORK) {
    throw new OctomilError(
      'too_large',
      `an orthogonal start for ${rows} × ${columns} numbers takes too long; name another initialiser, such as glorotUniform`,
    );
  }
  const vectors: Float64Array[] = [];
  while (vectors.length < count) {
    const vector = Float64Array.from({ length }, () => random.normal());
    for (const other of vectors) {
      const projection = dot(vector, other);
      for (let index = 0; index < length; index++)
        vector[index] = (vector[index] ?? 0) - projection * (other[index] ?? 0);
    }
    const norm = Math.sqrt(dot(vector, vector));
    // A vector that was almost inside the span of the others is drawn again.
    if (norm > 1e-6) vectors.push(vector.map((value) => value / norm));
  }
  vectors.forEach((vector, which) => {
    for (let along = 0; along < length; along++) {
      data[rows >= columns ? along * columns + which : which * columns + along] = gain * (vector[along] ?? 0);
    }
  });
}

function dot(left: Float64Array, right: Float64Array): number {
  let sum = 0;
  for (let index = 0; index < left.length; index++) sum += (left[index] ?? 0) * (right[index] ?? 0);
  return sum;
}
