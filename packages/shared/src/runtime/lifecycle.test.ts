import { expect, test } from '@jest/globals';
import { Lifecycle } from './lifecycle.js';

test('stops in reverse order, once, and goes on past a step that fails', async () => {
  const order: string[] = [];
  const lifecycle = new Lifecycle();
  lifecycle.onStop('database', () => void order.push('database'));
  lifecycle.onStop('broken', () => {
    order.push('broken');
    throw new RangeError('broken');
  });
  lifecycle.add('server', { stop: async () => void order.push('server') });
  await expect(lifecycle.stop()).rejects.toThrow('broken');
  await expect(lifecycle.stop()).rejects.toThrow('broken');
  expect(order).toEqual(['server', 'broken', 'database']);
});
