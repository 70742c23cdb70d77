import { performance } from 'node:perf_hooks';
import { type ComputeBackend, selectBackend } from '@octomil/shared/compute';
import type { BenchmarkResult } from './result.js';

const SIDE = 28;
const CLASSES = 10;
const BATCH = 32;

interface Trained {
  readonly imagesPerSecond: number;
  readonly imagesPerCpuSecond: number;
  readonly loss: number;
}

/**
 * Trains a network of two convolutions on pictures of 28 × 28, on wasm with the kernel bridge and then on the JavaScript
 * backend of tfjs, from the same weights and pictures. Both take one batch first, uncounted: it compiles.
 */
export async function cnnBench(options: {
  readonly images: number;
  readonly cpuImages: number;
}): Promise<BenchmarkResult> {
  const backend = await selectBackend({ order: ['wasm'] });
  const wasm = await train(backend, 'wasm', options.images);
  const wasmSameImages = await train(backend, 'wasm', options.cpuImages);
  const cpu = await train(backend, 'cpu', options.cpuImages);
  backend.dispose();
  return {
    wasmImagesPerSecond: wasm.imagesPerSecond,
    cpuImagesPerSecond: cpu.imagesPerSecond,
    timesFaster: wasm.imagesPerSecond / cpu.imagesPerSecond,
    wasmImagesPerCpuSecond: wasm.imagesPerCpuSecond,
    cpuImagesPerCpuSecond: cpu.imagesPerCpuSecond,
    // Of the same pictures: what the speed is worth, if the numbers are others.
    wasmLoss: wasmSameImages.loss,
    cpuLoss: cpu.loss,
    target: 'at least 30 times',
  };
}

async function train({ tf, layers }: ComputeBackend, name: 'wasm' | 'cpu', images: number): Promise<Trained> {
  await tf.setBackend(name);
  const seeded = (seed: number): ReturnType<typeof layers.initializers.heNormal> =>
    layers.initializers.heNormal({ seed });
  const convolution = (filters: number, input = {}): ReturnType<typeof layers.layers.conv2d> =>
    layers.layers.conv2d({
      ...input,
      filters,
      kernelSize: 3,
      activation: 'relu',
      kernelInitializer: seeded(filters),
    });
  const model = layers.sequential({
    layers: [
      convolution(16, { inputShape: [SIDE, SIDE, 1] }),
      layers.layers.maxPooling2d({ poolSize: 2 }),
      convolution(32),
      layers.layers.maxPooling2d({ poolSize: 2 }),
      layers.layers.flatten(),
      layers.layers.dense({ units: CLASSES, activation: 'softmax', kernelInitializer: seeded(1) }),
    ],
  });
  const optimizer = tf.train.adam(0.002);
  model.compile({ optimizer, loss: 'categoricalCrossentropy' });
  const x = tf.tensor4d(pictures(images), [images, SIDE, SIDE, 1]);
  const y = tf.oneHot(
    tf.tensor1d(
      Array.from({ length: images }, (_, index) => index % CLASSES),
      'int32',
    ),
    CLASSES,
  );
  const settings = { batchSize: BATCH, epochs: 1, shuffle: false, verbose: 0 } as const;
  const [firstX, firstY] = [tf.slice(x, 0, BATCH), tf.slice(y, 0, BATCH)];
  await model.fit(firstX, firstY, settings);
  const cpuBefore = process.cpuUsage();
  const started = performance.now();
  const history = await model.fit(x, y, settings);
  const seconds = (performance.now() - started) / 1_000;
  const { user, system } = process.cpuUsage(cpuBefore);
  model.dispose();
  optimizer.dispose();
  tf.dispose([x, y, firstX, firstY]);
  return {
    imagesPerSecond: images / seconds,
    imagesPerCpuSecond: (images * 1e6) / (user + system),
    loss: Number(history.history['loss']?.at(-1)),
  };
}

/** Noise with a bright bar whose place tells the class. */
function pictures(count: number): Float32Array {
  return Float32Array.from({ length: count * SIDE * SIDE }, (_, index) => {
    const picture = Math.floor(index / (SIDE * SIDE));
    const row = Math.floor(index / SIDE) % SIDE;
    const bright = Math.floor(row / 2.8) === picture % CLASSES ? 1 : 0;
    return bright + 0.3 * Math.sin((index + 1) * 12.9898);
  });
}
