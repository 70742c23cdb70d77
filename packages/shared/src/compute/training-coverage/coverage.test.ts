import { readFile } from 'node:fs/promises';
import { beforeAll, expect, test } from '@jest/globals';
import type * as Tfjs from '@tensorflow/tfjs-core';
import { type ComputeBackend, selectBackend } from '../backend-choice.js';
import type { WasmHeap } from '../wasm-composition.js';
import { renderTrainingCoverage } from './coverage-table.js';
import { LAYER_CASES } from './layer-cases.js';
import { STEP_CASES, takeSteps } from './step-cases.js';
import { trainOnce } from './train-once.js';

let backend: ComputeBackend;
let tf: typeof Tfjs;

beforeAll(async () => {
  backend = await selectBackend({ order: ['wasm'] });
  tf = backend.tf;
  poisonNewMemory(tf.findBackend('wasm') as unknown as WasmHeap);
});

/** Fresh memory of a short test is often zero: a kernel that forgets a part of its output would pass. */
function poisonNewMemory(heap: WasmHeap): void {
  const makeOutput: (...args: Parameters<WasmHeap['makeOutput']>) => ReturnType<WasmHeap['makeOutput']> =
    heap.makeOutput.bind(heap);
  heap.makeOutput = (shape, dtype, ...more: unknown[]) => {
    const tensor = makeOutput(shape, dtype, ...(more as []));
    const filled = more.some((value) => value !== undefined && value !== null);
    if (!filled && dtype === 'float32' && shape.every((size) => size > 0)) {
      heap.typedArrayFromHeap(tensor).fill(Number.NaN);
    }
    return tensor;
  };
}

async function onBoth<T>(compute: () => Promise<T>): Promise<{ readonly wasm: T; readonly cpu: T }> {
  await tf.setBackend('cpu');
  try {
    const cpu = await compute();
    await tf.setBackend('wasm');
    return { cpu, wasm: await compute() };
  } finally {
    await tf.setBackend('wasm');
  }
}

/** Greatest difference, as a share of the greatest value. */
function worst(found: Float32Array, wanted: Float32Array): number {
  expect(found).toHaveLength(wanted.length);
  const scale = Math.max(...wanted.map(Math.abs));
  return Math.max(...found.map((value, index) => Math.abs(value - (wanted[index] ?? Number.NaN)))) / (scale || 1);
}

const supported = LAYER_CASES.filter(({ unsupported }) => unsupported === undefined);
const refused = LAYER_CASES.filter(({ unsupported }) => unsupported !== undefined);

test.each(supported)('$name has the loss and the gradients of the JavaScript backend', async (layer) => {
  const tensors = tf.memory().numTensors;
  const { wasm, cpu } = await onBoth(() => trainOnce(tf, backend.layers, layer));
  expect(wasm.loss).toBeGreaterThan(0);
  expect(Math.abs(wasm.loss - cpu.loss)).toBeLessThan(1e-5 * Math.max(1, cpu.loss));
  expect(Object.keys(wasm.gradients)).toEqual(Object.keys(cpu.gradients));
  expect(Object.keys(cpu.gradients).length).toBeGreaterThan(layer.name === 'categoryEncoding' ? -1 : 0);
  for (const [name, gradient] of Object.entries(cpu.gradients)) {
    expect({ name, nothing: gradient.every((value) => value === 0) }).toEqual({ name, nothing: false });
    expect(worst(wasm.gradients[name] ?? new Float32Array(), gradient)).toBeLessThan(1e-4);
  }
  expect(tf.memory().numTensors - tensors).toBeLessThanOrEqual(layer.name.includes('dropout') ? 16 : 0);
});

test.each(refused)('$name is still refused by tfjs itself', async (layer) => {
  await expect(trainOnce(tf, backend.layers, layer)).rejects.toThrow();
});

test.each(STEP_CASES)('$kind $name takes the steps of the JavaScript backend', async (step) => {
  const { wasm, cpu } = await onBoth(() => takeSteps(tf, backend.layers, step));
  for (const [index, loss] of cpu.losses.entries()) {
    expect(Math.abs((wasm.losses[index] ?? Number.NaN) - loss)).toBeLessThan(1e-4 * Math.max(1, Math.abs(loss)));
  }
  expect(cpu.losses[2]).not.toBe(cpu.losses[0]);
  for (const [index, weight] of cpu.weights.entries()) {
    expect(worst(wasm.weights[index] ?? new Float32Array(), weight)).toBeLessThan(1e-4);
  }
});

test('every layer and optimizer of tfjs has a case', () => {
  // Classes, inputs, other names of the same, and cells, which train within their layers.
  const alike =
    /^(Layer|RNN|RNNCell|(simpleRNN|gru|lstm)Cell|input|inputLayer|convLstm2dCell|(global)?(avg|average|[mM]ax)Pool(ing)?\dd)$/i;
  const cases = LAYER_CASES.map(({ name }) => name).join(' ');
  const missing = Object.keys(backend.layers.layers).filter((name) => !cases.includes(name) && !alike.test(name));
  expect(missing).toEqual([]);
  const optimizers = STEP_CASES.map(({ name }) => name);
  expect(Object.keys(tf.train).filter((name) => !optimizers.includes(name))).toEqual([]);
});

test('docs/training-coverage.md is current', async () => {
  const committed = await readFile(new URL('../../../../../docs/training-coverage.md', import.meta.url), 'utf8');
  expect(committed).toBe(await renderTrainingCoverage(tf, backend.layers));
});
