import type { ColumnProfile, LevelCount } from '@octomil/shared/data';
import { type ColumnStatistics, MINIMUM_ROWS, type Moments, type SeenKind } from './site-statistics.js';

/**
 * Makes of a column's profile what may leave the site, or null where fewer than 10 rows have a value.
 *
 * The rule: before anything is counted, rows in a group of fewer than 10 are put into a larger group, and every
 * number published is a function of that changed column alone.
 *
 * - Values found in fewer than 10 rows become one group, `other`. Where that is still under 10 rows, those rows are
 *   counted as the column's most frequent value.
 * - Fewer than 10 missing cells are counted as the most frequent value, or as the mean where there is none.
 *
 * **Why subtracting reveals nothing.** The classic attack takes two published numbers whose difference is a small
 * group: all rows less the named categories, rows less non-missing rows, a sum less the sum over the named values.
 * Here both numbers are computed from the changed column, in which no group is smaller than 10, so every difference
 * is about 0 rows or at least 10; `count + missing + zeros` is always `rows`, and the categories with `other` always
 * add up to `count`. A table with and one without the small group give the same answer.
 *
 * **Why every count is a multiple of ten.** Two answers, before and after one patient was added, would otherwise tell
 * that patient's values by the counts that went from 145 to 146. Rounded to the nearest ten, one more row changes a
 * count by 0 or 10, and nine times out of ten changes none; a size of 10 or more never falls below 10. `missing` and
 * `count` are differences of rounded numbers, so that they tell nothing more. Only where another value becomes the
 * most frequent one, and takes the small groups over, may a category move further. Rounding makes such a comparison
 * coarse; it does not rule it out, for a count at the edge (144 rows to 145) still moves.
 *
 * Means and deviations are rounded to between 1/32 and 1/64 of the standard deviation: a sum known exactly would give
 * away the number of rows it was divided by (whole numbers have whole sums), and two answers before and after one
 * patient was added would give away that patient's value. There are no minima, maxima or quantiles, as each is one
 * row's value.
 *
 * This holds within one answer. A series of answers with targets or markers chosen to differ by a few rows could still
 * be compared, so an agent gives one answer per content of its table (`digestOf`) and question, and logs each.
 *
 * @param rows of the table, exact
 */
export function suppressColumn(profile: ColumnProfile, rows: number): ColumnStatistics | null {
  if (profile.present < MINIMUM_ROWS) return null;
  const fewMissing = rows - profile.present < MINIMUM_ROWS;
  const present = roundCount(fewMissing ? rows : profile.present);
  const seen = seenKind(profile);
  const base = { name: profile.name, seen, missing: roundCount(rows) - present };
  if (profile.levels !== null) {
    const recoded = recode(profile.levels, fewMissing ? rows - profile.present : 0);
    const moments = seen === 'integer' || seen === 'numeric' ? momentsOfLevels(recoded) : null;
    return {
      ...base,
      count: present,
      zeros: 0,
      moments: moments === null ? null : roundMoments({ ...moments, count: present }),
      levels: roundLevels(recoded),
      categories: recoded.named.map(({ value, count }) => ({ value, count: roundCount(count) })),
      // Down, not to the nearest: 18 rows of two values, of which one becomes frequent enough for a name, leave 0.
      other: Math.floor(total(recoded.rare) / COUNT_STEP) * COUNT_STEP,
    };
  }
  const numeric = seen === 'integer' || seen === 'numeric';
  const zeros = numeric && zerosStandOut(profile) ? roundCount(profile.zeros) : 0;
  const count = present - zeros;
  const moments =
    zeros > 0
      ? { count, mean: profile.nonZeroMean, deviation: profile.nonZeroDeviation }
      : { count, mean: profile.mean, deviation: profile.deviation };
  return {
    ...base,
    count,
    zeros,
    moments: numeric ? roundMoments(moments) : null,
    levels: null,
    categories: [],
    other: 0,
    ...(isCodes(profile) ? { codes: true as const } : {}),
  };
}

/** Counts leave a site as multiples of this. */
const COUNT_STEP = 10;

