import { splitMarkers } from '@octomil/shared/data';
import { isCycle } from './column-width.js';
import { dateCells, fixedReference, spanOf } from './date-encoder.js';
import type { BooleanColumn, FeatureColumn, NumericColumn, TargetSpec, UnitConversion } from './feature-spec.js';
import { levelFinder } from './level-encoders.js';
import { CLIP_DEVIATIONS, preparation } from './number-encoder.js';
import type { ColumnDrift } from './site-drift.js';
import { MINIMUM_ROWS } from './site-statistics.js';
import { roundCount } from './suppression.js';

/** Counts over a column's cells while they are read. The counts stay at the site: only `take` gives what may leave. */
export interface DriftMeter {
  add(cells: Float64Array, rows: number): void;
  /** @param rows of the table */
  take(rows: number): ColumnDrift;
}

/** A shift is told in steps of this many standard deviations at most, and of half of them at least. */
const SHIFT_STEP = 1 / 32;

/** @param bound false where the table lacks the column; its cells need not be given */
export function driftMeter(column: FeatureColumn, bound: boolean, conversion?: UnitConversion): DriftMeter {
  if (!bound) return { add: () => undefined, take: (rows) => driftOf(column, rows, rows, {}) };
  switch (column.kind) {
    case 'numeric':
    case 'boolean':
      return numberMeter(column, conversion);
    case 'categorical':
    case 'ordinal':
      return levelMeter(column);
    case 'datetime':
      return dateMeter(column);
    case 'image':
      return imageMeter(column);
    case 'hashed':
      return missingMeter(column);
  }
}

interface Measured {
  /** As `shiftOf` tells it. */
  readonly shift?: number | undefined;
  readonly clipped?: number;
  readonly implausible?: number;
  /** Rows by level, then those of others. */
  readonly levels?: readonly number[];
}

type Referred = Pick<FeatureColumn, 'name' | 'reference' | 'missingIndicator'>;

function driftOf(column: Referred, rows: number, missing: number, measured: Measured): ColumnDrift {
  const all = Math.max(1, roundCount(rows));
  // A few rows count with the many: nothing says whether there are any.
  const present = rows - missing;
  const told = present < MINIMUM_ROWS ? all : missing < MINIMUM_ROWS ? 0 : Math.min(all, roundCount(missing));
  const ratio = (count: number, of: number) =>
    count < MINIMUM_ROWS ? 0 : Math.min(1, rounded(roundCount(count) / Math.max(1, roundCount(of))));
  const { reference } = column;
  const base = {
    name: column.name,
    missingRatio: rounded(told / all),
    ...(reference === undefined && column.missingIndicator
      ? {}
      : { referenceMissingRatio: reference?.missingRatio ?? 0 }),
  };
  if (present < MINIMUM_ROWS) return base;
  const { shift, clipped, implausible, levels } = measured;
  const fewMissing = missing < MINIMUM_ROWS ? missing : 0;
  const counted = present + fewMissing;
  return {
    ...base,
    ...(shift === undefined ? {} : { shift }),
    ...(clipped === undefined ? {} : { clippedRatio: ratio(clipped, counted) }),
    ...(implausible === undefined ? {} : { implausibleRatio: ratio(implausible, counted) }),
    ...(levels === undefined
      ? {}
      : levelDrift(withoutSmall(levels, fewMissing), counted, reference?.levelRatios, ratio)),
  };
}

/** Groups of fewer than ten rows, and as few missing ones, count with the largest: no difference then tells of them. */
function withoutSmall(levels: readonly number[], fewMissing: number): number[] {
  const kept = levels.map((count) => (count < MINIMUM_ROWS ? 0 : count));
  const moved = levels.reduce((sum, count) => sum + count, fewMissing) - kept.reduce((sum, count) => sum + count, 0);
  const largest = kept.indexOf(Math.max(...kept));
  return kept.map((count, place) => (place === largest && count > 0 ? count + moved : count));
}

function levelDrift(
  levels: readonly number[],
  present: number,
  reference: readonly number[] | undefined,
  ratio: (count: number, of: number) => number,
): Partial<ColumnDrift> {
  const ratios = levels.map((count) => ratio(count, present));
  const unknownRatio = ratios.at(-1) ?? 0;
  if (reference?.length !== ratios.length) return { unknownRatio };
  const distance = ratios.reduce((sum, share, i) => sum + Math.abs(share - (reference[i] ?? 0)), 0) / 2;
  return { unknownRatio, referenceUnknownRatio: reference.at(-1) ?? 0, levelShift: Math.min(1, rounded(distance)) };
}

const rounded = (value: number) => Number(value.toFixed(4));

/** Where values lie by the constants of a spec: in its deviations from its mean. */
interface Position {
  readonly distance: number;
  /** Standard deviation of the values themselves. */
  readonly spread: number;
}

type Scaling = Pick<NumericColumn, 'mean' | 'deviation'>;

/**
 * The mean's distance, told no finer than a site's description tells its mean (`roundMoments`): by the greater of both
 * deviations, and in multiples counted from 0. In steps of the spec's deviation, a spec could choose how fine; counted from
 * the spec's mean, several specs together could.
 */
