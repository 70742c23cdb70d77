import type { DateSpan } from './feature-spec.js';

/** No number about fewer rows than this leaves a site. */
export const MINIMUM_ROWS = 10;

/** Columns with more distinct values than this have no category counts, and no one-hot encoding. */
export const MAX_LEVELS = 32;

/** What the values of a column look like at one site; `integer` is a numeric column with whole numbers only. */
export const SEEN_KINDS = ['numeric', 'integer', 'boolean', 'text', 'time', 'image'] as const;
export type SeenKind = (typeof SEEN_KINDS)[number];

export interface CategoryCount {
  /** Folded: trimmed, ASCII letters in lower case; a number in its shortest decimal form. */
  readonly value: string;
  readonly count: number;
}

/** Mean and standard deviation over `count` values: the sums divided by the count, rounded for privacy. */
export interface Moments {
  readonly count: number;
  readonly mean: number;
  /** Population standard deviation. */
  readonly deviation: number;
}

/** Aggregates of one column, each a function of the suppressed column; counts are multiples of ten (see `suppressColumn`). */
export interface ColumnStatistics {
  /** As spelled in the file. */
  readonly name: string;
  readonly seen: SeenKind;
  /** Rows with a value, those set apart in `zeros` not counted. */
  readonly count: number;
  readonly missing: number;
  /** Rows holding 0 where all other values are far from 0, so that 0 probably means "missing"; else 0. */
  readonly zeros: number;
  /** Numeric and integer columns. */
  readonly moments: Moments | null;
  /** Distinct values, the rare ones counted as one; beyond ten, rounded up to tens. null beyond {@link MAX_LEVELS}. */
  readonly levels: number | null;
  /** By value; empty where `levels` is null. */
  readonly categories: readonly CategoryCount[];
  /** Rows of the values too rare for `categories`, at least {@link MINIMUM_ROWS} or 0. */
  readonly other: number;
  /** As the site's configuration names it: the moments are in it. */
  readonly unit?: string;
  /** Text that spells numbers with leading zeros, of more than {@link MAX_LEVELS} values that repeat. */
  readonly codes?: true;
  /** Moments of what a hint derives: the spans of a date, or `value` after clip and logarithm, in the hint's unit; without `zeros`. */
  readonly derived?: readonly DerivedMoments[];
  /** Of pictures: the size they were resized to, and the moments of each channel's numbers; 1 is the greatest. */
  readonly image?: ImageStatistics;
}

export interface ImageStatistics {
  readonly height: number;
  readonly width: number;
  readonly channels: number;
  /** By channel; counts are of pictures. */
  readonly moments: readonly Moments[];
}

export interface DerivedMoments {
  readonly part: DateSpan | 'value';
  readonly moments: Moments;
}

export const EXCLUSIONS = ['identifier', 'free_text', 'time', 'unsupported_type'] as const;
export type Exclusion = (typeof EXCLUSIONS)[number];

export interface ExcludedColumn {
  readonly name: string;
  readonly reason: Exclusion;
}

export interface TargetStatistics {
  readonly column: string;
  readonly seen: SeenKind;
  /** Rows with a target. */
  readonly count: number;
  readonly missing: number;
  /** Class counts ("0" and "1" for a comparison); null where the values are too many for classes. */
  readonly classes: readonly CategoryCount[] | null;
  /** Rows of classes too rare to be named. */
  readonly other: number;
  /** Numeric targets without a comparison. */
  readonly moments: Moments | null;
}

/** All that a site tells about its table before training: aggregates only, nothing about fewer than 10 rows. */
export interface SiteStatistics {
  readonly formatVersion: 1;
  /** To the nearest ten, as every count. */
  readonly rows: number;
  /** Without the target and the excluded columns; a column with fewer than 10 values is not listed. */
  readonly columns: readonly ColumnStatistics[];
  readonly excluded: readonly ExcludedColumn[];
  /** null where the file has no such column, or fewer than 10 rows with a value in it. */
  readonly target: TargetStatistics | null;
}
