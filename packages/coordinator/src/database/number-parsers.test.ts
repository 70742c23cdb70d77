import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { parseInt8, parseNumeric } from './number-parsers.js';

test('every safe integer survives, every other is refused', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), (value) => {
      const fits = value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER);
      if (fits) expect(BigInt(parseInt8(value.toString()))).toBe(value);
      else expect(() => parseInt8(value.toString())).toThrow('does not fit');
    }),
  );
});

test('numeric answers the nearest double and what PostgreSQL spells in words', () => {
  expect(['0.1', '-12.50', 'NaN', 'Infinity', '-Infinity'].map(parseNumeric)).toEqual([
    0.1,
    -12.5,
    Number.NaN,
    Infinity,
    -Infinity,
  ]);
  expect(() => parseNumeric(`1${'0'.repeat(400)}`)).toThrow('does not fit');
});
