import { OctomilError } from '@octomil/shared/errors';
import { layoutOf, type NamedTensor, type ParameterLayout } from '@octomil/shared/tensors';
import { type Architecture, type Output, outputWidth } from './architecture.js';
import { builtInTopology } from './built-in.js';
import { DEFAULT_CAPS, type ModelCaps, refuseAbove } from './caps.js';
import { drawWeight } from './initializers.js';
import { type JsonObject, LayerConfig, type LayerRule, product, type Shape, type WeightPlan } from './layer-config.js';
import { DENSE_RULES } from './layers/dense.js';
import { MERGE_RULES } from './layers/merge.js';
import { RECURRENT_RULES } from './layers/recurrent.js';
import { SPATIAL_RULES } from './layers/spatial.js';
import { type GraphLayer, type LayerGraph, readTopology } from './topology.js';

const RULES: Readonly<Record<string, LayerRule>> = {
  ...DENSE_RULES,
  ...SPATIAL_RULES,
  ...RECURRENT_RULES,
  ...MERGE_RULES,
};

/** Class names of the layers that a topology may use. */
export const LAYER_TYPES: readonly string[] = ['InputLayer', ...Object.keys(RULES)].sort();

const ACTIVATION_NAMES = new Set(
  'elu selu relu relu6 linear sigmoid hard_sigmoid softplus softsign tanh softmax log_softmax swish mish gelu gelu_new'.split(
    ' ',
  ),
);

/** Everything about a model that can be known without building it. */
export interface ModelPlan {
  readonly graph: LayerGraph;
  /** Of one row; its product is the input width. */
  readonly inputShape: Shape;
  /** By layer name, in the order of the layer's own weights; layers in topological order. */
  readonly weights: ReadonlyMap<string, readonly WeightPlan[]>;
  /** What each layer gives for one row. */
  readonly shapes: ReadonlyMap<string, Shape>;
  readonly parameters: number;
  readonly layers: number;
}

/**
 * Infers all shapes of an architecture, and checks the caps on the way: nothing of the model's size is allocated.
 *
 * @param inputWidth numbers in one encoded row
 * @throws OctomilError `invalid_input` naming the layer and what is wrong; `too_large` naming the cap
 */
export function planModel(architecture: Architecture, inputWidth: number, caps: ModelCaps = DEFAULT_CAPS): ModelPlan {
  if (!Number.isSafeInteger(inputWidth) || inputWidth < 1) {
    throw new OctomilError('invalid_input', `input width must be a whole number of at least 1, not ${inputWidth}`);
  }
  const json = architecture.name === 'layers' ? architecture.topology : builtInTopology(architecture, inputWidth);
  const graph = readTopology(json, caps);
  const inputShape = closeInputShape(graph.inputShape, inputWidth);
  const shapes = new Map<string, Shape>();
  const weights = new Map<string, readonly WeightPlan[]>();
  let parameters = 0;
  for (const layer of graph.layers) {
    const plan =
      layer.className === 'InputLayer'
        ? { output: inputShape, weights: [] }
        : planLayer(
            layer,
            layer.inputs.map((name) => shapes.get(name) ?? []),
          );
    refuseAbove(`output of layer "${layer.name}"`, product(plan.output), caps.maxActivations, 'maxActivations');
    for (const weight of plan.weights) parameters += product(weight.shape);
    refuseAbove(`number of parameters up to layer "${layer.name}"`, parameters, caps.maxParameters, 'maxParameters');
    refuseAbove(`size of the weights up to layer "${layer.name}" in bytes`, parameters * 4, caps.maxBytes, 'maxBytes');
    shapes.set(layer.name, plan.output);
    weights.set(layer.name, plan.weights);
  }
  checkOutput(shapes.get(graph.outputName) ?? [], architecture.output);
  checkEnd(graph, architecture.output);
  return { graph, inputShape, weights, shapes, parameters, layers: graph.layers.length };
}

/** A layer by its name, and whether it has weights; undefined where that depends on an input width that is still open. */
export interface NamedLayer {
  readonly name: string;
  readonly className: string;
  readonly hasWeights: boolean | undefined;
}

/**
 * The layers of an architecture from the input to the output, before anything is known of the rows.
 *
 * @throws OctomilError `invalid_input` and `too_large` for a topology that cannot be read
 */
export function namedLayers(architecture: Architecture, caps: ModelCaps = DEFAULT_CAPS): NamedLayer[] {
  const graph = readTopology(
    architecture.name === 'layers' ? architecture.topology : builtInTopology(architecture, 1),
    caps,
  );
  let weights: ModelPlan['weights'] | undefined;
  try {
    const width = product(graph.inputShape.map((size) => size ?? 1));
    weights = planModel(architecture, width, caps).weights;
  } catch {
    // Some models need more than one number where the topology leaves the size open.
  }
  return graph.layers
    .filter(({ className }) => className !== 'InputLayer')
    .map(({ name, className }) => ({ name, className, hasWeights: weights && (weights.get(name) ?? []).length > 0 }));
}

