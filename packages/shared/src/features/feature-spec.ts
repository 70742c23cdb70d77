import type { DateFormat } from '@octomil/shared/data';
import type { TargetRule } from './target-rule.js';

/** `table`: encoded columns, any kind. `grid`: numbers in natural name order, one input each (pixels for a CNN). */
export type FeatureLayout = 'table' | 'grid';

/** The model's output, as in an architecture. */
export type TargetOutput =
  | { readonly kind: 'binary' }
  | { readonly kind: 'multiclass'; readonly classes: number }
  | { readonly kind: 'regression' };

/** A value in another unit becomes one in the column's own: `value * factor + offset`. */
export interface UnitConversion {
  readonly factor: number;
  readonly offset: number;
}

/** How the column was over the rows of all sites when the spec was made: what drift is measured against. */
export interface ColumnReference {
  /** 0 to 1. Absent in a spec without it where less than 1 % is missing. */
  readonly missingRatio: number;
  /** Of categorical and ordinal columns: the share of each level among the values, in order, then of all others. */
  readonly levelRatios?: readonly number[];
}

/** How the target was over the rows of all sites when the spec was made. */
export interface TargetReference {
  /** Share of rows without a target. */
  readonly missingRatio: number;
  /** Of classes: the share of each among the targets, in the order of the outputs, then of all others. */
  readonly classRatios?: readonly number[];
}

interface ColumnBase {
  /** As shown to users; files are matched by its folded form (`Chest Pain` = `chest_pain`). */
  readonly name: string;
  /** Other names by which files and rows may call it, matched in this order where its own name is not there. */
  readonly aliases?: readonly string[];
  /** Of the numbers that are encoded. Sites that name no unit have this one. */
  readonly unit?: string;
  /** Other units that a site may name. */
  readonly units?: Readonly<Record<string, UnitConversion>>;
  /** What is plausible, in `unit`: values outside are encoded all the same, and told as drift. */
  readonly range?: readonly [number, number];
  readonly reference?: ColumnReference;
  /** Values that mean "missing" in this column, besides empty cells and the usual texts (`NA`, `?`, ...). */
  readonly missingMarkers: readonly (number | string)[];
  /** One more input that is 1 where the value is missing. */
  readonly missingIndicator: boolean;
}

/** Encoded as `(value - mean) / deviation`, clipped to ±CLIP_DEVIATIONS; a missing value is 0. */
export interface NumericColumn extends ColumnBase {
  readonly kind: 'numeric';
  /** Values are held within these before anything else. */
  readonly clip?: readonly [number, number];
  /** `log1p`: `sign(x) * log(1 + |x|)`, for heavy tails. Mean and deviation are of what it gives. */
  readonly scale?: 'log1p';
  readonly mean: number;
  readonly deviation: number;
}

/** As numeric, after `true`, `yes`, `y`, 1 become 1 and their opposites 0. */
export interface BooleanColumn extends ColumnBase {
  readonly kind: 'boolean';
  readonly mean: number;
  readonly deviation: number;
}

/** One input per level, then one for every other value; a missing value is all 0 (and 1 in the indicator). */
export interface CategoricalColumn extends ColumnBase {
  readonly kind: 'categorical';
  /** Folded; decimal numbers where `values` is `number`. */
  readonly levels: readonly string[];
  readonly values: 'text' | 'number';
}

/** As numeric, after a level becomes its place in the order, from 0; a value that is no level counts as missing. */
export interface OrdinalColumn extends ColumnBase {
  readonly kind: 'ordinal';
  /** In their order; folded, or decimal numbers where `values` is `number`. */
  readonly levels: readonly string[];
  readonly values: 'text' | 'number';
  readonly mean: number;
  readonly deviation: number;
}

export const DATE_CYCLES = ['month', 'weekday', 'hour'] as const;
export type DateCycle = (typeof DATE_CYCLES)[number];
export const DATE_SPANS = ['years', 'days'] as const;
export type DateSpan = (typeof DATE_SPANS)[number];

/** A number that a date becomes; never the date itself. */
export type DatePart =
  /** From the column's reference to the date, so negative before it; scaled as numeric. A year has 365.2425 days. */
  | { readonly part: DateSpan; readonly mean: number; readonly deviation: number }
  /** Two inputs, sine and cosine of the place in the cycle, in UTC. */
  | { readonly part: DateCycle };

/** The inputs of its parts, in order; all 0 where the date or what it is measured from is missing. */
export interface DatetimeColumn extends ColumnBase {
  readonly kind: 'datetime';
  /** Of text cells. */
  readonly format: DateFormat;
  readonly parts: readonly DatePart[];
  /** What spans are measured from: an ISO date, or another column of dates in the same format. */
  readonly from?: string | { readonly column: string };
}

/** Text of many values, such as codes: one input for each bucket, 1 where the folded text hashes to it. */
export interface HashedColumn extends ColumnBase {
  readonly kind: 'hashed';
  readonly buckets: number;
  /** Put before the text, then MD5: the last 52 bits of its first half, modulo `buckets`. */
  readonly seed: string;
}

/** A picture, resized: height × width × channels inputs in that order, each `(value - mean) / deviation` of its channel. */
export interface ImageColumn extends ColumnBase {
  readonly kind: 'image';
  readonly height: number;
  readonly width: number;
  /** 1: brightness; 3: red, green, blue; from 0 to 1. */
  readonly channels: number;
  readonly mean: readonly number[];
  readonly deviation: readonly number[];
}

export type FeatureColumn =
  | NumericColumn
  | BooleanColumn
  | CategoricalColumn
  | OrdinalColumn
  | DatetimeColumn
  | HashedColumn
  | ImageColumn;

export interface TargetSpec {
  readonly rule: TargetRule;
  readonly output: TargetOutput;
  /** Class names in the order of the model's outputs; empty for regression and for a comparison. */
  readonly classes: readonly string[];
  /** How class names compare with cells. */
  readonly values: 'text' | 'number' | 'boolean';
  /** Regression: y is `(value - mean) / deviation`. Otherwise 0 and 1. */
  readonly mean: number;
  readonly deviation: number;
  readonly missingMarkers: readonly (number | string)[];
  /** Specs of before have none: missing targets and other class shares are then no drift. */
  readonly reference?: TargetReference;
}

/** The agreed description of columns, encodings and scaling: width and order of the input derive from it alone. */
export interface FeatureSpec {
  readonly formatVersion: 1;
  readonly layout: FeatureLayout;
  readonly columns: readonly FeatureColumn[];
  readonly target: TargetSpec;
  /** SHA-256 (hex) of the canonical JSON of everything else. */
  readonly hash: string;
}
