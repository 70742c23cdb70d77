import { FALSE_TEXTS, foldName, type MissingMarker, numberOfText, TRUE_TEXTS } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { agreeOnUnit } from './agree-on-unit.js';
import type { FeatureHint, NamedHint } from './feature-hints.js';
import type { FeatureColumn, UnitConversion } from './feature-spec.js';
import { derivedMoments, foldLevels, mergeDatetime, mergeHashed, mergeOrdinal } from './merge-hinted.js';
import { holdsImages, mergeImages } from './merge-images.js';
import { mismatch } from './merge-target.js';
import { allMoments, combineMoments, countOfValue, NO_MOMENTS, removeValue, roundConstant } from './moments.js';
import { compareText } from './natural-order.js';
import { preparation } from './number-encoder.js';
import { levelCounts, type MergeContext, needsIndicator, presentRows, type SiteColumn } from './site-columns.js';
import { type ColumnStatistics, MAX_LEVELS, MINIMUM_ROWS, type Moments } from './site-statistics.js';

/** Whole numbers are codes, not measurements, where there are at most this many of them, none beyond MAX_CODE. */
const MAX_CODES = 10;
const MAX_CODE = 20;
const BOOLEAN_TEXTS: ReadonlySet<string> = new Set([...TRUE_TEXTS, ...FALSE_TEXTS]);

/** Decides one column's kind and constants, or undefined (with a warning) where it cannot serve. */
export function mergeColumn(columns: readonly SiteColumn[], context: MergeContext): FeatureColumn | undefined {
  const named = context.hint;
  const name = nameOf(columns, named);
  const merged = mergeKind(name, columns, context);
  if (merged === undefined) return undefined;
  warnOfIdleFields(name, merged.kind, context);
  const missingRatio = Number(Math.max(0, 1 - presentIn(columns, merged) / context.rows).toFixed(3));
  const levelRatios = levelRatiosOf(columns, merged);
  return {
    ...merged,
    ...aliasesOf(name, named),
    // Columns without missing values and levels say nothing that their constants do not.
    ...(missingRatio === 0 && levelRatios === undefined
      ? {}
      : { reference: { missingRatio, ...(levelRatios === undefined ? {} : { levelRatios }) } }),
  };
}

/** As the data scientist spells it where sites know it by an alias. */
export function nameOf(columns: readonly SiteColumn[], named: NamedHint | undefined): string {
  if (named === undefined) return columns[0]?.column.name ?? '';
  const key = foldName(named.name);
  return columns.find(({ column }) => foldName(column.name) === key)?.column.name ?? named.name;
}

/** Fields of a hint by the kinds that they say something of. */
const FIELD_KINDS: Partial<Record<keyof FeatureHint, readonly FeatureColumn['kind'][]>> = {
  unit: ['numeric'],
  range: ['numeric'],
  clip: ['numeric'],
  scale: ['numeric'],
  levels: ['categorical', 'ordinal'],
  buckets: ['hashed'],
  derive: ['datetime'],
  reference: ['datetime'],
  format: ['datetime'],
};

function warnOfIdleFields(name: string, kind: FeatureColumn['kind'], { hint, warn }: MergeContext): void {
  for (const [field, kinds] of Object.entries(FIELD_KINDS)) {
    if (hint?.hint[field as keyof FeatureHint] === undefined || kinds.includes(kind)) continue;
    warn(
      `column "${name}": what its hint says of ${field} is idle, as the column is ${kind}; give it the kind ${kinds.join(' or ')}`,
    );
  }
}

/** Each once, whatever its spelling, and none that is the column's own name. */
export function aliasesOf(name: string, named: NamedHint | undefined): Pick<FeatureColumn, 'aliases'> {
  const keys = new Set([foldName(name)]);
  const aliases = (named?.hint.aliases ?? []).filter((alias) => keys.size !== keys.add(foldName(alias)).size);
  return aliases.length === 0 ? {} : { aliases };
}