function closeInputShape(shape: readonly (number | null)[], inputWidth: number): Shape {
  const known = shape.reduce<number>((total, size) => total * (size ?? 1), 1);
  const open = shape.filter((size) => size === null).length;
  const rest = inputWidth / known;
  if (open > 1 || (open === 0 ? rest !== 1 : !Number.isInteger(rest))) {
    throw new OctomilError(
      'invalid_input',
      `the model takes rows of shape [${shape.map((size) => size ?? '?').join(', ')}], but an encoded row has ${inputWidth} numbers`,
      { details: { inputShape: shape, inputWidth } },
    );
  }
  return shape.map((size) => size ?? rest);
}

function planLayer(layer: GraphLayer, inputs: readonly Shape[]): ReturnType<LayerRule> {
  const rule = Object.hasOwn(RULES, layer.className) ? RULES[layer.className] : undefined;
  if (rule === undefined) {
    throw new OctomilError(
      'invalid_input',
      `layer "${layer.name}": type ${layer.className} is not supported; supported are ${LAYER_TYPES.join(', ')}`,
    );
  }
  const config = new LayerConfig(layer.name, layer.className, layer.config);
  refuseWhatIsIgnored(config, layer.config);
  return rule(config, inputs);
}

/** Settings that training here would not honour are refused rather than dropped. */
function refuseWhatIsIgnored(config: LayerConfig, settings: JsonObject): void {
  for (const [key, value] of Object.entries(settings)) {
    if (value === null || value === undefined) continue;
    if (key.endsWith('_constraint')) throw config.refuse(`${key} is not supported`);
    if (key === 'activity_regularizer') throw config.refuse(`${key} is not supported`);
    if (key === 'dtype' && value !== 'float32')
      throw config.refuse(`dtype ${JSON.stringify(value)} is not supported, only float32`);
    if (key.endsWith('activation') && typeof value === 'string' && !ACTIVATION_NAMES.has(snake(value))) {
      throw config.refuse(`${key} ${value} is not known; use one of ${[...ACTIVATION_NAMES].join(', ')}`);
    }
  }
}

const snake = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

function checkOutput(shape: Shape, output: Output): void {
  const width = outputWidth(output);
  if (shape.length === 1 && shape[0] === width) return;
  throw new OctomilError(
    'invalid_input',
    `the model gives rows of shape [${shape.join(', ')}], but output ${output.kind} needs [${width}]`,
  );
}

/** A model ends in logits, or in the activation that turns these into what its output promises. */
function checkEnd(graph: LayerGraph, output: Output): void {
  const end = graph.layers.find((layer) => layer.name === graph.outputName);
  const given = end?.className === 'Softmax' ? 'softmax' : (end?.config['activation'] ?? 'linear');
  const fitting = { binary: ['linear', 'sigmoid'], multiclass: ['linear', 'softmax'], regression: null }[output.kind];
  if (fitting === null || fitting.some((name) => name === given)) return;
  throw new OctomilError(
    'invalid_input',
    `the last layer's activation is ${JSON.stringify(given)}; for output ${output.kind} it must be ${fitting.join(' or ')}`,
  );
}

/**
 * Names, shapes and places of a model's weights, in the order of its weights file. Builds nothing.
 *
 * @throws OctomilError as {@link planModel}
 */
export function parameterLayout(architecture: Architecture, inputWidth: number, caps?: ModelCaps): ParameterLayout {
  return layoutOf([...planModel(architecture, inputWidth, caps).weights.values()].flat());
}

/**
 * Checks an architecture against the caps without building anything.
 *
 * @throws OctomilError as {@link planModel}
 */
export function checkCaps(
  architecture: Architecture,
  inputWidth: number,
  caps?: ModelCaps,
): { parameters: number; bytes: number; layers: number } {
  const { parameters, layers } = planModel(architecture, inputWidth, caps);
  return { parameters, bytes: parameters * 4, layers };
}

/**
 * The weights that a model starts from, sorted by name. The same architecture, width and seed give the same bytes; each
 * weight draws from its own stream.
 *
 * @param seed whole number from 0 to 2⁵³ − 1
 * @throws OctomilError as {@link planModel}
 */
export function initialWeights(
  architecture: Architecture,
  inputWidth: number,
  seed: number,
  caps?: ModelCaps,
): NamedTensor[] {
  const plans = new Map(
    [...planModel(architecture, inputWidth, caps).weights.values()].flat().map((weight) => [weight.name, weight]),
  );
  return layoutOf([...plans.values()]).tensors.map(({ name, shape }) => {
    const plan = plans.get(name);
    if (plan === undefined) throw new OctomilError('internal', `weight ${name} has no plan`);
    return { name, shape, data: drawWeight(plan.initializer, shape, seed, name) };
  });
}
