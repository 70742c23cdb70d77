import {
  type CellRequest,
  type ColumnProfile,
  type MissingMarker,
  splitMarkers,
  type TableReader,
} from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { dateCells, fixedReference, spanOf } from './date-encoder.js';
import { datePartsOf, type FeatureHint, hintedUnits } from './feature-hints.js';
import { DATE_SPANS, type DateSpan } from './feature-spec.js';
import { combineMoments, NO_MOMENTS } from './moments.js';
import { preparation } from './number-encoder.js';
import { type ColumnStatistics, type DerivedMoments, MINIMUM_ROWS, type Moments } from './site-statistics.js';
import { roundCount, roundMoments, suppressColumn } from './suppression.js';
import { conversionBetween } from './units.js';

export interface ColumnQuestion {
  readonly reader: TableReader;
  readonly profile: ColumnProfile;
  readonly hint: FeatureHint;
  /** By which the column is known. */
  readonly names: readonly string[];
  readonly markers: readonly MissingMarker[];
  /** The site's. */
  readonly unit: string | undefined;
  /** Of the table, exact. */
  readonly rows: number;
}

/** What may leave the site about a column, by its profile and what a hint asks beyond that; null under 10 values. */
export async function describeColumn(question: ColumnQuestion): Promise<ColumnStatistics | null> {
  const { profile, hint, rows, unit } = question;
  if (hint.kind === 'datetime') return await describeDates(question);
  if (hint.kind === 'hashed') {
    // Of text of many values nothing is counted but how often it is there.
    const { present, name } = profile;
    return present < MINIMUM_ROWS ? null : { ...countsOf(present, rows), name, seen: 'text' };
  }
  const column = suppressColumn(profile, rows);
  if (column === null) return null;
  const isNumber = column.seen === 'numeric' || column.seen === 'integer';
  if (!isNumber) return column;
  const named = unit === undefined ? column : { ...column, unit };
  if (hint.scale === undefined && hint.clip === undefined) return named;
  return { ...named, derived: [{ part: 'value', moments: await preparedMoments(question, column) }] };
}

/** Fewer than 10 missing rows count with the others, as in `suppressColumn`. */
function countsOf(present: number, rows: number): Omit<ColumnStatistics, 'name' | 'seen'> {
  const count = roundCount(rows - present < MINIMUM_ROWS ? rows : present);
  return { count, missing: roundCount(rows) - count, zeros: 0, moments: null, levels: null, categories: [], other: 0 };
}

async function describeDates(question: ColumnQuestion): Promise<ColumnStatistics | null> {
  const { reader, profile, hint, markers, rows } = question;
  const { path } = reader.source;
  const from = hint.reference;
  const column = {
    name: profile.key,
    format: hint.format ?? 'iso',
    missingMarkers: markers,
    ...(from === undefined ? {} : { from }),
  };
  const [cell, origin] = dateCells(column);
  if (origin !== undefined && !reader.columns.some(({ key }) => key === origin.column)) {
    throw new OctomilError(
      'data_mismatch',
      `${path} has no column "${origin.column}", from which the column "${profile.name}" is to be measured`,
    );
  }
  const fixed = fixedReference(column);
  const spans = datePartsOf(hint).filter((part): part is DateSpan => DATE_SPANS.some((span) => span === part));
  const sums = spans.map((span) => ({ span, moments: new RunningMoments() }));
  let present = 0;
  const cells: CellRequest[] = origin === undefined ? [cell] : [cell, origin];
  for await (const chunk of reader.stream(cells)) {
    const [dates, origins] = chunk.columns;
    for (let row = 0; row < chunk.rows; row++) {
      const date = dates?.[row] ?? Number.NaN;
      const start = origin === undefined ? fixed : (origins?.[row] ?? Number.NaN);
      if (Math.abs(date) === Number.POSITIVE_INFINITY || Math.abs(start) === Number.POSITIVE_INFINITY) {
        throw new OctomilError(
          'data_mismatch',
          `${path}: the column "${profile.name}" is to hold dates ${column.format === 'iso' ? 'such as 2020-12-31' : `as ${column.format}`}, but some of its cells${origin === undefined ? '' : ` or of "${origin.column}"`} are none; name their format in a hint, or declare them as missing`,
        );
      }
      if (Number.isNaN(date) || Number.isNaN(start)) continue;
      present++;
      for (const { span, moments } of sums) moments.add(spanOf(span, date, start));
    }
  }
  if (present < MINIMUM_ROWS) return null;
  const counts = countsOf(present, rows);
  const derived = sums.map(
    ({ span, moments }): DerivedMoments => ({
      part: span,
      moments: roundMoments({ ...moments.take(), count: counts.count }),
    }),
  );
  return { ...counts, name: profile.name, seen: 'time', derived };
}

/**
 * Moments of a number column after clip and logarithm, in the hint's unit. Fewer than 10 rows that are cut to a limit, or that
 * alone are not, are left out: a limit on each side of a value would count them. Zeros that stand out are left to whoever
 * merges, as in the column's own moments.
 */
async function preparedMoments(question: ColumnQuestion, { count, zeros }: ColumnStatistics): Promise<Moments> {
  const { reader, profile, hint, names, markers, unit } = question;
  const { clip, scale } = hint;
  const conversion =
    unit === undefined || hint.unit === undefined
      ? undefined
      : conversionBetween(unit, hint.unit, names, hintedUnits(hint));
  const prepare = preparation({ clip, scale }, conversion);
  const { numbers, texts } = splitMarkers(markers);
  const { factor, offset } = conversion ?? { factor: 1, offset: 0 };
  const [least, most] = clip ?? [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
  const [below, within, above] = [new RunningMoments(), new RunningMoments(), new RunningMoments()];
  for await (const chunk of reader.stream([{ column: profile.key, as: 'number', missingTexts: texts }])) {
    const [values] = chunk.columns;
    for (let row = 0; row < chunk.rows; row++) {
      const value = values?.[row] ?? Number.NaN;
      if (!Number.isFinite(value) || numbers.includes(value) || (zeros > 0 && value === 0)) continue;
      const converted = value * factor + offset;
      const group = converted <= least ? below : converted >= most ? above : within;
      group.add(prepare === undefined ? value : prepare(value));
    }
  }
  const groups = [below, within, above].map((group) => group.take());
  const told = groups.filter((group) => group.count >= MINIMUM_ROWS).reduce(combineMoments, NO_MOMENTS);
  if (told.count < MINIMUM_ROWS) return NO_MOMENTS;
  return roundMoments({ ...told, count });
}

/** By blocks, each joined to the whole as two groups: precise, and without a division for every row. */
class RunningMoments {
  #all: Moments = NO_MOMENTS;
  #first = 0;
  #count = 0;
  #sum = 0;
  #squares = 0;

  add(value: number): void {
    if (this.#count === 0) this.#first = value;
    const distance = value - this.#first;
    this.#count++;
    this.#sum += distance;
    this.#squares += distance * distance;
    if (this.#count === 4_096) this.take();
  }

  take(): Moments {
    if (this.#count > 0) {
      const mean = this.#sum / this.#count;
      const deviation = Math.sqrt(Math.max(0, this.#squares / this.#count - mean * mean));
      this.#all = combineMoments(this.#all, { count: this.#count, mean: this.#first + mean, deviation });
    }
    [this.#count, this.#sum, this.#squares] = [0, 0, 0];
    return this.#all;
  }
}