/** To the nearest ten: 145 and 154 rows are both 150. A difference of 10 or more stays one. */
export function roundCount(rows: number): number {
  return Math.round(rows / COUNT_STEP) * COUNT_STEP;
}

/** All rare values are one level, for a new one would be a new patient; beyond ten values, tens are told, rounded up. */
function roundLevels({ named, rare }: Recoded): number {
  const distinct = named.length + rare.length;
  if (distinct > COUNT_STEP) return Math.ceil(distinct / COUNT_STEP) * COUNT_STEP;
  return named.length + Math.min(1, rare.length);
}

export function seenKind(profile: ColumnProfile): SeenKind {
  if (profile.family === 'boolean') return 'boolean';
  if (profile.numbers < profile.present || profile.hasCodes) return 'text';
  return profile.whole ? 'integer' : 'numeric';
}

/** Numbers with leading zeros, many and repeating: codes, of which none names a row. */
export function isCodes(profile: ColumnProfile): boolean {
  return (
    profile.hasCodes &&
    profile.levels === null &&
    profile.numbers > profile.present / 2 &&
    profile.distinctEstimate < profile.present / 2
  );
}

/**
 * 0 is no plausible value where the others stay more than three deviations away from it (a cholesterol of 0).
 * Both groups must be large enough to be counted.
 */
function zerosStandOut(profile: ColumnProfile): boolean {
  return (
    profile.zeros >= MINIMUM_ROWS &&
    profile.present - profile.zeros >= MINIMUM_ROWS &&
    Math.abs(profile.nonZeroMean) > 3 * profile.nonZeroDeviation
  );
}

interface Recoded {
  /** Values of 10 rows or more, by name. */
  readonly named: LevelCount[];
  /** The others, together 10 rows or more, or none. Their values stay at the site; their number and sum do not. */
  readonly rare: LevelCount[];
}

function recode(levels: readonly LevelCount[], fewMissing: number): Recoded {
  const named = levels
    .filter(({ count }) => count >= MINIMUM_ROWS)
    .sort((a, b) => (a.value < b.value ? -1 : 1))
    .map((level) => ({ ...level }));
  const rare = levels.filter(({ count }) => count < MINIMUM_ROWS);
  const largest = named.reduce<{ value: string; count: number } | undefined>(
    (best, level) => (best === undefined || level.count > best.count ? level : best),
    undefined,
  );
  // Without a named value, the rare ones hold every row with a value: 10 at least.
  if (largest === undefined) return { named, rare: spread(rare, fewMissing) };
  largest.count += fewMissing;
  if (total(rare) >= MINIMUM_ROWS) return { named, rare };
  largest.count += total(rare);
  return { named, rare: [] };
}

/** Adds rows to a group in proportion, which leaves its mean as it is. */
function spread(levels: readonly LevelCount[], rows: number): LevelCount[] {
  const all = total(levels);
  return levels.map(({ value, count }) => ({ value, count: count + (rows * count) / all }));
}

const total = (levels: readonly LevelCount[]) => Math.round(levels.reduce((sum, { count }) => sum + count, 0));

function momentsOfLevels({ named, rare }: Recoded): Moments {
  const all = [...named, ...rare].map(({ value, count }) => ({ value: Number(value), count }));
  const count = all.reduce((sum, level) => sum + level.count, 0);
  const mean = all.reduce((sum, level) => sum + level.value * level.count, 0) / count;
  const squares = all.reduce((sum, level) => sum + level.count * (level.value - mean) ** 2, 0);
  return { count, mean, deviation: Math.sqrt(squares / count) };
}

/** To between 1/32 and 1/64 of the deviation. */
export function roundMoments({ count, mean, deviation }: Moments): Moments {
  if (deviation <= Math.abs(mean) * 1e-12) return { count, mean: Number(mean.toPrecision(6)), deviation: 0 };
  const grid = 2 ** Math.floor(Math.log2(deviation)) / 32;
  return { count, mean: Math.round(mean / grid) * grid, deviation: Math.round(deviation / grid) * grid };
}
