import { expect, test } from '@jest/globals';
import type { NamedTensor } from '@octomil/shared/tensors';
import { applyFilters, deltaOf, type Filter, proximal } from './filters.js';

const tensor = (...data: number[]): NamedTensor => ({ name: 'w', shape: [data.length], data: Float32Array.from(data) });
const half = (): number => 0.5;

function filtered(data: readonly number[], ...filters: Filter[]): number[] {
  return [...(applyFilters([tensor(...data)], filters, half).tensors[0]?.data ?? [])];
}

test('a difference holds what both have', () => {
  const base = [tensor(1, 2), { ...tensor(5), name: 'only here' }];
  const updated = [tensor(4, 6), { ...tensor(7), name: 'only there' }];
  expect(deltaOf(base, updated).map(({ name, data }) => [name, [...data]])).toEqual([['w', [3, 4]]]);
});

test('FedProx shrinks by 1 ÷ (1 + μ), and leaves all as it is without μ', () => {
  expect([...(proximal([tensor(3, 4)], 1)[0]?.data ?? [])]).toEqual([1.5, 2]);
  expect([...(proximal([tensor(3, 4)], 0)[0]?.data ?? [])]).toEqual([3, 4]);
});

test('each filter does to a tensor what its name says', () => {
  expect(filtered([3, 4], { type: 'gradient_clip', max_norm: 1 })).toEqual([0.6, 0.8].map(Math.fround));
  expect(filtered([0.3, 0.4], { type: 'gradient_clip' })).toEqual([0.3, 0.4].map(Math.fround));
  expect(filtered([30, 40], { type: 'norm_validation' })).toEqual([0, 0]);
  expect(filtered([3, 4], { type: 'norm_validation' })).toEqual([3, 4]);
  expect(filtered([1, -5, 2, 3], { type: 'sparsification', top_k_percent: 50 })).toEqual([0, -5, 0, 3]);
  // At least one stays.
  expect(filtered([1, -5, 2], { type: 'sparsification', top_k_percent: 1 })).toEqual([0, -5, 0]);
  // Two levels: the ends.
  expect(filtered([0, 0.2, 0.9, 1], { type: 'quantization', bits: 1 })).toEqual([0, 0, 1, 1]);
  expect(filtered([7, 7], { type: 'quantization' })).toEqual([7, 7]);
  // cos(π) = −1, and a radius of √(2 ln 2).
  expect(filtered([0], { type: 'gaussian_noise', stddev: 2 })[0]).toBeCloseTo(-2 * Math.sqrt(2 * Math.log(2)), 6);
});

test('filters run in their order, and one that is not known leaves all as it is and is told', () => {
  const clip = { type: 'gradient_clip', max_norm: 1 };
  const check = { type: 'norm_validation', max_norm: 2 };
  expect(filtered([30, 40], clip, check)).toEqual([0.6, 0.8].map(Math.fround));
  expect(filtered([30, 40], check, clip)).toEqual([0, 0]);
  const { records, tensors } = applyFilters([tensor(1)], [{ type: 'constructor' }, clip], half);
  expect(records).toEqual([
    { type: 'constructor', applied: false },
    { type: 'gradient_clip', applied: true },
  ]);
  expect([...(tensors[0]?.data ?? [])]).toEqual([1]);
});

test.each([
  { type: 'gradient_clip', max_norm: -1 },
  { type: 'gradient_clip', max_norm: '1' },
  { type: 'norm_validation', max_norm: Number.NaN },
  { type: 'gaussian_noise', stddev: -0.1 },
  { type: 'sparsification', top_k_percent: 101 },
  { type: 'quantization', bits: 0 },
])('a parameter outside its range is refused before anything leaves: %j', (filter) => {
  expect(() => filtered([3, 4], filter)).toThrow(/config_invalid.*must be a number.*nothing was sent/);
});
