import type * as TfjsLayers from '@tensorflow/tfjs-layers';

type MakeLayer = typeof TfjsLayers.layers;

export interface LayerCase {
  /** The layer's name in tfjs-layers, with what differs from the plain case. */
  readonly name: string;
  /** One shape for each input, without the batch. */
  readonly inputs: readonly (readonly number[])[];
  /** Inputs are whole numbers below this, which have no gradient. */
  readonly below?: number;
  /** Default 2. */
  readonly batch?: number;
  /** Why tfjs cannot compute its gradient, whatever the backend. */
  readonly unsupported?: string;
  /** What is wrong with its gradient in tfjs, on the JavaScript backend as on wasm. */
  readonly flaw?: string;
  build(make: MakeLayer): TfjsLayers.layers.Layer;
}

const SEQUENCE = [5, 3];
const PICTURE = [6, 5, 3];
/** The JavaScript backend confuses height and width in the gradient of resizing. */
const SQUARE = [6, 6, 3];
/** Its gradient of the nearest neighbour reads only the first item of a batch rightly. */
const NEAREST = { batch: 1 };
/** Forward, the mean is of what lies inside; the gradient divides by the whole window. */
const PADDED_AVERAGE = { flaw: 'too small at edges that padding reaches; pad "valid" avoids it' };
const VOLUME = [4, 5, 4, 2];
const TABLE = [7];

function layer(
  name: string,
  inputs: readonly (readonly number[])[],
  build: LayerCase['build'],
  more: Pick<LayerCase, 'below' | 'batch' | 'unsupported' | 'flaw'> = {},
): LayerCase {
  return { name, inputs, build, ...more };
}

const ACTIVATIONS = [
  'elu',
  'hardSigmoid',
  'linear',
  'relu',
  'relu6',
  'selu',
  'sigmoid',
  'softmax',
  'logSoftmax',
  'softplus',
  'softsign',
  'tanh',
  'swish',
  'mish',
  'gelu',
  'gelu_new',
] as const;

const activations: LayerCase[] = ACTIVATIONS.map((activation) =>
  layer(`activation ${activation}`, [TABLE], (make) =>
    // Its type does not know the three newest, the layer does.
    make.activation({ activation: activation as 'elu' }),
  ),
);

const basic: LayerCase[] = [
  layer('dense', [TABLE], (make) => make.dense({ units: 4, activation: 'relu' })),
  layer('dense of a sequence', [SEQUENCE], (make) => make.dense({ units: 4 })),
  layer('reLU', [TABLE], (make) => make.reLU({ maxValue: 0.5 })),
  layer('leakyReLU', [TABLE], (make) => make.leakyReLU({ alpha: 0.2 })),
  layer('prelu', [SEQUENCE], (make) => make.prelu({ sharedAxes: [1] })),
  layer('elu', [TABLE], (make) => make.elu({})),
  layer('thresholdedReLU', [TABLE], (make) => make.thresholdedReLU({ theta: 0.3 })),
  layer('softmax', [TABLE], (make) => make.softmax({})),
  layer('dropout', [TABLE], (make) => make.dropout({ rate: 0.4, seed: 3 })),
  layer('spatialDropout1d', [SEQUENCE], (make) => make.spatialDropout1d({ rate: 0.4, seed: 3 })),
  layer('alphaDropout', [TABLE], (make) => make.alphaDropout({ rate: 0.3 })),
  layer('gaussianDropout', [TABLE], (make) => make.gaussianDropout({ rate: 0.3 })),
  layer('gaussianNoise', [TABLE], (make) => make.gaussianNoise({ stddev: 0.2 })),
  layer('batchNormalization', [TABLE], (make) => make.batchNormalization({})),
  layer('batchNormalization of pictures', [PICTURE], (make) => make.batchNormalization({})),
  layer('batchNormalization of another axis', [PICTURE], (make) => make.batchNormalization({ axis: 1 }), {
    unsupported:
      'tfjs normalizes by statistics of other values than the axis has, and its gradient fails; put the channels last',
  }),
  layer('layerNormalization', [SEQUENCE], (make) => make.layerNormalization({})),
  layer('embedding', [[4]], (make) => make.embedding({ inputDim: 6, outputDim: 3 }), { below: 6 }),
  layer('flatten', [PICTURE], (make) => make.flatten()),
  layer('reshape', [SEQUENCE], (make) => make.reshape({ targetShape: [3, 5] })),
  layer('permute', [PICTURE], (make) => make.permute({ dims: [3, 1, 2] })),
  layer('repeatVector', [TABLE], (make) => make.repeatVector({ n: 3 })),
  layer('masking', [SEQUENCE], (make) => make.masking({ maskValue: 0 })),
  layer('cropping2D', [PICTURE], (make) =>
    make.cropping2D({
      cropping: [
        [1, 1],
        [0, 2],
      ],
    }),
  ),
  layer('zeroPadding2d', [PICTURE], (make) =>
    make.zeroPadding2d({
      padding: [
        [1, 0],
        [2, 1],
      ],
    }),
  ),
  layer('upSampling2d nearest', [SQUARE], (make) => make.upSampling2d({ size: [2, 3] }), NEAREST),
  layer('upSampling2d bilinear', [SQUARE], (make) => make.upSampling2d({ size: [2, 2], interpolation: 'bilinear' })),
  layer('rescaling', [PICTURE], (make) => make.rescaling({ scale: 0.5, offset: 0.1 })),
  layer('resizing bilinear', [SQUARE], (make) => make.resizing({ height: 4, width: 4, interpolation: 'bilinear' })),
  layer(
    'resizing nearest',
    [SQUARE],
    (make) => make.resizing({ height: 9, width: 9, interpolation: 'nearest' }),
    NEAREST,
  ),
  layer('centerCrop', [PICTURE], (make) => make.centerCrop({ height: 4, width: 3 }), {
    unsupported: 'tfjs has no gradient for CropAndResize; trains as the first layer, which needs none',
  }),
  layer('randomWidth', [SQUARE], (make) =>
    make.randomWidth({ factor: 0.4, interpolation: 'bilinear', seed: 3, autoVectorize: false }),
  ),
  layer('categoryEncoding', [[4]], (make) => make.categoryEncoding({ numTokens: 6, outputMode: 'multiHot' }), {
    below: 6,
  }),
];

