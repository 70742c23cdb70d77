import type { TargetRule } from './target-rule.js';

/** `table`: encoded columns, any kind. `grid`: numbers in natural name order, one input each (pixels for a CNN). */
export type FeatureLayout = 'table' | 'grid';

/** The model's output, as in an architecture. */
export type TargetOutput =
  | { readonly kind: 'binary' }
  | { readonly kind: 'multiclass'; readonly classes: number }
  | { readonly kind: 'regression' };

interface ColumnBase {
  /** As shown to users; files are matched by its folded form (`Chest Pain` = `chest_pain`). */
  readonly name: string;
  /** Values that mean "missing" in this column, besides empty cells and the usual texts (`NA`, `?`, ...). */
  readonly missingMarkers: readonly (number | string)[];
  /** One more input that is 1 where the value is missing. */
  readonly missingIndicator: boolean;
}

/** Encoded as `(value - mean) / deviation`, clipped to ±CLIP_DEVIATIONS; a missing value is 0. */
export interface NumericColumn extends ColumnBase {
  readonly kind: 'numeric';
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

export type FeatureColumn = NumericColumn | BooleanColumn | CategoricalColumn;

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
