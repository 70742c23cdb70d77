import { OctomilError } from '@octomil/shared/errors';
import { checkJsonSize, type ModelCaps, refuseAbove } from './caps.js';
import { isObject, type JsonObject } from './layer-config.js';

/** One layer of a graph and the layers that feed it. */
export interface GraphLayer {
  readonly name: string;
  readonly className: string;
  readonly config: JsonObject;
  readonly inputs: readonly string[];
}

/** A topology with everything resolved that does not need shapes. Layers stand after the layers that feed them. */
export interface LayerGraph {
  readonly layers: readonly GraphLayer[];
  /** Without the batch; null where the topology leaves a size open. */
  readonly inputShape: readonly (number | null)[];
  readonly inputName: string;
  readonly outputName: string;
  /** The topology as tfjs reads it: keys in snake_case, wrappers removed. */
  readonly topology: JsonObject;
}

const refuse = (reason: string): OctomilError => new OctomilError('invalid_input', `topology: ${reason}`);

/**
 * Reads the JSON of a Sequential or functional tfjs model: what `model.toJSON()` gives, the whole of a `model.json`, or the
 * `model_config` of a converted Keras model.
 *
 * @throws OctomilError `invalid_input` for what is not such a model, has several inputs or outputs, nests or shares layers;
 * `too_large` beyond the caps on size, depth and layers
 */
export function readTopology(json: unknown, caps: ModelCaps): LayerGraph {
  checkJsonSize(json, caps);
  const topology = unwrap(snakeCase(json));
  const className = topology['class_name'];
  if (className === 'Sequential') return readSequential(topology, caps);
  if (className === 'Model' || className === 'Functional') return readFunctional(topology, caps);
  throw refuse(`class_name is ${JSON.stringify(className) ?? 'missing'}; it must be Sequential, Model or Functional`);
}

function unwrap(json: unknown): JsonObject {
  let inner = json;
  for (const key of ['model_topology', 'model_config']) {
    if (isObject(inner) && inner[key] !== undefined) inner = inner[key];
  }
  if (!isObject(inner)) throw refuse('must be an object, the model JSON that tfjs writes');
  return inner;
}

// tfjs enumerations that older files spell as the TypeScript API does.
const VALUES: Readonly<Record<string, string>> = {
  channelsLast: 'channels_last',
  channelsFirst: 'channels_first',
  fanIn: 'fan_in',
  fanOut: 'fan_out',
  fanAvg: 'fan_avg',
};

function snakeCase(json: unknown): unknown {
  if (typeof json === 'string') return Object.hasOwn(VALUES, json) ? VALUES[json] : json;
  if (Array.isArray(json)) return json.map(snakeCase);
  if (!isObject(json)) return json;
  return Object.fromEntries(
    Object.entries(json).map(([key, value]) => [
      key.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      // A layer's own name is data.
      key === 'name' ? value : snakeCase(value),
    ]),
  );
}

function readSequential(topology: JsonObject, caps: ModelCaps): LayerGraph {
  const config = topology['config'];
  const list = isObject(config) ? config['layers'] : config;
  const entries = readEntries(list, caps);
  const layers = entries.map((entry, index) => ({
    name: entry.name,
    className: entry.className,
    config: entry.config,
    inputs: index === 0 ? [] : [entries[index - 1]?.name ?? ''],
  }));
  const first = layers[0];
  const last = layers.at(-1);
  if (first === undefined || last === undefined) throw refuse('has no layers');
  // A Sequential model may name its input's shape on its first layer instead of having an InputLayer.
  const head =
    first.className === 'InputLayer' ? [] : [{ ...first, name: `${first.name}_input`, className: 'InputLayer' }];
  const rest = head.length === 0 ? layers : layers.with(0, { ...first, inputs: [`${first.name}_input`] });
  return {
    layers: [...head, ...rest],
    inputShape: readInputShape(first.config),
    inputName: head[0]?.name ?? first.name,
    outputName: last.name,
    topology,
  };
}

