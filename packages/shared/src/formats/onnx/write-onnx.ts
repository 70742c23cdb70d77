import { OctomilError } from '@octomil/shared/errors';
import { type ModelDocument, outputWidth, planModel } from '@octomil/shared/models';
import { layoutOf, type NamedTensor, sameLayout } from '@octomil/shared/tensors';
import type { ByteParts } from '../byte-parts.js';
import {
  activation,
  batchNormalization,
  concatenate,
  dense,
  elu,
  layerNormalization,
  leakyRelu,
  merge,
  nothing,
  permute,
  relu,
  reshape,
  softmax,
} from './dense-layers.js';
import { type GraphValue, type Inputs, LayerContext, unsupported } from './layer-context.js';
import { OnnxGraph } from './onnx-graph.js';
import {
  convolution,
  depthwiseConvolution,
  globalPooling,
  pooling,
  separableConvolution,
  zeroPadding,
} from './spatial-layers.js';

type LayerWriter = (layer: LayerContext, inputs: Inputs) => GraphValue;

const WRITERS: Readonly<Record<string, LayerWriter>> = {
  Dense: dense,
  Activation: activation,
  Softmax: softmax,
  ReLU: relu,
  LeakyReLU: leakyRelu,
  ELU: elu,
  Dropout: nothing,
  SpatialDropout1D: nothing,
  Flatten: reshape,
  Reshape: reshape,
  Permute: permute,
  BatchNormalization: batchNormalization,
  LayerNormalization: layerNormalization,
  Conv1D: convolution,
  Conv2D: convolution,
  DepthwiseConv2D: depthwiseConvolution,
  SeparableConv2D: separableConvolution,
  MaxPooling1D: pooling('MaxPool'),
  MaxPooling2D: pooling('MaxPool'),
  AveragePooling1D: pooling('AveragePool'),
  AveragePooling2D: pooling('AveragePool'),
  GlobalMaxPooling1D: globalPooling('ReduceMax'),
  GlobalMaxPooling2D: globalPooling('ReduceMax'),
  GlobalAveragePooling1D: globalPooling('ReduceMean'),
  GlobalAveragePooling2D: globalPooling('ReduceMean'),
  ZeroPadding2D: zeroPadding,
  Add: merge('Sum'),
  Average: merge('Mean'),
  Maximum: merge('Max'),
  Minimum: merge('Min'),
  Multiply: merge('Mul'),
  Concatenate: concatenate,
};

/** Class names of the layers that can become ONNX. */
export const ONNX_LAYER_TYPES: readonly string[] = ['InputLayer', ...Object.keys(WRITERS)].sort();

/** A protobuf message holds at most 2 GiB, its numbers included. */
const MAX_ONNX_BYTES = 2 ** 31 - 1;

/**
 * Writes one of our models as ONNX (opset 17, IR 8).
 *
 * - Input `input`: [batch, …input shape] encoded rows, as the model takes them. The feature spec is not part of the graph:
 *   its hash is in the metadata, with the input width and what the outputs mean.
 * - Output `logits` [batch, outputs], and `probabilities`: sigmoid or softmax of them. A regression has `value` [batch, 1]
 *   instead, in the target's own units.
 *
 * The bytes are made when they are read; weights are not copied but for convolution kernels, one at a time.
 *
 * @throws OctomilError `conversion_failed` naming a layer that has no counterpart here, or weights that do not fit the
 * document; otherwise as `planModel`
 */
export function writeOnnx(document: ModelDocument, weights: readonly NamedTensor[]): ByteParts {
  const { architecture, inputWidth, featureSpec } = document;
  const plan = planModel(architecture, inputWidth);
  const difference = sameLayout(layoutOf([...plan.weights.values()].flat()), layoutOf(weights));
  if (difference !== undefined)
    throw new OctomilError('conversion_failed', `document and weights differ: ${difference}`);
  const byName = new Map(weights.map((tensor) => [tensor.name, tensor]));
  const graph = new OnnxGraph();
  const { kind } = architecture.output;
  const outputNames = kind === 'regression' ? ['value'] : ['logits', 'probabilities'];
  for (const name of ['input', ...outputNames]) graph.reserve(name);

  const values = new Map<string, GraphValue>();
  for (const layer of plan.graph.layers) {
    if (layer.className === 'InputLayer') {
      values.set(layer.name, { name: 'input', order: 'channels_last', shape: plan.inputShape });
      continue;
    }
    const writer = Object.hasOwn(WRITERS, layer.className) ? WRITERS[layer.className] : undefined;
    if (writer === undefined) {
      throw unsupported(layer.name, layer.className, `supported are ${ONNX_LAYER_TYPES.join(', ')}`);
    }
    const [first, ...more] = layer.inputs.map((name) => values.get(name));
    if (first === undefined) throw unsupported(layer.name, layer.className, 'its input is not there');
    const inputs = [first, ...more.filter((value) => value !== undefined)] as const;
    const shown = layer.name === plan.graph.outputName ? withLinearEnd(layer) : layer;
    const context = new LayerContext(graph, shown, plan.shapes.get(layer.name) ?? [], byName);
    values.set(layer.name, shown.className === 'Activation' ? activation(context, inputs) : writer(context, inputs));
  }
  const end = values.get(plan.graph.outputName)?.name ?? 'input';
  const width = outputWidth(architecture.output);
  writeOutputs(graph, document, end);
  const file = graph.toModel({
    name: architecture.name,
    input: { name: 'input', shape: plan.inputShape },
    outputs: outputNames.map((name) => ({ name, shape: [width] })),
    metadata: {
      'octomil.input_width': String(inputWidth),
      'octomil.output': JSON.stringify(architecture.output),
      ...(featureSpec === undefined ? {} : { 'octomil.feature_spec_sha256': featureSpec.hash }),
      ...(featureSpec === undefined || featureSpec.target.classes.length === 0
        ? {}
        : { 'octomil.classes': JSON.stringify(featureSpec.target.classes) }),
    },
  });
  if (file.sizeBytes > MAX_ONNX_BYTES) {
    throw new OctomilError(
      'conversion_failed',
      `the model needs ${file.sizeBytes} bytes as ONNX; one file holds at most ${MAX_ONNX_BYTES}`,
    );
  }
  return file;
}

type Layer = ReturnType<typeof planModel>['graph']['layers'][number];

/** As our models are built: a sigmoid or softmax at the end belongs to the probabilities, not to the logits. */
function withLinearEnd(layer: Layer): Layer {
  if (layer.className === 'Softmax') return { ...layer, className: 'Activation', config: { activation: 'linear' } };
  const given = layer.config['activation'];
  if (given !== 'sigmoid' && given !== 'softmax') return layer;
  return { ...layer, config: { ...layer.config, activation: 'linear' } };
}

function writeOutputs(graph: OnnxGraph, { architecture, featureSpec }: ModelDocument, end: string): void {
  const { kind } = architecture.output;
  if (kind !== 'regression') {
    graph.nodeNamed('Identity', [end], 'logits');
    if (kind === 'binary') graph.nodeNamed('Sigmoid', [end], 'probabilities');
    else graph.nodeNamed('Softmax', [end], 'probabilities', { axis: -1 });
    return;
  }
  const { mean = 0, deviation = 1 } = featureSpec?.target ?? {};
  const scaled = graph.node('Mul', [end, graph.floats('target/deviation', [], Float32Array.of(deviation))], 'scaled');
  graph.nodeNamed('Add', [scaled, graph.floats('target/mean', [], Float32Array.of(mean))], 'value');
}
