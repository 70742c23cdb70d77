import type * as Tfjs from '@tensorflow/tfjs-core';
import type * as TfjsLayers from '@tensorflow/tfjs-layers';
import type { LayerCase } from './layer-cases.js';

/** Names of those that ran, once each. */
export type Kernels = readonly string[];

/** What one step of training computed, for comparison with another backend's. */
export interface TrainedOnce {
  readonly loss: number;
  /** By the inputs (`input 0`, …) and by each trainable weight. */
  readonly gradients: Readonly<Record<string, Float32Array>>;
  readonly forwardKernels: Kernels;
  /** Those that the gradient needed beside them. */
  readonly gradientKernels: Kernels;
}

/** Loss and gradients of a layer on the backend that is set, from the same numbers each time. Leaves no tensors. */
export async function trainOnce(
  tf: typeof Tfjs,
  layers: typeof TfjsLayers,
  { inputs, below, batch = 2, build }: LayerCase,
): Promise<TrainedOnce> {
  const random = Math.random;
  tf.engine().startScope();
  const variables: Tfjs.Variable[] = [];
  let layer: TfjsLayers.layers.Layer | undefined;
  try {
    const xs = inputs.map((shape, index) => {
      const values = numbers([batch, ...shape], index);
      const usable = below === undefined ? values : whole(values, below);
      const x = tf.variable(tf.tensor(usable, [batch, ...shape]), below === undefined);
      variables.push(x);
      return x;
    });
    layer = build(layers.layers);
    const inputsOfLayer = xs.length === 1 ? (xs[0] as Tfjs.Tensor) : [...xs];
    const built = layer;
    // The first call makes the weights.
    tf.tidy(() => void built.apply(inputsOfLayer));
    layer.setWeights(
      layer.getWeights().map((weight, index) => weightOf(tf, layer?.weights[index]?.name ?? '', weight, index)),
    );
    const trained: [string, Tfjs.Variable][] = layer.trainableWeights.map((weight, index) => [
      // The rest of the name counts the layers of this process.
      `${weight.name.split('/').at(-1)} ${index}`,
      (weight as unknown as { readonly val: Tfjs.Variable }).val,
    ]);
    if (below === undefined) for (const [index, x] of xs.entries()) trained.push([`input ${index}`, x]);
    const forward = (): Tfjs.Scalar =>
      tf.tidy(() => {
        seedMathRandom();
        const output = built.apply(inputsOfLayer, { training: true }) as Tfjs.Tensor;
        const wanted = tf.tensor(numbers(output.shape, 7), output.shape);
        return tf.mean(tf.squaredDifference(output, wanted));
      });
    const list = trained.map(([, variable]) => variable);
    const compute = (): { value: Tfjs.Scalar; grads: Tfjs.NamedTensorMap } =>
      list.length === 0 ? { value: forward(), grads: {} } : tf.variableGrads(forward, list);
    const { value, grads } = compute();
    const gradients: Record<string, Float32Array> = {};
    for (const [name, variable] of trained) {
      const gradient: Tfjs.Tensor | undefined = grads[variable.name];
      if (gradient) gradients[name] = Float32Array.from(await gradient.data());
    }
    // Only now: a kernel that fails while tfjs watches it fails once more, where nobody can catch it.
    const forwardKernels = (await tf.profile(forward)).kernelNames;
    const { kernelNames } = await tf.profile(() => compute().grads);
    return {
      loss: (await value.data())[0] ?? Number.NaN,
      gradients,
      forwardKernels,
      gradientKernels: kernelNames.filter((name) => !forwardKernels.includes(name)),
    };
  } finally {
    Math.random = random;
    layer?.dispose();
    for (const variable of variables) variable.dispose();
    tf.engine().endScope();
  }
}

/** The noise of layers comes from tfjs, which seeds it from Math.random: the same seed, the same noise everywhere. */
export function seedMathRandom(): void {
  let state = 12345;
  Math.random = () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff;
    return state / 0x8000_0000;
  };
}

/** Numbers in -1 to 1 without pattern or repetition (a tie would leave the choice of a maximum to the backend). */
export function numbers(shape: readonly number[], salt: number): Float32Array {
  const size = shape.reduce((product, dimension) => product * dimension, 1);
  return Float32Array.from({ length: size }, (_, index) => Math.sin((index + 1) * 12.9898 + salt * 78.233));
}

function whole(values: Float32Array, below: number): Float32Array {
  return values.map((value) => Math.floor(((value + 1) / 2) * (below - 1) + 0.5));
}

/** A variance is positive; everything else is anything. */
function weightOf(tf: typeof Tfjs, name: string, { shape }: Tfjs.Tensor, index: number): Tfjs.Tensor {
  const values = numbers(shape, index + 3);
  return tf.tensor(
    values.map((value) => (name.includes('variance') ? 1 + value / 2 : value / 2)),
    shape,
  );
}