function shiftOf(position: Position | undefined, { mean, deviation }: Scaling): number | undefined {
  if (position === undefined) return undefined;
  const { distance, spread } = position;
  const step = 2 ** Math.floor(Math.log2(Math.max(1, spread) * deviation)) * SHIFT_STEP;
  if (!(step > 0) || !Number.isFinite(step)) return undefined;
  // Of constants so far from 0 that the steps there are beyond a number's precision, from the mean itself.
  const origin = Math.abs(mean) / step < 2 ** 48 ? mean : 0;
  const value = Math.round((origin + distance * deviation) / step) * step;
  return rounded((value - origin) / deviation) + 0;
}

/**
 * Distances from a mean, apart for those that are held at either limit: whoever chooses the limits would otherwise count a
 * few rows by the mean.
 */
class Distances {
  readonly #counts: [number, number, number] = [0, 0, 0];
  readonly #sums: [number, number, number] = [0, 0, 0];
  readonly #squares: [number, number, number] = [0, 0, 0];

  /**
   * @param side 0: held at the lower limit, 1: within, 2: held at the upper one
   * @param sum of `count` distances
   * @param squares of the same distances, summed
   */
  add(side: 0 | 1 | 2, sum: number, count = 1, squares = (sum * sum) / Math.max(1, count)): void {
    this.#counts[side] += count;
    this.#sums[side] += sum;
    this.#squares[side] += squares;
  }

  /** In units of `scale`, of sides with at least 10 rows, each counted in tens; undefined where there is none. */
  position(scale = 1): Position | undefined {
    let [sum, squares, all] = [0, 0, 0];
    this.#counts.forEach((count, side) => {
      if (count < MINIMUM_ROWS) return;
      const weight = roundCount(count) / count;
      sum += (this.#sums[side] ?? 0) * weight;
      squares += (this.#squares[side] ?? 0) * weight;
      all += roundCount(count);
    });
    if (all === 0) return undefined;
    const distance = sum / all;
    return { distance: distance / scale, spread: Math.sqrt(Math.max(0, squares / all - distance ** 2)) / scale };
  }
}

function numberMeter(column: NumericColumn | BooleanColumn, conversion: UnitConversion | undefined): DriftMeter {
  const { mean, deviation, range, kind } = column;
  const { numbers } = splitMarkers(column.missingMarkers);
  const [marker = Number.NaN, ...others] = numbers;
  const prepare = preparation(kind === 'numeric' ? column : {}, conversion);
  const { factor, offset } = conversion ?? { factor: 1, offset: 0 };
  const clip = kind === 'numeric' ? column.clip : undefined;
  // Of true and false, each is a side.
  const [least, most] = kind === 'boolean' ? [0, 1] : (clip ?? [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY]);
  const limit = CLIP_DEVIATIONS * deviation;
  const distances = new Distances();
  let present = 0;
  let clipped = 0;
  let implausible = 0;
  const addOne = (raw: number) => {
    if (Number.isNaN(raw) || !Number.isFinite(raw) || numbers.includes(raw)) return;
    present++;
    const value = raw * factor + offset;
    const distance = (prepare === undefined ? raw : prepare(raw)) - mean;
    const isOut = clip !== undefined && (value < clip[0] || value > clip[1]);
    if (isOut || Math.abs(distance) > limit) clipped++;
    const isLow = distance < -limit || value <= least;
    const isHigh = distance > limit || value >= most;
    if (range !== undefined && (value < range[0] || value > range[1])) implausible++;
    distances.add(isLow ? 0 : isHigh ? 2 : 1, Math.min(limit, Math.max(-limit, distance)));
  };
  // The common case apart: 30 million cells are read within a second.
  const isPlain = kind === 'numeric' && prepare === undefined && range === undefined && others.length === 0;
  return {
    add(cells, rows) {
      if (!isPlain) {
        for (let row = 0; row < rows; row++) addOne(cells[row] ?? Number.NaN);
        return;
      }
      let [found, total, squares, high] = [0, 0, 0, 0];
      const cut = clipped;
      for (let row = 0; row < rows; row++) {
        const raw = cells[row] ?? Number.NaN;
        const distance = raw - mean;
        if (distance <= limit && distance >= -limit) {
          if (raw === marker) continue;
          found++;
          total += distance;
          squares += distance * distance;
        } else if (raw !== marker && Number.isFinite(raw)) {
          clipped++;
          if (distance > 0) high++;
        }
      }
      const out = clipped - cut;
      present += found + out;
      distances.add(1, total, found, squares);
      distances.add(0, -limit * (out - high), out - high);
      distances.add(2, limit * high, high);
    },
    take: (rows) =>
      driftOf(column, rows, rows - present, {
        shift: shiftOf(distances.position(deviation), column),
        ...(kind === 'boolean' ? {} : { clipped }),
        ...(range === undefined ? {} : { implausible }),
      }),
  };
}

