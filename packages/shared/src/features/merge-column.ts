import { FALSE_TEXTS, type MissingMarker, numberOfText, TRUE_TEXTS } from '@octomil/shared/data';
import type { FeatureColumn } from './feature-spec.js';
import type { SiteEntry } from './merge-statistics.js';
import { mismatch } from './merge-target.js';
import { allMoments, combineMoments, countOfValue, NO_MOMENTS, removeValue, roundConstant } from './moments.js';
import { compareText } from './natural-order.js';
import { type ColumnStatistics, MAX_LEVELS, MINIMUM_ROWS, type Moments } from './site-statistics.js';

export interface SiteColumn {
  readonly site: SiteEntry;
  readonly column: ColumnStatistics;
}

export interface MergeContext {
  /** Rows of all sites, those without the column included. */
  readonly rows: number;
  /** Markers that the user has declared; the sites have already taken them out. */
  readonly markers: readonly MissingMarker[] | undefined;
  readonly warn: (warning: string) => void;
}

/** Missing indicators are for columns with a larger share of missing values than this. */
const INDICATOR_RATIO = 0.01;
/** Whole numbers are codes, not measurements, where there are at most this many of them, none beyond MAX_CODE. */
const MAX_CODES = 10;
const MAX_CODE = 20;
const BOOLEAN_TEXTS: ReadonlySet<string> = new Set([...TRUE_TEXTS, ...FALSE_TEXTS]);

/** Decides one column's kind and constants, or undefined (with a warning) where it cannot serve. */
export function mergeColumn(columns: readonly SiteColumn[], context: MergeContext): FeatureColumn | undefined {
  const name = columns[0]?.column.name ?? '';
  if (columns.every(({ column }) => isBooleanLike(column))) return mergeBoolean(name, columns, context);
  const text = columns.find(({ column }) => column.seen === 'text');
  const number = columns.find(({ column }) => isNumber(column));
  if (text !== undefined && number !== undefined) {
    throw mismatch(
      text.site,
      `its column "${name}" holds text, but numbers at site "${number.site.name}"; use the same coding everywhere, or declare the text as missing (missingMarkers)`,
    );
  }
  if (text !== undefined) return mergeText(name, columns, context);
  const boolean = columns.find(({ column }) => column.seen === 'boolean');
  if (boolean !== undefined && number !== undefined) {
    throw mismatch(boolean.site, `its column "${name}" is true or false, but a number at site "${number.site.name}"`);
  }
  return areCodes(columns) ? mergeCodes(name, columns, context) : mergeNumbers(name, columns, context);
}

const isNumber = ({ seen }: ColumnStatistics) => seen === 'integer' || seen === 'numeric';

function isBooleanLike(column: ColumnStatistics): boolean {
  if (column.seen === 'boolean') return true;
  return (
    column.levels !== null &&
    column.other === 0 &&
    column.categories.length > 0 &&
    column.categories.every(({ value }) => BOOLEAN_TEXTS.has(value))
  );
}

function areCodes(columns: readonly SiteColumn[]): boolean {
  const values = levelCounts(columns);
  return (
    values.size > 0 &&
    values.size <= MAX_CODES &&
    columns.every(({ column }) => column.seen === 'integer' && column.levels !== null && column.levels <= MAX_CODES) &&
    [...values.keys()].every((value) => Number(value) >= 0 && Number(value) <= MAX_CODE)
  );
}

function levelCounts(columns: readonly SiteColumn[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { column } of columns) {
    for (const { value, count } of column.categories) counts.set(value, (counts.get(value) ?? 0) + count);
  }
  return counts;
}

const presentRows = (columns: readonly SiteColumn[]) =>
  columns.reduce((sum, { column }) => sum + column.count + column.zeros, 0);
const needsIndicator = (present: number, { rows }: MergeContext) => 1 - present / rows > INDICATOR_RATIO;

function mergeBoolean(name: string, columns: readonly SiteColumn[], context: MergeContext): FeatureColumn | undefined {
  const counts = levelCounts(columns);
  let trues = 0;
  let all = 0;
  for (const [value, count] of counts) {
    if ((TRUE_TEXTS as readonly string[]).includes(value)) trues += count;
    all += count;
  }
  const mean = all === 0 ? 0 : trues / all;
  if (mean === 0 || mean === 1) {
    context.warn(`column "${name}" is left out: it is the same in all rows that may be counted`);
    return undefined;
  }
  return {
    kind: 'boolean',
    name,
    mean: roundConstant(mean),
    deviation: roundConstant(Math.sqrt(mean * (1 - mean))),
    missingMarkers: context.markers ?? [],
    missingIndicator: needsIndicator(presentRows(columns), context),
  };
}

