import { GLOROT_NORMAL, ORTHOGONAL, ZEROS } from '../initializers.js';
import { isObject, LayerConfig, type LayerPlan, type LayerRule } from '../layer-config.js';

/** @param gates kernels side by side: 1 for SimpleRNN, 3 for GRU, 4 for LSTM */
function recurrent(gates: 1 | 3 | 4): LayerRule {
  return (layer, inputs) => {
    const [steps = 1, width = 1] = layer.only(inputs, 2);
    for (const key of ['dropout', 'recurrent_dropout']) {
      // tfjs draws these masks unseeded: the same seed would not give the same bytes.
      if ((layer.settings[key] ?? 0) !== 0) throw layer.refuse(`${key} is not supported; put a Dropout layer after it`);
    }
    for (const key of ['stateful', 'return_state', 'reset_after']) {
      if (layer.flag(key, false)) throw layer.refuse(`${key} is not supported`);
    }
    const units = layer.integer('units');
    const weights = [
      layer.weight('kernel', [width, units * gates], layer.initializer('kernel_initializer', GLOROT_NORMAL)),
      layer.weight('recurrent_kernel', [units, units * gates], layer.initializer('recurrent_initializer', ORTHOGONAL)),
    ];
    if (layer.flag('use_bias', true)) {
      const rest = layer.initializer('bias_initializer', ZEROS);
      const forget = gates === 4 && layer.flag('unit_forget_bias', true);
      weights.push(layer.weight('bias', [units * gates], forget ? { kind: 'unit-forget', rest } : rest));
    }
    return { output: layer.flag('return_sequences', false) ? [steps, units] : [units], weights };
  };
}

const RULES: Readonly<Record<string, LayerRule>> = {
  SimpleRNN: recurrent(1),
  GRU: recurrent(3),
  LSTM: recurrent(4),
};

const bidirectional: LayerRule = (layer, inputs) => {
  const inner = layer.settings['layer'];
  if (!isObject(inner) || typeof inner['class_name'] !== 'string' || !isObject(inner['config'])) {
    throw layer.refuse('has no inner layer');
  }
  const { class_name: className, config } = inner;
  const rule = Object.hasOwn(RULES, className) ? RULES[className] : undefined;
  if (rule === undefined) throw layer.refuse(`inner layer ${className} is not one of ${Object.keys(RULES).join(', ')}`);
  const innerName = typeof config['name'] === 'string' ? config['name'] : className.toLowerCase();
  const side = (direction: string): LayerPlan =>
    rule(new LayerConfig(`${layer.name}/${direction}_${innerName}`, className, config), inputs);
  const forward = side('forward');
  const backward = side('backward');
  const mode = layer.choice('merge_mode', ['concat', 'sum', 'mul', 'ave'], 'concat');
  const output = mode === 'concat' ? forward.output.with(-1, 2 * (forward.output.at(-1) ?? 1)) : forward.output;
  return { output, weights: [...forward.weights, ...backward.weights] };
};

export const RECURRENT_RULES: Readonly<Record<string, LayerRule>> = { ...RULES, Bidirectional: bidirectional };