function readFunctional(topology: JsonObject, caps: ModelCaps): LayerGraph {
  const config = topology['config'];
  if (!isObject(config)) throw refuse('has no config');
  const entries = readEntries(config['layers'], caps);
  const byName = new Map(entries.map((entry) => [entry.name, entry]));
  const inputName = onlyEnd(config['input_layers'], 'input_layers');
  const outputName = onlyEnd(config['output_layers'], 'output_layers');
  const ordered: GraphLayer[] = [];
  const state = new Map<string, 'open' | 'done'>();

  // Depth first without recursion: a chain may be as long as maxLayers.
  const work = [{ name: outputName, expanded: false }];
  for (let next = work.pop(); next !== undefined; next = work.pop()) {
    const { name, expanded } = next;
    const entry = byName.get(name);
    if (entry === undefined) throw refuse(`layer ${JSON.stringify(name)} is used but not defined`);
    const inputs = readInbound(entry);
    if (expanded) {
      state.set(name, 'done');
      ordered.push({ name, className: entry.className, config: entry.config, inputs });
    } else if (state.get(name) === 'open') {
      throw refuse(`layer ${JSON.stringify(name)} feeds itself`);
    } else if (state.get(name) === undefined) {
      state.set(name, 'open');
      work.push({ name, expanded: true });
      for (const input of [...inputs].reverse())
        if (state.get(input) !== 'done') work.push({ name: input, expanded: false });
    }
  }
  const unused = entries.find((entry) => !state.has(entry.name));
  if (unused !== undefined) throw refuse(`layer ${JSON.stringify(unused.name)} does not lead to the output`);
  const input = byName.get(inputName);
  if (input?.className !== 'InputLayer') throw refuse(`input layer ${JSON.stringify(inputName)} is not an InputLayer`);
  const second = ordered.find((layer) => layer.className === 'InputLayer' && layer.name !== inputName);
  if (second !== undefined) throw refuse(`has a second input, ${JSON.stringify(second.name)}; one is supported`);
  return { layers: ordered, inputShape: readInputShape(input.config), inputName, outputName, topology };
}

interface Entry {
  readonly name: string;
  readonly className: string;
  readonly config: JsonObject;
  readonly inbound: unknown;
}

function readEntries(list: unknown, caps: ModelCaps): Entry[] {
  if (!Array.isArray(list) || list.length === 0) throw refuse('has no list of layers');
  refuseAbove('number of layers', list.length, caps.maxLayers, 'maxLayers');
  const names = new Set<string>();
  return list.map((item: unknown, index) => {
    const config = isObject(item) ? item['config'] : undefined;
    const className = isObject(item) ? item['class_name'] : undefined;
    if (!isObject(item) || !isObject(config) || typeof className !== 'string') {
      throw refuse(`layer ${index + 1} has no class_name or no config`);
    }
    const name = item['name'] ?? config['name'];
    if (typeof name !== 'string' || name === '' || name.length > 200) {
      throw refuse(
        `layer ${index + 1} (${className}) needs a name of 1 to 200 characters; its weights are stored under it`,
      );
    }
    if (names.has(name)) throw refuse(`two layers are named ${JSON.stringify(name)}`);
    names.add(name);
    return { name, className, config, inbound: item['inbound_nodes'] };
  });
}

/** `[[[layer, node, tensor, arguments], …]]`: one call of the layer, on one or several tensors. */
function readInbound(entry: Entry): string[] {
  const nodes = entry.inbound ?? [];
  if (!Array.isArray(nodes)) throw refuse(`inbound_nodes of layer ${JSON.stringify(entry.name)} is not a list`);
  if (nodes.length > 1)
    throw refuse(`layer ${JSON.stringify(entry.name)} is shared by ${nodes.length} places; that is not supported`);
  const [node = []] = nodes;
  if (!Array.isArray(node)) throw refuse(`inbound_nodes of layer ${JSON.stringify(entry.name)} is not a list of lists`);
  return node.map((edge: unknown) => {
    const [name, nodeIndex, tensorIndex] = Array.isArray(edge) ? edge : [];
    if (typeof name !== 'string' || nodeIndex !== 0 || tensorIndex !== 0) {
      throw refuse(
        `layer ${JSON.stringify(entry.name)} takes ${JSON.stringify(edge)}; only first outputs are supported`,
      );
    }
    return name;
  });
}

function onlyEnd(value: unknown, key: string): string {
  const ends: unknown[] = Array.isArray(value) ? value : [];
  // Keras writes a single end either as [["name", 0, 0]] or as ["name", 0, 0].
  const [first, ...more] = typeof ends[0] === 'string' ? [ends] : ends;
  const name = Array.isArray(first) ? first[0] : undefined;
  if (typeof name !== 'string' || more.length > 0)
    throw refuse(`${key} must name one layer, not ${JSON.stringify(value)}`);
  return name;
}

function readInputShape(config: JsonObject): (number | null)[] {
  const shape = config['batch_input_shape'] ?? config['batch_shape'];
  if (!Array.isArray(shape) || shape.length < 2) throw refuse('the input has no batch_input_shape such as [null, 13]');
  return shape.slice(1).map((size: unknown) => {
    if (size === null) return null;
    if (typeof size !== 'number' || !Number.isInteger(size) || size < 1) {
      throw refuse(`batch_input_shape ${JSON.stringify(shape)} must hold whole numbers of at least 1`);
    }
    return size;
  });
}
