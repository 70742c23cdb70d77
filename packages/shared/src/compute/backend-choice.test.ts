import { expect, test } from '@jest/globals';
import { parseBackendOrder, selectBackend } from './backend-choice.js';

test('the first backend that works is chosen once, and says why the ones before it were not', async () => {
  const backend = await selectBackend();
  expect(backend.tried.at(-1)).toEqual({ name: backend.name });
  for (const attempt of backend.tried.slice(0, -1)) expect(attempt.reason).toMatch(/\w/);
  expect(await selectBackend({ order: ['cpu'] })).toBe(backend);
  const product = backend.tf.matMul(backend.tf.tensor2d([[1, 2]]), backend.tf.tensor2d([[3], [4]]));
  expect([...(await product.data())]).toEqual([11]);
});

test('recurrent layers find the chained operations that their initializer calls', async () => {
  const { tf, layers } = await selectBackend();
  const model = layers.sequential({ layers: [layers.layers.gru({ units: 3, inputShape: [4, 2] })] });
  const [output] = [model.predict(tf.ones([1, 4, 2]))].flat();
  expect(output?.shape).toEqual([1, 3]);
});

test('an unknown name in the order is refused with the known ones', () => {
  expect(parseBackendOrder(' wasm, cpu ')).toEqual(['wasm', 'cpu']);
  expect(() => parseBackendOrder('cuda')).toThrow(/"cuda".*tfjs-node-gpu, tfjs-node, webgpu, wasm, cpu/);
  expect(() => parseBackendOrder(',')).toThrow(/config_invalid/);
});
