export { type ColumnCoverage, columnCoverage, type SiteCoverage } from './column-coverage.js';
export { encodedWidth } from './column-width.js';
export { type Dataset, type HoldoutRule, type LoadedDataset, MemoryDataset } from './dataset.js';
export { type DescribeRequest, describeSite, describeTable } from './describe-site.js';
export {
  DEFAULT_DRIFT_THRESHOLDS,
  type DriftThresholds,
  type DriftWarning,
  driftWarnings,
  severityOf,
} from './drift-warnings.js';
export { encodeRows } from './encode.js';
export { type DecodePicture, decodePictures } from './encode-pictures.js';
export {
  FEATURE_KINDS,
  type FeatureHint,
  type FeatureHints,
  type HintedConversion,
} from './feature-hints.js';
export type {
  BooleanColumn,
  CategoricalColumn,
  ColumnReference,
  DateCycle,
  DatePart,
  DateSpan,
  DatetimeColumn,
  FeatureColumn,
  FeatureLayout,
  FeatureSpec,
  HashedColumn,
  ImageColumn,
  NumericColumn,
  OrdinalColumn,
  TargetOutput,
  TargetReference,
  TargetSpec,
  UnitConversion,
} from './feature-spec.js';
export { DATE_CYCLES, DATE_SPANS } from './feature-spec.js';
export { encodeTable, type LoadOptions, loadDataset } from './load-dataset.js';
export { type MergeOptions, mergeStatistics, type SiteEntry } from './merge-statistics.js';
export { CLIP_DEVIATIONS } from './number-encoder.js';
export { parseHints, refuseTargetHints } from './parse-hints.js';
export { MAX_ENCODED_WIDTH, MAX_SPEC_COLUMNS, parseFeatureSpec } from './parse-spec.js';
export { type NearNames, rowWarnings } from './row-warnings.js';
export type { ColumnDrift, SiteDrift } from './site-drift.js';
export {
  type CategoryCount,
  type ColumnStatistics,
  type ExcludedColumn,
  type Exclusion,
  type ImageStatistics,
  MAX_LEVELS,
  MINIMUM_ROWS,
  type Moments,
  SEEN_KINDS,
  type SeenKind,
  type SiteStatistics,
  type TargetStatistics,
} from './site-statistics.js';
export { hashFeatureSpec, sealFeatureSpec } from './spec-hash.js';
export { type Comparison, formatTargetRule, parseTargetRule, type TargetRule } from './target-rule.js';
export { foldUnit } from './units.js';
