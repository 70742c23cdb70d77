import type { Architecture } from './architecture.js';
import { outputWidth } from './architecture.js';
import type { JsonObject } from './layer-config.js';

type BuiltIn = Exclude<Architecture, { name: 'layers' }>;

const GLOROT = { class_name: 'VarianceScaling', config: { scale: 1, mode: 'fan_avg', distribution: 'uniform' } };

/** Writes a built-in architecture as the topology that it stands for, ending in a linear layer named `output`. */
export function builtInTopology(architecture: BuiltIn, inputWidth: number): JsonObject {
  const layers = hiddenLayers(architecture);
  layers.push(layer('Dense', 'output', { units: outputWidth(architecture.output), ...dense('linear') }));
  const inputShape = architecture.name === 'cnn' ? architecture.inputShape : [inputWidth];
  const [first, ...rest] = layers;
  const head = { ...first, config: { ...first?.config, batch_input_shape: [null, ...inputShape], dtype: 'float32' } };
  return { class_name: 'Sequential', config: { name: architecture.name, layers: [head, ...rest] } };
}

interface LayerJson {
  readonly class_name: string;
  readonly config: Readonly<Record<string, unknown>>;
}

const layer = (className: string, name: string, config: object): LayerJson => ({
  class_name: className,
  config: { name, trainable: true, ...config },
});

const dense = (activation: string): object => ({
  activation,
  use_bias: true,
  kernel_initializer: GLOROT,
  bias_initializer: { class_name: 'Zeros', config: {} },
});

function hiddenLayers(architecture: BuiltIn): LayerJson[] {
  switch (architecture.name) {
    case 'logistic':
      return [];
    case 'mlp':
      return architecture.hidden.map((units, index) =>
        layer('Dense', `dense_${index + 1}`, { units, ...dense(architecture.activation) }),
      );
    case 'cnn':
      return convolutions(architecture);
  }
}

function convolutions(architecture: Extract<BuiltIn, { name: 'cnn' }>): LayerJson[] {
  const { kernelSize, activation } = architecture;
  let [height, width] = architecture.inputShape;
  const layers: LayerJson[] = [];
  architecture.filters.forEach((filters, index) => {
    const settings = { filters, kernel_size: [kernelSize, kernelSize], strides: [1, 1], padding: 'same' };
    layers.push(layer('Conv2D', `conv_${index + 1}`, { ...settings, ...dense(activation) }));
    if (height < 2 || width < 2) return;
    layers.push(layer('MaxPooling2D', `pool_${index + 1}`, { pool_size: [2, 2], strides: [2, 2], padding: 'valid' }));
    height = Math.floor(height / 2);
    width = Math.floor(width / 2);
  });
  layers.push(layer('Flatten', 'flatten', {}));
  layers.push(layer('Dense', 'dense_1', { units: architecture.hidden, ...dense(activation) }));
  return layers;
}