function mergeKind(name: string, columns: readonly SiteColumn[], context: MergeContext): FeatureColumn | undefined {
  const kind = context.hint?.hint.kind;
  if (holdsImages(columns)) return mergeImages(name, columns, { ...context, indicator: true });
  switch (kind) {
    case 'ordinal':
      return mergeOrdinal(name, columns, context);
    case 'datetime':
      return mergeDatetime(name, columns, context);
    case 'hashed':
      return mergeHashed(name, columns, context);
    case 'boolean':
      requireAll(name, columns, isBooleanLike, 'true and false, or 1 and 0');
      return mergeBoolean(name, columns, context);
    case 'numeric':
      requireAll(name, columns, isNumber, 'numbers alone');
      return mergeNumbers(name, columns, context);
    case 'image':
      throw new OctomilError(
        'invalid_input',
        `the hint for column "${name}" makes images of it, which a table has not`,
      );
    case undefined:
    case 'categorical':
  }
  if (kind === undefined && columns.every(({ column }) => isBooleanLike(column)) && !isMeasured(columns, context)) {
    return mergeBoolean(name, columns, context);
  }
  const text = columns.find(({ column }) => column.seen === 'text');
  const number = columns.find(({ column }) => isNumber(column));
  if (text !== undefined && number !== undefined) {
    throw mismatch(
      text.site,
      `its column "${name}" holds text, but numbers at site "${number.site.name}"; use the same coding everywhere, or declare the text as missing (missingMarkers)`,
    );
  }
  if (text !== undefined) {
    if (kind === undefined && columns.some(({ column }) => column.codes === true)) {
      context.warn(`column "${name}" holds codes of many values, which are hashed; a hint gives the number of buckets`);
      return mergeHashed(name, columns, context);
    }
    return mergeText(name, columns, context);
  }
  const boolean = columns.find(({ column }) => column.seen === 'boolean');
  if (boolean !== undefined && number !== undefined) {
    throw mismatch(boolean.site, `its column "${name}" is true or false, but a number at site "${number.site.name}"`);
  }
  if (kind === 'categorical') {
    return boolean === undefined ? mergeCodes(name, columns, context) : mergeText(name, columns, context);
  }
  if (!isMeasured(columns, context) && areCodes(columns)) return mergeCodes(name, columns, context);
  return mergeNumbers(name, columns, context);
}

/** What has a unit, or limits, is measured. */
function isMeasured(columns: readonly SiteColumn[], { hint }: MergeContext): boolean {
  const { unit, range, clip, scale } = hint?.hint ?? {};
  const isHinted = [unit, range, clip, scale].some((field) => field !== undefined);
  return isHinted || columns.some(({ column }) => column.unit !== undefined);
}

