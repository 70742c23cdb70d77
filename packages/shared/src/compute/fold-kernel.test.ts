import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { createFoldKernel, type FoldKernel, firstNonFinite } from './fold-kernel.js';

const finite = fc.float({ noNaN: true, noDefaultInfinity: true });
const lengths = fc.integer({ min: 0, max: 45 });
const weight = fc.oneof(fc.nat(1_000_000), fc.double({ noNaN: true, min: -1e6, max: 1e6 }));
const foldCase = fc.tuple(lengths, fc.array(weight, { maxLength: 7 })).chain(([length, weights]) => {
  const vector = fc.array(finite, { minLength: length, maxLength: length });
  return fc.record({
    weights: fc.constant(weights),
    base: vector,
    inputs: fc.array(vector, { minLength: weights.length, maxLength: weights.length }),
  });
});

function kernels(): FoldKernel[] {
  return (['wasm', 'js'] as const).map((implementation) => createFoldKernel({ memoryBytes: 65_536, implementation }));
}

function place(kernel: FoldKernel, values: readonly number[]): Float32Array {
  const vector = kernel.float32(values.length);
  vector.set(values);
  return vector;
}

const bytesOf = (vector: Float64Array | Float32Array): string =>
  Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength).toString('hex');

test('wasm and JavaScript fold to the same bytes, which are those of the plain formula', () => {
  fc.assert(
    fc.property(foldCase, ({ weights, base, inputs }) => {
      const results = kernels().map((kernel) => {
        const sum = kernel.float64(base.length);
        const baseVector = place(kernel, base);
        const out = kernel.float32(base.length);
        const inputsFinite = kernel.accumulate(
          sum,
          inputs.map((input) => place(kernel, input)),
          weights,
        );
        const folded = bytesOf(sum);
        kernel.divide(sum, 7);
        kernel.subtract(sum, baseVector);
        const outFinite = kernel.addRounded(baseVector, sum, out);
        return { inputsFinite, folded, sum: bytesOf(sum), out: bytesOf(out), outFinite, values: [...out] };
      });
      expect(results[0]).toEqual(results[1]);
      const expected = base.map((value, index) => {
        let sum = 0;
        for (const [input, weightOfIt] of weights.entries()) sum += weightOfIt * (inputs[input]?.[index] ?? Number.NaN);
        return Math.fround(value + (sum / 7 - value));
      });
      expect(results[0]?.values).toEqual(expected);
      expect(results[0]?.inputsFinite).toBe(true);
      expect(results[0]?.outFinite).toBe(expected.every(Number.isFinite));
    }),
    { numRuns: 300 },
  );
});

test('several inputs at once give the bytes of one after another', () => {
  fc.assert(
    fc.property(foldCase, ({ weights, base, inputs }) => {
      const [kernel] = kernels() as [FoldKernel];
      const vectors = inputs.map((input) => place(kernel, input));
      const together = kernel.float64(base.length);
      const apart = kernel.float64(base.length);
      kernel.accumulate(together, vectors, weights);
      for (const [index, vector] of vectors.entries()) kernel.accumulate(apart, [vector], [weights[index] ?? 0]);
      expect(bytesOf(together)).toBe(bytesOf(apart));
    }),
    { numRuns: 100 },
  );
});

test('one value that is not finite, anywhere, in any input, is noticed', () => {
  const bad = fc.constantFrom(Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY);
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 45 }),
      fc.integer({ min: 1, max: 7 }),
      fc.nat(),
      bad,
      (length, count, at, value) => {
        for (const kernel of kernels()) {
          const inputs = Array.from({ length: count }, () => kernel.float32(length).fill(1));
          const index = at % length;
          const spoiled = inputs[at % count] as Float32Array;
          spoiled[index] = value;
          expect(
            kernel.accumulate(
              kernel.float64(length),
              inputs,
              inputs.map(() => 0),
            ),
          ).toBe(false);
          expect(kernel.addRounded(spoiled, kernel.float64(length), kernel.float32(length))).toBe(false);
          expect(firstNonFinite(spoiled)).toBe(index);
          kernel.resetMeasure();
          kernel.measure(spoiled);
          expect(kernel.measured().finite).toBe(false);
          kernel.resetMeasure();
          kernel.measure(kernel.float32(length));
          expect(kernel.measured()).toEqual({ sumOfSquares: 0, maxAbs: 0, finite: true });
        }
      },
    ),
    { numRuns: 150 },
  );
});

test('the measure is the same in both, however a vector is cut into pieces', () => {
  const values = fc.array(finite, { maxLength: 45 });
  fc.assert(
    fc.property(values, fc.array(fc.integer({ min: 0, max: 4 })), (vector, cuts) => {
      const results = kernels().map((kernel) => {
        kernel.resetMeasure();
        kernel.measure(place(kernel, vector));
        const whole = kernel.measured();
        kernel.resetMeasure();
        let start = 0;
        for (const cut of cuts) {
          if (start + cut * 4 > vector.length) break;
          kernel.measure(place(kernel, vector.slice(start, start + cut * 4)));
          start += cut * 4;
        }
        kernel.measure(place(kernel, vector.slice(start)));
        expect(kernel.measured()).toEqual(whole);
        return whole;
      });
      expect(results[0]).toEqual(results[1]);
      expect(results[0]?.maxAbs).toBe(Math.max(0, ...vector.map(Math.abs)));
      const squares = vector.reduce((sum, value) => sum + value * value, 0);
      expect(results[0]?.sumOfSquares).toBeCloseTo(squares, -Math.log10(squares + 1) - 12);
    }),
    { numRuns: 200 },
  );
});

test('memory that is used up, and vectors from elsewhere, are refused', () => {
  for (const kernel of kernels()) expect(() => kernel.float64(2 ** 20)).toThrow(/insufficient_memory/);
  const [wasm] = kernels() as [FoldKernel];
  expect(() => wasm.accumulate(wasm.float64(4), [new Float32Array(4)], [1])).toThrow(/this kernel's memory/);
  expect(() => wasm.accumulate(wasm.float64(4), [wasm.float32(3)], [1])).toThrow(/3 values is not one of 4/);
});

test('the committed module is what its generator makes', () => {
  const script = fileURLToPath(new URL('../../../../scripts/build-wasm.js', import.meta.url));
  execFileSync(process.execPath, [script, '--check']);
});
