import { OctomilError } from '@octomil/shared/errors';
import type { NamedTensor } from '@octomil/shared/tensors';
import { LayerConfig } from '../../models/layer-config.js';
import type { GraphLayer } from '../../models/topology.js';
import type { OnnxGraph } from './onnx-graph.js';

/** A value in the graph. tfjs keeps channels last, ONNX's convolutions want them first. */
export interface GraphValue {
  readonly name: string;
  readonly order: 'channels_last' | 'channels_first';
  /** Of one row, in tfjs's order. */
  readonly shape: readonly number[];
}

/** At least one; layers that take one look at the first. */
export type Inputs = readonly [GraphValue, ...GraphValue[]];

/** What a layer's writer needs: its settings, its weights, and the graph to write to. */
export class LayerContext {
  readonly graph: OnnxGraph;
  readonly name: string;
  readonly config: LayerConfig;
  /** Of one row. */
  readonly outputShape: readonly number[];
  readonly #weights: ReadonlyMap<string, NamedTensor>;

  constructor(
    graph: OnnxGraph,
    layer: GraphLayer,
    outputShape: readonly number[],
    weights: ReadonlyMap<string, NamedTensor>,
  ) {
    this.graph = graph;
    this.name = layer.name;
    this.config = new LayerConfig(layer.name, layer.className, layer.config);
    this.outputShape = outputShape;
    this.#weights = weights;
  }

  /** @throws OctomilError `conversion_failed` when there is none */
  weight(name: string): NamedTensor {
    const found = this.#weights.get(`${this.name}/${name}`);
    if (found === undefined) throw this.refuse(`its weight ${name} is missing`);
    return found;
  }

  /** A weight as it is, as a constant. */
  constant(name: string): string {
    const { shape, data } = this.weight(name);
    return this.graph.floats(`${this.name}/${name}`, shape, data);
  }

  /** The same number for every channel, for a scale or an offset that a layer was built without. */
  filled(name: string, size: number, value: number): string {
    return this.graph.floats(`${this.name}/${name}`, [size], new Float32Array(size).fill(value));
  }

  node(opType: string, inputs: readonly string[], attributes = {}, suffix = ''): string {
    return this.graph.node(opType, inputs, `${this.name}${suffix}:out`, attributes);
  }

  /** The value with its channels first. Done again where it is needed again: runtimes fold what is doubled. */
  channelsFirst(value: GraphValue): string {
    if (value.order === 'channels_first') return value.name;
    const rank = value.shape.length + 1;
    const perm = [0, rank - 1, ...Array.from({ length: rank - 2 }, (_, axis) => axis + 1)];
    return this.node('Transpose', [value.name], { perm }, '/channels_first');
  }

  channelsLast(value: GraphValue): string {
    if (value.order === 'channels_last') return value.name;
    const rank = value.shape.length + 1;
    const perm = [0, ...Array.from({ length: rank - 2 }, (_, axis) => axis + 2), 1];
    return this.node('Transpose', [value.name], { perm }, '/channels_last');
  }

  refuse(reason: string): OctomilError {
    return unsupported(this.name, this.config.className, reason);
  }
}

export function unsupported(layer: string, className: string, reason: string): OctomilError {
  return new OctomilError('conversion_failed', `layer "${layer}" (${className}) cannot become ONNX: ${reason}`, {
    details: { layer, layerType: className },
  });
}
