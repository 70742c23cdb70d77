import type { ByteParts } from '../byte-parts.js';
import { bytesOf } from '../byte-parts.js';
import { ProtobufMessage } from './protobuf.js';

/** Field numbers of `onnx.proto` (onnx/onnx), as far as they are used. */
const MODEL = { irVersion: 1, producerName: 2, producerVersion: 3, graph: 7, opsetImport: 8, metadataProps: 14 };
const GRAPH = { node: 1, name: 2, initializer: 5, input: 11, output: 12 };
const NODE = { input: 1, output: 2, name: 3, opType: 4, attribute: 5 };
const ATTRIBUTE = { name: 1, float: 2, int: 3, string: 4, ints: 8, type: 20 };
const ATTRIBUTE_TYPE = { float: 1, int: 2, string: 3, ints: 7 };
const TENSOR = { dims: 1, dataType: 2, name: 8, rawData: 9 };
const DATA_TYPE = { float: 1, int64: 7 };

const IR_VERSION = 8;
const OPSET_VERSION = 17;

export type Attribute = number | string | readonly number[] | { readonly float: number };

/** Collects the nodes and constants of a graph whose batch size is open. */
export class OnnxGraph {
  readonly #nodes: ProtobufMessage[] = [];
  readonly #initializers: ProtobufMessage[] = [];
  readonly #names = new Set<string>();

  /** Adds a node of one output. @returns the output's name: `name`, or that with a number when it is taken */
  node(
    opType: string,
    inputs: readonly string[],
    name: string,
    attributes: Readonly<Record<string, Attribute>> = {},
  ): string {
    const output = this.#unique(name);
    const node = new ProtobufMessage();
    for (const input of inputs) node.text(NODE.input, input);
    node.text(NODE.output, output).text(NODE.name, output).text(NODE.opType, opType);
    for (const [key, value] of Object.entries(attributes)) node.message(NODE.attribute, attribute(key, value));
    this.#nodes.push(node);
    return output;
  }

  /** Float constants: an array, or bytes that are made when the file is written. @returns their name */
  floats(name: string, shape: readonly number[], data: Float32Array | ByteParts): string {
    const bytes = data instanceof Float32Array ? onePart(bytesOf(data)) : data;
    return this.#initializer(name, shape, DATA_TYPE.float, bytes);
  }

  /** A vector of whole numbers, as shapes and axes are. */
  ints(name: string, values: readonly number[]): string {
    const bytes = bytesOf(BigInt64Array.from(values, BigInt));
    return this.#initializer(name, [values.length], DATA_TYPE.int64, onePart(bytes));
  }

  /** Reserves a name that the file must have, such as that of an output. */
  reserve(name: string): string {
    this.#names.add(name);
    return name;
  }

  /** Adds a node whose output has a reserved name. */
  nodeNamed(opType: string, inputs: readonly string[], reserved: string, attributes = {}): void {
    this.#names.delete(reserved);
    this.node(opType, inputs, reserved, attributes);
  }

  /** The file. Shapes are those of one row; the batch comes in front. */
  toModel(options: {
    readonly name: string;
    readonly input: { readonly name: string; readonly shape: readonly number[] };
    readonly outputs: readonly { readonly name: string; readonly shape: readonly number[] }[];
    readonly metadata: Readonly<Record<string, string>>;
  }): ByteParts {
    const graph = new ProtobufMessage();
    for (const node of this.#nodes) graph.message(GRAPH.node, node);
    graph.text(GRAPH.name, options.name);
    for (const initializer of this.#initializers) graph.message(GRAPH.initializer, initializer);
    graph.message(GRAPH.input, valueInfo(options.input));
    for (const output of options.outputs) graph.message(GRAPH.output, valueInfo(output));
    const model = new ProtobufMessage()
      .int(MODEL.irVersion, IR_VERSION)
      .text(MODEL.producerName, 'octomil')
      .message(MODEL.graph, graph)
      // The default domain of operators.
      .message(MODEL.opsetImport, new ProtobufMessage().text(1, '').int(2, OPSET_VERSION));
    for (const [key, value] of Object.entries(options.metadata)) {
      model.message(MODEL.metadataProps, new ProtobufMessage().text(1, key).text(2, value));
    }
    return model;
  }

  #initializer(name: string, shape: readonly number[], dataType: number, bytes: ByteParts): string {
    const unique = this.#unique(name);
    const tensor = new ProtobufMessage();
    for (const size of shape) tensor.int(TENSOR.dims, size);
    tensor.int(TENSOR.dataType, dataType).text(TENSOR.name, unique).message(TENSOR.rawData, bytes);
    this.#initializers.push(tensor);
    return unique;
  }

  #unique(name: string): string {
    let unique = name;
    for (let count = 2; this.#names.has(unique); count++) unique = `${name}_${count}`;
    this.#names.add(unique);
    return unique;
  }
}

const onePart = (bytes: Uint8Array): ByteParts => ({ sizeBytes: bytes.length, parts: () => [bytes] });

function attribute(name: string, value: Attribute): ProtobufMessage {
  const out = new ProtobufMessage().text(ATTRIBUTE.name, name);
  if (typeof value === 'number') return out.int(ATTRIBUTE.int, value).int(ATTRIBUTE.type, ATTRIBUTE_TYPE.int);
  if (typeof value === 'string') return out.text(ATTRIBUTE.string, value).int(ATTRIBUTE.type, ATTRIBUTE_TYPE.string);
  if ('float' in value) return out.float(ATTRIBUTE.float, value.float).int(ATTRIBUTE.type, ATTRIBUTE_TYPE.float);
  for (const item of value) out.int(ATTRIBUTE.ints, item);
  return out.int(ATTRIBUTE.type, ATTRIBUTE_TYPE.ints);
}

/** A float tensor whose first dimension is named `batch`. */
function valueInfo({ name, shape }: { name: string; shape: readonly number[] }): ProtobufMessage {
  const dims = new ProtobufMessage().message(1, new ProtobufMessage().text(2, 'batch'));
  for (const size of shape) dims.message(1, new ProtobufMessage().int(1, size));
  const tensor = new ProtobufMessage().int(1, DATA_TYPE.float).message(2, dims);
  return new ProtobufMessage().text(1, name).message(2, new ProtobufMessage().message(1, tensor));
}
