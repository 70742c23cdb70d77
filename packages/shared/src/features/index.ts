export { type ColumnCoverage, columnCoverage, type SiteCoverage } from './column-coverage.js';
export { type Dataset, type HoldoutRule, type LoadedDataset, MemoryDataset } from './dataset.js';
export { type DescribeRequest, describeSite, describeTable } from './describe-site.js';
export { CLIP_DEVIATIONS, encodedWidth, encodeRows } from './encode.js';
export type {
  BooleanColumn,
  CategoricalColumn,
  FeatureColumn,
  FeatureLayout,
  FeatureSpec,
  NumericColumn,
  TargetOutput,
  TargetSpec,
} from './feature-spec.js';
export { encodeTable, type LoadOptions, loadDataset } from './load-dataset.js';
export { type MergeOptions, mergeStatistics, type SiteEntry } from './merge-statistics.js';
export { MAX_ENCODED_WIDTH, MAX_SPEC_COLUMNS, parseFeatureSpec } from './parse-spec.js';
export {
  type CategoryCount,
  type ColumnStatistics,
  type ExcludedColumn,
  type Exclusion,
  MAX_LEVELS,
  MINIMUM_ROWS,
  type Moments,
  type SeenKind,
  type SiteStatistics,
  type TargetStatistics,
} from './site-statistics.js';
export { hashFeatureSpec, sealFeatureSpec } from './spec-hash.js';
export { type Comparison, formatTargetRule, parseTargetRule, type TargetRule } from './target-rule.js';
