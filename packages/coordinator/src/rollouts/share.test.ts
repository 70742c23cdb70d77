import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { inShare, nextShare, percentageOf, ratioOf, shareRanges } from './share.js';

const unit = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
const ratio = fc.double({ min: 0, max: 1, noNaN: true });

test('a growing share only adds devices, and the whole one holds all', () => {
  fc.assert(
    fc.property(unit, unit, ratio, ratio, (placement, offset, a, b) => {
      const [less, more] = a < b ? [a, b] : [b, a];
      if (inShare(placement, offset, less)) expect(inShare(placement, offset, more)).toBe(true);
      expect(inShare(placement, offset, 1)).toBe(true);
      expect(inShare(placement, offset, 0)).toBe(false);
    }),
  );
});

test('ranges lie within [0, 1), do not overlap, and are as wide as the share', () => {
  fc.assert(
    fc.property(unit, ratio, (offset, share) => {
      const ranges = shareRanges(offset, share);
      for (const { from, to } of ranges) expect(from >= 0 && from <= to && to <= 1).toBe(true);
      const [first, second] = ranges;
      if (first !== undefined && second !== undefined) expect(second.to).toBeLessThanOrEqual(first.from);
      expect(ranges.reduce((width, { from, to }) => width + to - from, 0)).toBeCloseTo(share, 12);
    }),
  );
});

test('membership is (placement + offset) mod 1 < share, away from the very edge', () => {
  fc.assert(
    fc.property(unit, unit, ratio, (placement, offset, share) => {
      const position = (placement + offset) % 1;
      fc.pre(Math.abs(position - share) > 1e-9 && position > 1e-9 && position < 1 - 1e-9);
      expect(inShare(placement, offset, share)).toBe(position < share);
    }),
  );
});

test('percentages come back as they went in, and ten steps of a tenth are the whole', () => {
  for (const percentage of [0, 0.001, 1, 7, 10, 12.5, 33.333, 99.999, 100]) {
    expect(percentageOf(ratioOf(percentage))).toBe(percentage);
  }
  let share = 0;
  for (let step = 0; step < 10; step++) share = nextShare(share, ratioOf(10), 1);
  expect(share).toBe(1);
  expect(nextShare(0.9, 0.2, 0.95)).toBe(0.95);
});
