/** How far one column of a site, or its target, is from what the spec was made of. Ratios are 0 to 1, of groups of 10 rows or more. */
export interface ColumnDrift {
  readonly name: string;
  /** Mean of the values less the spec's, in the spec's standard deviations; absent for levels, hashes and cycles. */
  readonly shift?: number;
  /** Share of rows without a value. */
  readonly missingRatio: number;
  /** The same over all sites when the spec was made; absent where the spec does not say. */
  readonly referenceMissingRatio?: number;
  /** Categorical, ordinal, a target of classes: share of values that are no level of the spec. */
  readonly unknownRatio?: number;
  /** The same over all sites when the spec was made. */
  readonly referenceUnknownRatio?: number;
  /** Categorical, ordinal, a target of classes: half the sum of the differences of the levels' shares, 0 to 1. */
  readonly levelShift?: number;
  /** Share of values cut off at 10 standard deviations, or at the spec's `clip`. */
  readonly clippedRatio?: number;
  /** Share of values outside of the spec's `range`. */
  readonly implausibleRatio?: number;
}

/** A table against its spec: aggregates only, of counts rounded to tens, nothing about fewer than 10 rows. */
export interface SiteDrift {
  readonly specHash: string;
  /** That were looked at: of large tables a part, spread over all of it. */
  readonly rows: number;
  /** At most 200, those that drifted most; in the order of the spec, the target last. */
  readonly columns: readonly ColumnDrift[];
  /** For people, by `driftWarnings` with its default thresholds. */
  readonly warnings: readonly string[];
}