function requireAll(
  name: string,
  columns: readonly SiteColumn[],
  test: (column: ColumnStatistics) => boolean,
  what: string,
): void {
  const odd = columns.find(({ column }) => !test(column));
  if (odd === undefined) return;
  throw mismatch(odd.site, `its column "${name}" does not hold ${what}, as was asked for it`);
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
  const { hint } = context.hint ?? {};
  if (hint?.levels === undefined && columns.every(({ column }) => column.levels === null)) {
    context.warn(
      hint?.kind === undefined
        ? `column "${name}" is left out: it holds numbers and text; if the text means "missing", declare it (missingMarkers)`
        : `column "${name}" is left out: it has more than ${MAX_LEVELS} values; name the levels that count in a hint, or let it be hashed (kind: hashed)`,
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
  if (context.hint?.hint.levels === undefined && (counts.size === 0 || (counts.size === 1 && !hasOthers))) {
    context.warn(
      counts.size === 0
        ? `column "${name}" is left out: none of its values is in ${MINIMUM_ROWS} rows of one site`
        : `column "${name}" is left out: it is the same in all rows that may be counted`,
    );
    return undefined;
  }
  let levels = [...counts.keys()];
  const wanted = context.hint?.hint.levels;
  if (wanted !== undefined) levels = foldLevels(name, wanted, values);
  else if (levels.length > MAX_LEVELS) {
    context.warn(
      `column "${name}" has ${levels.length} values; the ${MAX_LEVELS} most frequent are kept, the rest count as one`,
    );
    levels = levels.sort((a, b) => (counts.get(b) ?? 0) - (counts.get(a) ?? 0) || order(a, b)).slice(0, MAX_LEVELS);
  }
  return {
    kind: 'categorical',
    name,
    levels: wanted === undefined ? levels.sort(order) : levels,
    values,
    missingMarkers: context.markers ?? [],
    missingIndicator: needsIndicator(presentRows(columns), context),
  };
}

function mergeNumbers(name: string, columns: readonly SiteColumn[], context: MergeContext): FeatureColumn | undefined {
  const { hint = {} } = context.hint ?? {};
  const { unit, units, conversions } = agreeOnUnit(name, columns, context);
  const zeroIsMissing = context.markers === undefined && zerosStandOut(columns, conversions);
  if (zeroIsMissing) {
    context.warn(
      `column "${name}": 0 counts as missing, since every other value is far from 0; declare missingMarkers to decide yourself`,
    );
  }
  const usable = columns.map((entry) => ({
    entry,
    moments: converted(usableMoments(entry.column, zeroIsMissing), conversions.get(entry)),
  }));
  if (hint.range !== undefined) warnOfImplausible(name, usable, hint.range, unit, context);
  if (usable.some(({ moments }) => moments.count > 0 && Math.abs(moments.mean) + moments.deviation > 2 ** 24)) {
    if (columns.some(({ column }) => column.seen === 'integer')) {
      context.warn(
        `column "${name}" holds whole numbers beyond 16777216, which 32-bit floats round; if they are codes, give it a hint (kind: hashed)`,
      );
    }
  }
  const isPrepared = hint.scale !== undefined || hint.clip !== undefined;
  const moments = (
    isPrepared
      ? columns.map((entry) => preparedMoments(entry, hint, conversions.get(entry), zeroIsMissing))
      : usable.map((one) => one.moments)
  ).reduce((sum, one) => combineMoments(sum, one), NO_MOMENTS);
  if (moments.count < MINIMUM_ROWS || roundConstant(moments.deviation) === 0) {
    context.warn(`column "${name}" is left out: it is the same in all rows that may be counted`);
    return undefined;
  }
  return {
    kind: 'numeric',
    name,
    ...(unit === undefined ? {} : { unit }),
    ...(units === undefined ? {} : { units }),
    ...(hint.range === undefined ? {} : { range: hint.range }),
    ...(hint.clip === undefined ? {} : { clip: hint.clip }),
    ...(hint.scale === undefined ? {} : { scale: hint.scale }),
    mean: roundConstant(moments.mean),
    deviation: roundConstant(moments.deviation),
    missingMarkers: context.markers ?? (zeroIsMissing ? [0] : []),
    missingIndicator: needsIndicator(moments.count, context),
  };
}

/** After clip and logarithm. Where zeros stand out at a site, it has told the moments of the other values. */
function preparedMoments(
  { column }: SiteColumn,
  { clip, scale }: FeatureHint,
  conversion: UnitConversion | undefined,
  zeroIsMissing: boolean,
): Moments {
  const told = derivedMoments(column, 'value');
  const zero = preparation({ clip, scale }, conversion)?.(0) ?? 0;
  const set = column.zeros > 0;
  if (zeroIsMissing) return set ? told : removeValue(told, zero, countOfValue(column, 0));
  return set ? combineMoments(told, { count: column.zeros, mean: zero, deviation: 0 }) : told;
}

function warnOfImplausible(
  name: string,
  usable: readonly { readonly entry: SiteColumn; readonly moments: Moments }[],
  [least, most]: readonly [number, number],
  unit: string | undefined,
  { warn }: MergeContext,
): void {
  for (const { entry, moments } of usable) {
    if (moments.count < MINIMUM_ROWS || (moments.mean >= least && moments.mean <= most)) continue;
    warn(
      `site "${entry.site.name}": the mean of its column "${name}" is outside of ${least} to ${most}${unit === undefined ? '' : ` ${unit}`}; is it in another unit? Sites name theirs in agent.yaml (units)`,
    );
  }
}

/** One site saw zeros that stand out, and over all sites they do as well. */
function zerosStandOut(columns: readonly SiteColumn[], conversions: ReadonlyMap<SiteColumn, UnitConversion>): boolean {
  if (!columns.some(({ column }) => column.zeros > 0)) return false;
  const others = columns.reduce(
    (sum, entry) => combineMoments(sum, converted(usableMoments(entry.column, true), conversions.get(entry))),
    NO_MOMENTS,
  );
  return Math.abs(others.mean) > 3 * others.deviation;
}

function usableMoments(column: ColumnStatistics, zeroIsMissing: boolean): Moments {
  const all = allMoments(column);
  return zeroIsMissing ? removeValue(all, 0, countOfValue(column, 0)) : all;
}

function converted(moments: Moments, conversion: UnitConversion | undefined): Moments {
  if (conversion === undefined) return moments;
  const { count, mean, deviation } = moments;
  const { factor, offset } = conversion;
  return { count, mean: mean * factor + offset, deviation: deviation * Math.abs(factor) };
}

/** Rows over all sites that the column's encoding finds a value in. */
function presentIn(columns: readonly SiteColumn[], { missingMarkers }: FeatureColumn): number {
  return columns.reduce((sum, { column }) => sum + usableRows(column, missingMarkers), 0);
}

/** Shares of the levels among the values, then of all others. */
function levelRatiosOf(columns: readonly SiteColumn[], merged: FeatureColumn): number[] | undefined {
  if (merged.kind !== 'categorical' && merged.kind !== 'ordinal') return undefined;
  const counts = levelCounts(columns);
  const all = presentIn(columns, merged);
  if (all === 0) return undefined;
  const ratios = merged.levels.map((level) => Number(Math.min(1, (counts.get(level) ?? 0) / all).toFixed(3)));
  const known = ratios.reduce((sum, ratio) => sum + ratio, 0);
  return [...ratios, Number(Math.max(0, 1 - known).toFixed(3))];
}

/** Rows of a site with a usable value, markers of the spec taken out. */
export function usableRows(column: ColumnStatistics, markers: readonly MissingMarker[]): number {
  const values = new Set(markers.map((marker) => (typeof marker === 'number' ? marker : numberOfText(marker))));
  let marked = 0;
  for (const value of values) if (value !== undefined) marked += countOfValue(column, value);
  return column.count + column.zeros - marked;
}
