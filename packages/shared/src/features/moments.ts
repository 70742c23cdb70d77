import type { ColumnStatistics, Moments } from './site-statistics.js';

export const NO_MOMENTS: Moments = { count: 0, mean: 0, deviation: 0 };

/**
 * Moments of two groups together, by Chan, Golub and LeVeque (1979), "Updating formulae and a pairwise algorithm for
 * computing sample variances": no difference of large squares, so a column of large values with a small spread keeps
 * its precision.
 */
export function combineMoments(a: Moments, b: Moments): Moments {
  if (a.count === 0) return b;
  if (b.count === 0) return a;
  const count = a.count + b.count;
  const delta = b.mean - a.mean;
  const mean = a.mean + (delta * b.count) / count;
  const squares = a.count * a.deviation ** 2 + b.count * b.deviation ** 2 + (delta ** 2 * a.count * b.count) / count;
  return { count, mean, deviation: Math.sqrt(squares / count) };
}

/** The group without `count` rows that all hold `value`: `combineMoments` backwards. */
export function removeValue(all: Moments, value: number, count: number): Moments {
  const left = all.count - count;
  if (left <= 0) return NO_MOMENTS;
  if (count === 0) return all;
  const mean = all.mean + ((all.mean - value) * count) / left;
  const squares = all.count * all.deviation ** 2 - ((mean - value) ** 2 * left * count) / all.count;
  return { count: left, mean, deviation: Math.sqrt(Math.max(0, squares / left)) };
}

/** Moments of a column as it is in the file, zeros that stand out included. */
export function allMoments(column: ColumnStatistics): Moments {
  return combineMoments(column.moments ?? NO_MOMENTS, { count: column.zeros, mean: 0, deviation: 0 });
}

/** How many rows of the column are known to hold `value`; at least 10, or 0. */
export function countOfValue(column: ColumnStatistics, value: number): number {
  if (value === 0 && column.zeros > 0) return column.zeros;
  return column.categories.find((category) => Number(category.value) === value)?.count ?? 0;
}

/** Constants of the spec have six significant digits. */
export function roundConstant(value: number): number {
  return Number(value.toPrecision(6));
}
