import { foldCell, numberOfText } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { fixedReference } from './date-encoder.js';
import { datePartsOf } from './feature-hints.js';
import { DATE_SPANS, type DatePart, type DateSpan, type FeatureColumn } from './feature-spec.js';
import { mismatch } from './merge-target.js';
import { combineMoments, NO_MOMENTS, roundConstant } from './moments.js';
import { levelCounts, type MergeContext, needsIndicator, presentRows, type SiteColumn } from './site-columns.js';
import type { ColumnStatistics, DerivedMoments, Moments } from './site-statistics.js';

const DEFAULT_BUCKETS = 32;
/** Fixed for good: another seed is another encoding. */
const HASH_SEED = 'octomil';

/** Levels as cells are compared with them. @throws `invalid_input` for a level twice, or a text where cells are numbers */
export function foldLevels(name: string, levels: readonly (string | number)[], values: 'text' | 'number'): string[] {
  const folded = levels.map((level) => {
    if (values === 'text') return foldCell(String(level));
    const number = numberOfText(String(level));
    if (number !== undefined) return String(number + 0);
    throw new OctomilError(
      'invalid_input',
      `the hint for column "${name}" has the level "${level}", but the column holds numbers at every site; name its levels as numbers`,
    );
  });
  const twice = folded.find((level, place) => folded.indexOf(level) !== place);
  if (twice === undefined) return folded;
  throw new OctomilError(
    'invalid_input',
    `the hint for column "${name}" has levels with "${twice}" twice: case and spaces around make no difference`,
  );
}

const isNumber = ({ seen }: ColumnStatistics) => seen === 'integer' || seen === 'numeric';

/** @throws `invalid_input` without levels, which have no order by themselves unless they are numbers */
export function mergeOrdinal(
  name: string,
  columns: readonly SiteColumn[],
  context: MergeContext,
): FeatureColumn | undefined {
  const numeric = columns.every(({ column }) => isNumber(column));
  const odd = columns.find(({ column }) => isNumber(column) !== numeric);
  if (odd !== undefined) {
    throw mismatch(odd.site, `its column "${name}" holds numbers, but text elsewhere; use the same coding everywhere`);
  }
  const counts = levelCounts(columns);
  const hinted = context.hint?.hint.levels;
  if (hinted === undefined && !numeric) {
    throw new OctomilError(
      'invalid_input',
      `the hint for column "${name}" makes it ordinal, but not in which order; give its levels, such as ${[...counts.keys()].slice(0, 5).join(', ') || 'low, high'}`,
    );
  }
  const values = numeric ? 'number' : 'text';
  const levels =
    hinted === undefined ? [...counts.keys()].sort((a, b) => Number(a) - Number(b)) : foldLevels(name, hinted, values);
  let moments: Moments = NO_MOMENTS;
  levels.forEach((level, place) => {
    moments = combineMoments(moments, { count: counts.get(level) ?? 0, mean: place, deviation: 0 });
  });
  const { count, mean, deviation } = moments;
  if (levels.length < 2 || (count > 0 && deviation === 0)) {
    context.warn(`column "${name}" is left out: it is the same in all rows that may be counted`);
    return undefined;
  }
  const even = { mean: (levels.length - 1) / 2, deviation: Math.sqrt((levels.length ** 2 - 1) / 12) };
  return {
    kind: 'ordinal',
    name,
    levels,
    values,
    // Levels that no site may count by name are taken as equally frequent.
    mean: roundConstant(count === 0 ? even.mean : mean),
    deviation: roundConstant(count === 0 ? even.deviation : deviation),
    missingMarkers: context.markers ?? [],
    missingIndicator: needsIndicator(presentRows(columns), context),
  };
}

export function mergeHashed(name: string, columns: readonly SiteColumn[], context: MergeContext): FeatureColumn {
  return {
    kind: 'hashed',
    name,
    buckets: context.hint?.hint.buckets ?? DEFAULT_BUCKETS,
    seed: HASH_SEED,
    missingMarkers: context.markers ?? [],
    missingIndicator: needsIndicator(presentRows(columns), context),
  };
}

/** @throws `invalid_input` where years or days are to be derived without a reference */
export function mergeDatetime(
  name: string,
  columns: readonly SiteColumn[],
  context: MergeContext,
): FeatureColumn | undefined {
  const { hint = {} } = context.hint ?? {};
  const odd = columns.find(({ column }) => column.seen !== 'time');
  if (odd !== undefined) throw mismatch(odd.site, `its column "${name}" was not described as dates; describe it again`);
  const from = hint.reference;
  fixedReference({ name, ...(from === undefined ? {} : { from }) });
  const parts = datePartsOf(hint).flatMap((part): DatePart[] => {
    if (!isSpan(part)) return [{ part }];
    if (from === undefined) {
      throw new OctomilError(
        'invalid_input',
        `the hint for column "${name}" derives ${part}, but not from when; give a reference: a date, or {"column": …}`,
      );
    }
    const moments = columns.reduce((sum, { column }) => combineMoments(sum, derivedMoments(column, part)), NO_MOMENTS);
    if (roundConstant(moments.deviation) === 0) {
      context.warn(`column "${name}": its ${part} are left out: they are the same in all rows that may be counted`);
      return [];
    }
    return [{ part, mean: roundConstant(moments.mean), deviation: roundConstant(moments.deviation) }];
  });
  if (parts.length === 0) {
    context.warn(`column "${name}" is left out: nothing that is derived of its dates differs between rows`);
    return undefined;
  }
  return {
    kind: 'datetime',
    name,
    format: hint.format ?? 'iso',
    parts,
    ...(from === undefined ? {} : { from }),
    missingMarkers: context.markers ?? [],
    missingIndicator: needsIndicator(presentRows(columns), context),
  };
}

function isSpan(part: string): part is DateSpan {
  return DATE_SPANS.some((span) => span === part);
}

export function derivedMoments({ derived = [] }: ColumnStatistics, part: DerivedMoments['part']): Moments {
  return derived.find((one) => one.part === part)?.moments ?? NO_MOMENTS;
}
