import type { GraphValue, LayerContext } from './layer-context.js';
import type { Attribute } from './onnx-graph.js';

const DIRECT: Readonly<Record<string, readonly [string, Readonly<Record<string, Attribute>>]>> = {
  relu: ['Relu', {}],
  sigmoid: ['Sigmoid', {}],
  tanh: ['Tanh', {}],
  elu: ['Elu', { alpha: { float: 1 } }],
  selu: ['Selu', {}],
  softplus: ['Softplus', {}],
  softsign: ['Softsign', {}],
  hard_sigmoid: ['HardSigmoid', { alpha: { float: 0.2 }, beta: { float: 0.5 } }],
};

/**
 * Applies an activation by its tfjs name.
 *
 * @throws OctomilError `conversion_failed` for one that is not known here
 */
export function activate(layer: LayerContext, value: GraphValue, activation: unknown): GraphValue {
  const name = typeof activation === 'string' ? snake(activation) : 'linear';
  if (name === 'linear') return value;
  const to = (output: string, order = value.order): GraphValue => ({ ...value, name: output, order });
  const { graph } = layer;
  const scalar = (label: string, number: number): string =>
    graph.floats(`${layer.name}/${label}`, [], Float32Array.of(number));
  const suffix = `/${name}`;
  const direct = Object.hasOwn(DIRECT, name) ? DIRECT[name] : undefined;
  if (direct !== undefined) return to(layer.node(direct[0], [value.name], direct[1], suffix));
  switch (name) {
    case 'softmax':
    case 'log_softmax': {
      // Over the last axis of tfjs's order.
      const opType = name === 'softmax' ? 'Softmax' : 'LogSoftmax';
      return to(layer.node(opType, [layer.channelsLast(value)], { axis: -1 }, suffix), 'channels_last');
    }
    case 'relu6':
      return to(layer.node('Clip', [value.name, scalar('low', 0), scalar('high', 6)], {}, suffix));
    case 'swish':
      return to(layer.node('Mul', [value.name, layer.node('Sigmoid', [value.name], {}, suffix)], {}, suffix));
    case 'mish': {
      const bent = layer.node('Tanh', [layer.node('Softplus', [value.name], {}, suffix)], {}, suffix);
      return to(layer.node('Mul', [value.name, bent], {}, suffix));
    }
    case 'gelu': {
      // x/2 · (1 + erf(x/√2)); the operator of this name is younger than opset 17.
      const scaled = layer.node('Mul', [value.name, scalar('gelu_scale', Math.SQRT1_2)], {}, suffix);
      const erf = layer.node('Erf', [scaled], {}, suffix);
      const share = layer.node('Add', [erf, scalar('gelu_one', 1)], {}, suffix);
      const half = layer.node('Mul', [value.name, scalar('gelu_half', 0.5)], {}, suffix);
      return to(layer.node('Mul', [half, share], {}, suffix));
    }
    default:
      throw layer.refuse(`activation ${name} has no counterpart`);
  }
}

function snake(name: string): string {
  return name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
