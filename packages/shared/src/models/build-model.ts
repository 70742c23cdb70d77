import { OctomilError } from '@octomil/shared/errors';
import { layoutOf, type ParameterLayout } from '@octomil/shared/tensors';
import type * as TfCore from '@tensorflow/tfjs-core';
import type * as TfLayers from '@tensorflow/tfjs-layers';
import type { Architecture } from './architecture.js';
import type { ModelCaps } from './caps.js';
import { isObject, type JsonObject } from './layer-config.js';
import { type ModelPlan, planModel } from './model-plan.js';

/** What building and training need of a tfjs backend. */
export interface TensorBackend {
  readonly tf: typeof TfCore;
  readonly layers: typeof TfLayers;
}

/**
 * A tfjs model whose output is always logits (binary, multiclass) or the value itself (regression): a sigmoid or softmax
 * at its end is left out, so that losses stay exact where probabilities would round to 0 or 1.
 */
export interface BuiltModel {
  readonly layersModel: TfLayers.LayersModel;
  readonly plan: ModelPlan;
  readonly layout: ParameterLayout;
  readonly backend: TensorBackend;
  /** Frees the tensors. */
  dispose(): void;
}

const ZEROS = { class_name: 'Zeros', config: {} };

/**
 * Builds the tfjs model of an architecture after checking its caps. Its weights are zero until `setFlat`.
 *
 * @param inputWidth numbers in one encoded row
 * @throws OctomilError as `planModel`; `internal` when tfjs builds other weights than were inferred
 */
export async function buildModel(
  backend: TensorBackend,
  architecture: Architecture,
  inputWidth: number,
  caps?: ModelCaps,
): Promise<BuiltModel> {
  const plan = planModel(architecture, inputWidth, caps);
  const topology = withoutStart(plan.graph.topology);
  const headless = withLinearEnd(topology, plan.graph.outputName);
  const layersModel = await backend.layers.models.modelFromJSON({ modelTopology: headless } as never);
  const weights = [...plan.weights.values()].flat();
  for (const { name, variable } of namedVariables(layersModel, plan)) {
    const planned = weights.find((weight) => weight.name === name);
    if (planned?.shape.join() !== variable.shape.join()) {
      throw new OctomilError(
        'internal',
        `weight ${name} was built as [${variable.shape}], inferred was [${planned?.shape}]`,
      );
    }
  }
  return { layersModel, plan, layout: layoutOf(weights), backend, dispose: () => void layersModel.dispose() };
}

/**
 * Initialisers are ours (seeded), so tfjs need not draw anything: LSTM's default one is slow and needs ops that
 * tfjs-core's Node build lacks.
 */
function withoutStart(json: JsonObject): JsonObject {
  return mapValues(json, (key, value) => {
    if (key.endsWith('_initializer') && value !== null) return ZEROS;
    return key === 'unit_forget_bias' ? false : value;
  });
}

function mapValues(json: JsonObject, map: (key: string, value: unknown) => unknown): JsonObject {
  const inner = (value: unknown): unknown =>
    Array.isArray(value) ? value.map(inner) : isObject(value) ? mapValues(value, map) : value;
  return Object.fromEntries(Object.entries(json).map(([key, value]) => [key, inner(map(key, value))]));
}

function withLinearEnd(topology: JsonObject, outputName: string): JsonObject {
  const config = topology['config'];
  const layers = isObject(config) ? config['layers'] : config;
  const changed = (layers as JsonObject[]).map((layer) => {
    const settings = layer['config'] as JsonObject;
    if ((layer['name'] ?? settings['name']) !== outputName) return layer;
    // A Softmax layer has no activation to change.
    if (layer['class_name'] === 'Softmax') {
      return { ...layer, class_name: 'Activation', config: { name: settings['name'], activation: 'linear' } };
    }
    const activation = settings['activation'];
    return activation === 'sigmoid' || activation === 'softmax'
      ? { ...layer, config: { ...settings, activation: 'linear' } }
      : layer;
  });
  return { ...topology, config: isObject(config) ? { ...config, layers: changed } : changed };
}

type LayerVariable = TfLayers.LayersModel['trainableWeights'][number];

/** A weight of the built model under its name in the layout. */
export interface NamedVariable {
  readonly name: string;
  readonly variable: LayerVariable;
}

/** The weights that training changes, in tfjs's order: all but moving statistics and layers that say `trainable: false`. */
export function trainableVariables({ layersModel, plan }: BuiltModel): NamedVariable[] {
  const names = new Map(namedVariables(layersModel, plan).map(({ name, variable }) => [variable.id, name]));
  return layersModel.trainableWeights.map((variable) => ({ name: names.get(variable.id) ?? variable.name, variable }));
}

/** The model's variables under our names, matched by layer and place. */
function namedVariables(layersModel: TfLayers.LayersModel, plan: ModelPlan): NamedVariable[] {
  return layersModel.layers.flatMap((layer) => {
    const planned = plan.weights.get(layer.name) ?? [];
    const variables = layer.weights;
    if (planned.length !== variables.length) {
      throw new OctomilError(
        'internal',
        `layer ${layer.name} was built with ${variables.length} weights, inferred were ${planned.length}`,
      );
    }
    return variables.map((variable, index) => ({ name: planned[index]?.name ?? '', variable }));
  });
}

/**
 * Puts a flat vector, in the order of `built.layout`, into the model.
 *
 * @throws OctomilError `invalid_input` when it has another length
 */
export function setFlat(built: BuiltModel, flat: Float32Array): void {
  const { tf } = built.backend;
  if (flat.length !== built.layout.totalParams) {
    throw new OctomilError(
      'invalid_input',
      `${flat.length} weights were given, the model has ${built.layout.totalParams}`,
    );
  }
  const places = new Map(built.layout.tensors.map((tensor) => [tensor.name, tensor]));
  for (const { name, variable } of namedVariables(built.layersModel, built.plan)) {
    const place = places.get(name);
    if (place === undefined) throw new OctomilError('internal', `weight ${name} has no place in the layout`);
    // A copy: some backends keep the array that they are given.
    const tensor = tf.tensor(flat.slice(place.offset, place.offset + place.size), [...place.shape], 'float32');
    variable.write(tensor);
    tensor.dispose();
  }
}

/** The model's weights as a flat vector in the order of `built.layout`. */
export async function getFlat(built: BuiltModel): Promise<Float32Array> {
  const flat = new Float32Array(built.layout.totalParams);
  const places = new Map(built.layout.tensors.map((tensor) => [tensor.name, tensor]));
  for (const { name, variable } of namedVariables(built.layersModel, built.plan)) {
    flat.set(await variable.read().data<'float32'>(), places.get(name)?.offset ?? 0);
  }
  return flat;
}
