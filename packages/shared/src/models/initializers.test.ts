import { expect, test } from '@jest/globals';
import { parseArchitecture } from './architecture.js';
import { drawWeight, GLOROT_UNIFORM, type Initializer, ORTHOGONAL } from './initializers.js';
import { initialWeights } from './model-plan.js';
import { seededRandom, shuffle } from './random.js';

const moments = (data: Float32Array): { mean: number; deviation: number; most: number } => {
  const mean = data.reduce((sum, value) => sum + value, 0) / data.length;
  const deviation = Math.sqrt(data.reduce((sum, value) => sum + (value - mean) ** 2, 0) / data.length);
  return { mean, deviation, most: data.reduce((most, value) => Math.max(most, Math.abs(value)), 0) };
};

test('the generator is sfc32: numbers of an independent 64-bit-integer reference', () => {
  const mask = 0xffff_ffffn;
  let [a, b, c, counter] = [12345n, 1n, 0x811c9dc5n, 1n];
  const next = (): number => {
    const result = (a + b + counter) & mask;
    counter = (counter + 1n) & mask;
    a = b ^ (b >> 9n);
    b = (c + (c << 3n)) & mask;
    c = ((((c << 21n) & mask) | (c >> 11n)) + result) & mask;
    return Number(result);
  };
  for (let round = 0; round < 15; round++) next();
  const random = seededRandom(2 ** 32 + 12345, '');
  for (let round = 0; round < 1000; round++) expect(random.uint32()).toBe(next());
});

test('a shuffle keeps every item and puts each in every place about equally often', () => {
  const random = seededRandom(1, 'test');
  const firsts = new Array<number>(5).fill(0);
  for (let round = 0; round < 5000; round++) {
    const items = Uint32Array.from([0, 1, 2, 3, 4]);
    shuffle(items, random);
    expect([...items].sort()).toEqual([0, 1, 2, 3, 4]);
    firsts[items[0] ?? 0] = (firsts[items[0] ?? 0] ?? 0) + 1;
  }
  for (const count of firsts) expect(Math.abs(count - 1000)).toBeLessThan(150);
});

test('glorot uniform fills ±√(6 / (in + out)), evenly', () => {
  const { mean, deviation, most } = moments(drawWeight(GLOROT_UNIFORM, [100, 200], 3, 'w'));
  const limit = Math.sqrt(6 / 300);
  expect(most).toBeLessThanOrEqual(limit);
  expect(most).toBeGreaterThan(limit * 0.99);
  expect(Math.abs(mean)).toBeLessThan(limit * 0.02);
  expect(deviation).toBeCloseTo(limit / Math.sqrt(3), 3);
});

test('the fan of a convolution counts its kernel', () => {
  const he: Initializer = { kind: 'variance-scaling', scale: 2, mode: 'fan_in', distribution: 'uniform' };
  const { most } = moments(drawWeight(he, [3, 3, 16, 64], 3, 'w'));
  expect(most).toBeLessThanOrEqual(Math.sqrt(6 / (9 * 16)));
  expect(most).toBeGreaterThan(Math.sqrt(6 / (9 * 16)) * 0.98);
});

test('a truncated normal stays within two deviations', () => {
  const { most, mean } = moments(
    drawWeight({ kind: 'normal', mean: 1, deviation: 0.1, truncated: true }, [5000], 3, 'w'),
  );
  expect(most).toBeLessThanOrEqual(1.2000001);
  expect(mean).toBeCloseTo(1, 1);
});

test.each([
  [6, 3],
  [3, 6],
  [5, 5],
])('an orthogonal %d × %d matrix has orthonormal vectors along its short side', (rows, columns) => {
  const data = drawWeight(ORTHOGONAL, [rows, columns], 3, 'w');
  const entry = (row: number, column: number): number => data[row * columns + column] ?? 0;
  const tall = rows >= columns;
  for (let left = 0; left < Math.min(rows, columns); left++) {
    for (let right = 0; right < Math.min(rows, columns); right++) {
      let dot = 0;
      for (let along = 0; along < Math.max(rows, columns); along++) {
        dot += tall ? entry(along, left) * entry(along, right) : entry(left, along) * entry(right, along);
      }
      expect(dot).toBeCloseTo(left === right ? 1 : 0, 5);
    }
  }
});

test("an LSTM's bias starts with ones for its forget gate", () => {
  const bias = drawWeight({ kind: 'unit-forget', rest: { kind: 'constant', value: 0 } }, [8], 1, 'b');
  expect([...bias]).toEqual([0, 0, 1, 1, 0, 0, 0, 0]);
});

test('first weights follow from the seed alone, and each from its own stream', () => {
  const small = parseArchitecture({ name: 'mlp', hidden: [4] });
  const large = parseArchitecture({ name: 'mlp', hidden: [4, 4] });
  const kernel = (architecture: typeof small, seed: number) =>
    initialWeights(architecture, 3, seed).find(({ name }) => name === 'dense_1/kernel')?.data;
  expect(kernel(small, 1)).toEqual(kernel(small, 1));
  expect(kernel(small, 1)).toEqual(kernel(large, 1));
  expect(kernel(small, 1)).not.toEqual(kernel(small, 2));
  expect(kernel(small, 1)).not.toEqual(kernel(small, 1 + 2 ** 32));
});