const merging: LayerCase[] = [
  layer('add', [TABLE, TABLE, TABLE], (make) => make.add()),
  layer('average', [TABLE, TABLE, TABLE], (make) => make.average()),
  layer('multiply', [TABLE, TABLE], (make) => make.multiply()),
  layer('maximum', [TABLE, TABLE], (make) => make.maximum()),
  layer('minimum', [TABLE, TABLE], (make) => make.minimum()),
  layer('concatenate', [SEQUENCE, SEQUENCE], (make) => make.concatenate({ axis: 1 })),
  layer('dot', [SEQUENCE, SEQUENCE], (make) => make.dot({ axes: 2 })),
  layer('dot normalized', [TABLE, TABLE], (make) => make.dot({ axes: 1, normalize: true })),
];

const convolutions: LayerCase[] = [
  layer('conv1d', [SEQUENCE], (make) => make.conv1d({ filters: 4, kernelSize: 3, padding: 'same' })),
  layer('conv1d causal', [[8, 2]], (make) => make.conv1d({ filters: 3, kernelSize: 2, padding: 'causal' }), {
    unsupported: 'tfjs-layers has no causal padding',
  }),
  layer('conv2d', [PICTURE], (make) => make.conv2d({ filters: 4, kernelSize: 3, activation: 'relu' })),
  layer('conv2d strided', [PICTURE], (make) =>
    make.conv2d({ filters: 2, kernelSize: [3, 2], strides: 2, padding: 'same' }),
  ),
  layer('conv2d dilated', [PICTURE], (make) => make.conv2d({ filters: 2, kernelSize: 2, dilationRate: 2 }), {
    unsupported: 'tfjs has no gradient of a convolution with dilation',
  }),
  layer('conv2d channelsFirst', [[3, 6, 5]], (make) =>
    make.conv2d({ filters: 2, kernelSize: 3, dataFormat: 'channelsFirst' }),
  ),
  layer('conv2dTranspose', [PICTURE], (make) =>
    make.conv2dTranspose({ filters: 4, kernelSize: 3, strides: 2, padding: 'same' }),
  ),
  layer('conv3d', [VOLUME], (make) => make.conv3d({ filters: 3, kernelSize: 2, activation: 'relu' })),
  layer('conv3d strided', [VOLUME], (make) => make.conv3d({ filters: 2, kernelSize: 3, strides: 2, padding: 'same' })),
  layer('conv3dTranspose', [VOLUME], (make) =>
    make.conv3dTranspose({ filters: 3, kernelSize: 2, strides: 2, padding: 'same' }),
  ),
  layer('separableConv2d', [PICTURE], (make) =>
    make.separableConv2d({ filters: 4, kernelSize: 3, depthMultiplier: 2, padding: 'same' }),
  ),
  layer('depthwiseConv2d', [PICTURE], (make) => make.depthwiseConv2d({ kernelSize: 3, padding: 'same' })),
  layer('depthwiseConv2d strided, multiplied', [PICTURE], (make) =>
    make.depthwiseConv2d({ kernelSize: [3, 2], strides: [2, 2], depthMultiplier: 3 }),
  ),
  layer('convLstm2d', [[3, 5, 4, 2]], (make) =>
    make.convLstm2d({ filters: 3, kernelSize: 2, padding: 'same', returnSequences: true }),
  ),
];

