import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { joinRanges, missingRanges, rangesToFetch, totalBytes } from './byte-ranges.js';

const SIZE = 60;
const ranges = fc.array(
  fc.tuple(fc.nat(SIZE), fc.nat(SIZE)).map(([a, b]) => ({ start: Math.min(a, b), end: Math.max(a, b) })),
  { maxLength: 6 },
);
const bytesOf = (of: readonly { start: number; end: number }[]) =>
  new Set(of.flatMap(({ start, end }) => Array.from({ length: end - start }, (_, i) => start + i)));

test('what is fetched and what is held together hold what is wanted, no byte twice, no gap wider than allowed', () => {
  fc.assert(
    fc.property(ranges, ranges, fc.nat(10), (wanted, some, gap) => {
      const held = joinRanges(some);
      const fetched = rangesToFetch(wanted, held, gap);
      const [want, have, get] = [bytesOf(wanted), bytesOf(held), bytesOf(fetched)];
      expect(totalBytes(fetched)).toBe(get.size);
      expect([...get].filter((byte) => have.has(byte))).toEqual([]);
      expect([...want].filter((byte) => !have.has(byte) && !get.has(byte))).toEqual([]);
      const filled = joinRanges([...get].filter((byte) => !want.has(byte)).map((start) => ({ start, end: start + 1 })));
      for (const { start, end } of filled) expect(end - start).toBeLessThanOrEqual(gap);
      expect(bytesOf(missingRanges(wanted, held))).toEqual(new Set([...want].filter((byte) => !have.has(byte))));
    }),
  );
});
