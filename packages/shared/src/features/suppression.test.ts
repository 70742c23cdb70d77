import { expect, test } from '@jest/globals';
import type { ColumnProfile } from '@octomil/shared/data';
import fc from 'fast-check';
import { MAX_LEVELS, MINIMUM_ROWS } from './site-statistics.js';
import { roundCount, suppressColumn } from './suppression.js';

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

test('every published count is nothing or tens of rows, and so is every difference of two', () => {
  fc.assert(
    fc.property(columns, (cells) => {
      const rows = cells.length;
      const profile = profileOf(cells);
      const published = suppressColumn(profile, rows);
      if (published === null) return expect(profile.present).toBeLessThan(MINIMUM_ROWS);
      const { count, missing, zeros, other, categories, moments } = published;
      const groups = [count, missing, zeros, other, ...categories.map((category) => category.count)];
      for (const size of [...groups, count - (categories[0]?.count ?? 0)]) {
        expect(size).toBeGreaterThanOrEqual(0);
        expect(size % 10).toBe(0);
      }
      for (const category of categories) expect(category.count).toBeGreaterThanOrEqual(MINIMUM_ROWS);
      expect(count + missing + zeros).toBe(roundCount(rows));
      if (moments !== null) expect(moments.count).toBe(count);
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
  expect(zerosOf([...far, ...new Array(12).fill(0)])).toBe(10);
  expect(zerosOf([...far, ...new Array(9).fill(0)])).toBe(0);
  expect(zerosOf([...near, ...new Array(12).fill(0)])).toBe(0);
});

/** Published counts by name; undefined where the column is not listed. */
function countsOf(cells: readonly Cell[]): Map<string, number> | undefined {
  const published = suppressColumn(profileOf(cells), cells.length);
  if (published === null) return undefined;
  const { count, missing, zeros, other, categories, levels } = published;
  const named = categories.map((category): [string, number] => [`= ${category.value}`, category.count]);
  const all = Object.entries({ rows: roundCount(cells.length), count, missing, zeros, other, levels: levels ?? 0 });
  return new Map([...all, ...named]);
}

/** The value that small groups are counted as. */
function mostFrequent(cells: readonly Cell[]): string | undefined {
  const counts = new Map<string, number>();
  for (const cell of cells) if (cell !== null) counts.set(String(cell), (counts.get(String(cell)) ?? 0) + 1);
  const named = [...counts].filter(([, count]) => count >= MINIMUM_ROWS);
  return named.sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1))[0]?.[0];
}

test('one more row changes each published count by nothing or by ten', () => {
  const added = fc.constantFrom<Cell>(null, 0, 1, 2, 3, 7, 'm', 'f', 'unknown', 'other');
  fc.assert(
    fc.property(columns, added, (cells, cell) => {
      const [before, after] = [countsOf(cells), countsOf([...cells, cell])];
      fc.pre(before !== undefined && after !== undefined);
      fc.pre(mostFrequent(cells) === mostFrequent([...cells, cell]));
      // Text in a column of numbers, or one value more than are counted, makes another kind of column of it.
      const kind = (all: readonly Cell[]) => {
        const published = suppressColumn(profileOf(all), all.length);
        return [published?.seen, published?.levels === null, (published?.zeros ?? 0) > 0].join();
      };
      fc.pre(kind(cells) === kind([...cells, cell]));
      for (const name of new Set([...before.keys(), ...after.keys()])) {
        const change = Math.abs((after.get(name) ?? 0) - (before.get(name) ?? 0));
        expect([name, name === 'levels' ? change <= 1 : change === 0 || change === 10]).toEqual([name, true]);
      }
    }),
    { numRuns: 1000 },
  );
});

test('most added rows leave no trace in the counts, nor in the deviation', () => {
  let changed = 0;
  for (let rows = 200; rows < 300; rows++) {
    const cells = Array.from({ length: rows }, (_, i): Cell => (i % 2 === 0 ? 'm' : 'f'));
    const [before, after] = [countsOf(cells), countsOf([...cells, 'm'])];
    if (JSON.stringify([...(before ?? [])]) !== JSON.stringify([...(after ?? [])])) changed++;
  }
  expect(changed).toBeGreaterThan(0);
  expect(changed).toBeLessThanOrEqual(20);
  let moved = 0;
  for (let rows = 120; rows < 220; rows++) {
    const values = Array.from({ length: rows }, (_, i) => 100 + ((i * 37) % 101));
    const deviation = (cells: readonly Cell[]) => suppressColumn(profileOf(cells), cells.length)?.moments?.deviation;
    if (deviation(values) !== deviation([...values, 150])) moved++;
  }
  // To three digits, nearly all of them would move.
  expect(moved).toBeLessThan(50);
});

test('one more rare value is not told', () => {
  const rare = Array.from({ length: 12 }, (_, i): Cell => `rare ${i % 4}`);
  const cells = [...new Array<Cell>(60).fill('m'), ...new Array<Cell>(22).fill('f'), ...rare];
  expect(countsOf([...cells.slice(0, -1), 'new'])).toEqual(countsOf(cells));
  expect(countsOf(cells)?.get('levels')).toBe(3);
});