const poolings: LayerCase[] = [
  layer('maxPooling1d', [SEQUENCE], (make) => make.maxPooling1d({ poolSize: 2 })),
  layer('averagePooling1d', [SEQUENCE], (make) => make.averagePooling1d({ poolSize: 2, strides: 1 })),
  layer('maxPooling2d', [PICTURE], (make) => make.maxPooling2d({ poolSize: 2, padding: 'same' })),
  layer('maxPooling2d overlapping', [PICTURE], (make) => make.maxPooling2d({ poolSize: 3, strides: 1 })),
  layer('averagePooling2d', [PICTURE], (make) => make.averagePooling2d({ poolSize: 2 })),
  layer(
    'averagePooling2d padded',
    [PICTURE],
    (make) => make.averagePooling2d({ poolSize: 3, strides: 2, padding: 'same' }),
    PADDED_AVERAGE,
  ),
  layer('maxPooling3d', [VOLUME], (make) => make.maxPooling3d({ poolSize: [2, 2, 2] })),
  layer(
    'averagePooling3d',
    [VOLUME],
    (make) => make.averagePooling3d({ poolSize: [2, 2, 2], padding: 'same' }),
    PADDED_AVERAGE,
  ),
  layer('globalAveragePooling1d', [SEQUENCE], (make) => make.globalAveragePooling1d({})),
  layer('globalAveragePooling2d', [PICTURE], (make) => make.globalAveragePooling2d({})),
  layer('globalMaxPooling1d', [SEQUENCE], (make) => make.globalMaxPooling1d({})),
  layer('globalMaxPooling2d', [PICTURE], (make) => make.globalMaxPooling2d({})),
];

const recurrent: LayerCase[] = [
  layer('simpleRNN', [SEQUENCE], (make) => make.simpleRNN({ units: 4 })),
  layer('gru', [SEQUENCE], (make) => make.gru({ units: 4, returnSequences: true })),
  layer('lstm', [SEQUENCE], (make) => make.lstm({ units: 4 })),
  layer('lstm backwards, with dropout', [SEQUENCE], (make) =>
    make.lstm({ units: 3, goBackwards: true, dropout: 0.3, recurrentDropout: 0.2 }),
  ),
  layer('rnn of stackedRNNCells', [SEQUENCE], (make) =>
    make.rnn({
      cell: make.stackedRNNCells({
        cells: [make.lstmCell({ units: 3 }), make.gruCell({ units: 2 }), make.simpleRNNCell({ units: 2 })],
      }),
    }),
  ),
  layer('bidirectional lstm', [SEQUENCE], (make) =>
    make.bidirectional({ layer: make.lstm({ units: 3, returnSequences: true }), mergeMode: 'concat' }),
  ),
  layer('bidirectional gru, summed', [SEQUENCE], (make) =>
    make.bidirectional({ layer: make.gru({ units: 3 }), mergeMode: 'sum' }),
  ),
  layer('timeDistributed dense', [SEQUENCE], (make) => make.timeDistributed({ layer: make.dense({ units: 2 }) })),
  layer('timeDistributed conv2d', [[3, ...PICTURE]], (make) =>
    make.timeDistributed({ layer: make.conv2d({ filters: 2, kernelSize: 3 }) }),
  ),
];

/** A small example of every layer type of tfjs-layers 4.22, and of the settings that take other kernels. */
export const LAYER_CASES: readonly LayerCase[] = [
  ...basic,
  ...activations,
  ...merging,
  ...convolutions,
  ...poolings,
  ...recurrent,
];
