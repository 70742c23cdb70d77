import { expect, test } from '@jest/globals';
import type { ColumnProfile } from '@octomil/shared/data';
import fc from 'fast-check';
import { MAX_LEVELS, MINIMUM_ROWS } from './site-statistics.js';
import { suppressColumn } from './suppression.js';

type Cell = number | string | null;

/** What a reader finds, computed the plain way. */
function profileOf(cells: readonly Cell[]): ColumnProfile {
  const present = cells.filter((cell) => cell !== null);
  const numbers = present.filter((cell) => typeof cell === 'number');
  const counts = new Map<Cell, number>();
  for (const cell of present) counts.set(cell, (counts.get(cell) ?? 0) + 1);
  const moments = (values: readonly number[]): [number, number] => {
    const mean = values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
    const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
    return [mean, Math.sqrt(squares / Math.max(1, values.length))];
  };
  const [mean, deviation] = moments(numbers);
  const [nonZeroMean, nonZeroDeviation] = moments(numbers.filter((value) => value !== 0));
  return {
    name: 'x',
    key: 'x',
    family: 'text',
    present: present.length,
    numbers: numbers.length,
    hasCodes: false,
    whole: numbers.every(Number.isInteger),
    distinctEstimate: counts.size,
    sequential: false,
    mean,
    deviation,
    zeros: counts.get(0) ?? 0,
    nonZeroMean,
    nonZeroDeviation,
    levels: counts.size > MAX_LEVELS ? null : [...counts].map(([value, count]) => ({ value: String(value), count })),
  };
}

const group = (cell: fc.Arbitrary<Cell>) =>
  fc.tuple(cell, fc.integer({ min: 1, max: 25 })).map(([value, count]) => new Array<Cell>(count).fill(value));
const levelled = (cell: fc.Arbitrary<Cell>) =>
  fc.array(group(cell), { minLength: 1, maxLength: 8 }).map((all) => all.flat());
const measured = fc
  .tuple(
    fc.array(fc.double({ min: 50, max: 300, noNaN: true }), { minLength: 40, maxLength: 80 }),
    fc.integer({ min: 0, max: 25 }),
    fc.integer({ min: 0, max: 25 }),
  )
  .map(([values, zeros, missing]): Cell[] => [
    ...values,
    ...new Array(zeros).fill(0),
    ...new Array(missing).fill(null),
  ]);
const columns = fc.oneof(
  levelled(fc.constantFrom<Cell>(null, 'm', 'f', 'unknown', 'other')),
  levelled(fc.constantFrom<Cell>(null, 0, 1, 2, 3, 7)),
  measured,
);

test('every published count is nothing or at least ten rows, and so is every difference of two', () => {
  fc.assert(
    fc.property(columns, (cells) => {
      const rows = cells.length;
      const profile = profileOf(cells);
      const published = suppressColumn(profile, rows);
      if (published === null) return expect(profile.present).toBeLessThan(MINIMUM_ROWS);
      const { count, missing, zeros, other, categories, levels } = published;
      const named = categories.reduce((sum, category) => sum + category.count, 0);
      const groups = [count, missing, zeros, other, ...categories.map((category) => category.count), rows - count];
      for (const size of [...groups, ...(levels === null ? [] : [count - named])]) {
        expect(size === 0 || size >= MINIMUM_ROWS).toBe(true);
        expect(Number.isInteger(size)).toBe(true);
      }
      expect(count + missing + zeros).toBe(rows);
      if (levels !== null) expect(named + other).toBe(count);
    }),
    { numRuns: 500 },
  );
});

test('a small group leaves no trace: without it, everything published is the same', () => {
  fc.assert(
    fc.property(levelled(fc.constantFrom<Cell>(null, 0, 1, 2, 5)), (cells) => {
      const counts = new Map<Cell, number>();
      for (const cell of cells) counts.set(cell, (counts.get(cell) ?? 0) + 1);
      const named = [...counts]
        .filter(([cell, count]) => cell !== null && count >= MINIMUM_ROWS)
        .sort(([a, x], [b, y]) => y - x || (String(a) < String(b) ? -1 : 1));
      const [largest] = named[0] ?? [];
      const rare = [...counts].filter(([cell, count]) => cell !== null && count < MINIMUM_ROWS);
      const rareRows = rare.reduce((sum, [, count]) => sum + count, 0);
      fc.pre(largest !== undefined && rareRows < MINIMUM_ROWS);
      const recoded = cells.map((cell) => ((counts.get(cell) ?? 0) < MINIMUM_ROWS ? (largest ?? null) : cell));
      const published = suppressColumn(profileOf(cells), cells.length);
      expect(published).toEqual(suppressColumn(profileOf(recoded), recoded.length));
    }),
    { numRuns: 500 },
  );
});

test('the mean tells neither how many rows it was divided by nor what one more patient had', () => {
  const values = Array.from({ length: 200 }, (_, i) => 100 + ((i * 37) % 101));
  const meanOf = (cells: readonly Cell[]) => suppressColumn(profileOf(cells), cells.length)?.moments?.mean;
  for (const missing of [1, 4, 9]) {
    const [blank, typical] = [null, 150].map((cell) => new Array<Cell>(missing).fill(cell));
    expect(meanOf([...values, ...(blank ?? [])])).toBe(meanOf([...values, ...(typical ?? [])]));
  }
  expect(meanOf([...values, 150])).toBe(meanOf([...values, 190]));
});

test('zeros are set apart only where all else is far from zero, and ten rows hold them', () => {
  const far = Array.from({ length: 100 }, (_, i) => 200 + i);
  const near = Array.from({ length: 100 }, (_, i) => i / 10);
  const zerosOf = (cells: readonly Cell[]) => suppressColumn(profileOf(cells), cells.length)?.zeros;
  expect(zerosOf([...far, ...new Array(12).fill(0)])).toBe(12);
  expect(zerosOf([...far, ...new Array(9).fill(0)])).toBe(0);
  expect(zerosOf([...near, ...new Array(12).fill(0)])).toBe(0);
});
