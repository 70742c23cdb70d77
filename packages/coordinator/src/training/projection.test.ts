import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { projectionMatrix } from './projection.js';

const names = fc.uniqueArray(fc.string({ maxLength: 20 }), { minLength: 1, maxLength: 30 });

test('columns have length 1 or nothing in them, and one or two numbers stand in each row', () => {
  fc.assert(
    fc.property(names, fc.integer({ min: 1, max: 40 }), (features, dim) => {
      const matrix = projectionMatrix(features, dim);
      expect(matrix.map((row) => row.length)).toEqual(features.map(() => dim));
      for (const row of matrix) {
        const places = row.filter((value) => value !== 0).length;
        expect(places).toBeGreaterThanOrEqual(1);
        expect(places).toBeLessThanOrEqual(dim > 10 ? 2 : 1);
      }
      for (let column = 0; column < dim; column++) {
        const length = Math.sqrt(matrix.reduce((sum, row) => sum + (row[column] ?? 0) ** 2, 0));
        if (length !== 0) expect(length).toBeCloseTo(1, 10);
      }
    }),
  );
});

test('a name goes to the same places whatever other names there are', () => {
  const places = (row: readonly number[] | undefined) => row?.flatMap((value, column) => (value === 0 ? [] : [column]));
  expect(places(projectionMatrix(['age'], 16)[0])).toEqual(places(projectionMatrix(['sex', 'chol', 'age'], 16)[2]));
});