function mergeText(name: string, columns: readonly SiteColumn[], context: MergeContext): FeatureColumn | undefined {
  if (columns.every(({ column }) => column.levels === null)) {
    context.warn(
      `column "${name}" is left out: it holds numbers and text; if the text means "missing", declare it (missingMarkers)`,
    );
    return undefined;
  }
  return categorical(name, columns, context, 'text', compareText);
}

function mergeCodes(name: string, columns: readonly SiteColumn[], context: MergeContext): FeatureColumn | undefined {
  return categorical(name, columns, context, 'number', (a, b) => Number(a) - Number(b));
}

function categorical(
  name: string,
  columns: readonly SiteColumn[],
  context: MergeContext,
  values: 'text' | 'number',
  order: (a: string, b: string) => number,
): FeatureColumn | undefined {
  const counts = levelCounts(columns);
  const hasOthers = columns.some(({ column }) => column.other > 0 || column.levels === null);
  if (counts.size === 0 || (counts.size === 1 && !hasOthers)) {
    context.warn(
      counts.size === 0
        ? `column "${name}" is left out: none of its values is in ${MINIMUM_ROWS} rows of one site`
        : `column "${name}" is left out: it is the same in all rows that may be counted`,
    );
    return undefined;
  }
  let levels = [...counts.keys()];
  if (levels.length > MAX_LEVELS) {
    context.warn(
      `column "${name}" has ${levels.length} values; the ${MAX_LEVELS} most frequent are kept, the rest count as one`,
    );
    levels = levels.sort((a, b) => (counts.get(b) ?? 0) - (counts.get(a) ?? 0) || order(a, b)).slice(0, MAX_LEVELS);
  }
  return {
    kind: 'categorical',
    name,
    levels: levels.sort(order),
    values,
    missingMarkers: context.markers ?? [],
    missingIndicator: needsIndicator(presentRows(columns), context),
  };
}

function mergeNumbers(name: string, columns: readonly SiteColumn[], context: MergeContext): FeatureColumn | undefined {
  const zeroIsMissing = context.markers === undefined && zerosStandOut(columns);
  if (zeroIsMissing) {
    context.warn(
      `column "${name}": 0 counts as missing, since every other value is far from 0; declare missingMarkers to decide yourself`,
    );
  }
  const moments = columns.reduce(
    (sum, { column }) => combineMoments(sum, usableMoments(column, zeroIsMissing)),
    NO_MOMENTS,
  );
  if (moments.count < MINIMUM_ROWS || roundConstant(moments.deviation) === 0) {
    context.warn(`column "${name}" is left out: it is the same in all rows that may be counted`);
    return undefined;
  }
  return {
    kind: 'numeric',
    name,
    mean: roundConstant(moments.mean),
    deviation: roundConstant(moments.deviation),
    missingMarkers: context.markers ?? (zeroIsMissing ? [0] : []),
    missingIndicator: needsIndicator(moments.count, context),
  };
}

/** One site saw zeros that stand out, and over all sites they do as well. */
function zerosStandOut(columns: readonly SiteColumn[]): boolean {
  if (!columns.some(({ column }) => column.zeros > 0)) return false;
  const others = columns.reduce((sum, { column }) => combineMoments(sum, usableMoments(column, true)), NO_MOMENTS);
  return Math.abs(others.mean) > 3 * others.deviation;
}

function usableMoments(column: ColumnStatistics, zeroIsMissing: boolean): Moments {
  const all = allMoments(column);
  return zeroIsMissing ? removeValue(all, 0, countOfValue(column, 0)) : all;
}

/** Rows of a site with a usable value, markers of the spec taken out. */
export function usableRows(column: ColumnStatistics, markers: readonly MissingMarker[]): number {
  const values = new Set(markers.map((marker) => (typeof marker === 'number' ? marker : numberOfText(marker))));
  let marked = 0;
  for (const value of values) if (value !== undefined) marked += countOfValue(column, value);
  return column.count + column.zeros - marked;
}