function levelMeter(column: Extract<FeatureColumn, { kind: 'categorical' | 'ordinal' }>): DriftMeter {
  const { placeOf } = levelFinder(column);
  const others = column.levels.length;
  const counts = new Float64Array(others + 1);
  let missing = 0;
  return {
    add(cells, rows) {
      for (let row = 0; row < rows; row++) {
        const place = placeOf(cells[row] ?? Number.NaN);
        if (Number.isNaN(place)) missing++;
        else {
          const at = place < 0 ? others : place;
          counts[at] = (counts[at] ?? 0) + 1;
        }
      }
    },
    take: (rows) => driftOf(column, rows, missing, { levels: [...counts] }),
  };
}

function dateMeter(column: Extract<FeatureColumn, { kind: 'datetime' }>): DriftMeter {
  const span = column.parts.find((part) => !isCycle(part));
  const hasOrigin = dateCells(column)[1] !== undefined;
  const fixed = fixedReference(column);
  const distances = new Distances();
  let present = 0;
  return {
    add(cells, rows) {
      const half = cells.length / 2;
      for (let row = 0; row < rows; row++) {
        const date = cells[row] ?? Number.NaN;
        const from = hasOrigin ? (cells[half + row] ?? Number.NaN) : fixed;
        if (!Number.isFinite(date) || !Number.isFinite(from)) continue;
        present++;
        if (span === undefined || isCycle(span)) continue;
        const distance = (spanOf(span.part, date, from) - span.mean) / span.deviation;
        if (Math.abs(distance) <= CLIP_DEVIATIONS) distances.add(1, distance);
        else distances.add(distance < 0 ? 0 : 2, Math.sign(distance) * CLIP_DEVIATIONS);
      }
    },
    take: (rows) =>
      driftOf(column, rows, rows - present, {
        ...(span === undefined || isCycle(span) ? {} : { shift: shiftOf(distances.position(), span) }),
      }),
  };
}

/** The shift is that of all numbers of the pictures, each channel in its own deviations. */
function imageMeter({ mean, deviation, ...column }: Extract<FeatureColumn, { kind: 'image' }>): DriftMeter {
  const { channels } = column;
  const size = column.height * column.width * channels;
  // Where 0 is, in deviations: what is told is counted from there.
  const middle = mean.reduce((sum, one, channel) => sum + one / (deviation[channel] ?? 1), 0) / channels;
  let present = 0;
  let distance = 0;
  let squares = 0;
  return {
    add(cells, rows) {
      for (let row = 0; row < rows; row++) {
        const from = row * size;
        if (Number.isNaN(cells[from] ?? Number.NaN)) continue;
        present++;
        for (let channel = 0; channel < channels; channel++) {
          const center = mean[channel] ?? 0;
          const scale = deviation[channel] ?? 1;
          let [sum, squared] = [0, 0];
          for (let place = channel; place < size; place += channels) {
            const off = (cells[from + place] ?? 0) - center;
            sum += off;
            squared += off * off;
          }
          distance += sum / size / scale;
          squares += squared / size / scale / scale;
        }
      }
    },
    take: (rows) => {
      const spread = Math.sqrt(Math.max(0, squares / present - (distance / present) ** 2));
      const position = present === 0 ? undefined : { distance: distance / present, spread };
      return driftOf(column, rows, rows - present, { shift: shiftOf(position, { mean: middle, deviation: 1 }) });
    },
  };
}

/** Of the target: rows without one, of each class and of no agreed one, which are not learned from; how far its numbers are off. */
export interface TargetMeter {
  /** @param y what the row is to teach; NaN where it is left out */
  add(y: number, isMissing: boolean): void;
  take(rows: number): ColumnDrift;
}

export function targetMeter({ rule, output, classes, mean, deviation, reference }: TargetSpec): TargetMeter {
  const isNumber = output.kind === 'regression';
  const distances = new Distances();
  // A comparison holds or does not.
  const counts = new Float64Array(isNumber ? 0 : rule.comparison === undefined ? classes.length : 2);
  let [missing, unknown] = [0, 0];
  const column: Referred = {
    name: rule.column,
    missingIndicator: true,
    ...(reference === undefined ? {} : { reference: { ...reference, levelRatios: reference.classRatios ?? [] } }),
  };
  return {
    add(y, isMissing) {
      if (!Number.isNaN(y)) {
        // It is scaled as a column is.
        if (isNumber) distances.add(y < -CLIP_DEVIATIONS ? 0 : y > CLIP_DEVIATIONS ? 2 : 1, held(y));
        else counts[y] = (counts[y] ?? 0) + 1;
      } else if (isMissing) missing++;
      else unknown++;
    },
    take: (rows) =>
      driftOf(column, rows, missing, {
        ...(isNumber
          ? { shift: shiftOf(distances.position(), { mean, deviation }) }
          : { levels: [...counts, unknown] }),
      }),
  };
}

const held = (distance: number) => Math.min(CLIP_DEVIATIONS, Math.max(-CLIP_DEVIATIONS, distance));

function missingMeter(column: FeatureColumn): DriftMeter {
  let missing = 0;
  return {
    add(cells, rows) {
      for (let row = 0; row < rows; row++) if (Number.isNaN(cells[row] ?? Number.NaN)) missing++;
    },
    take: (rows) => driftOf(column, rows, missing, {}),
  };
}
