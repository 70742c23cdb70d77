export type { Dataset, HoldoutRule, LoadedDataset } from './dataset.js';
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
export {
  type CategoryCount,
  type ColumnStatistics,
  type ExcludedColumn,
  MINIMUM_ROWS,
  type Moments,
  type SiteStatistics,
  type TargetStatistics,
} from './site-statistics.js';
export { formatTargetRule, parseTargetRule, type TargetRule } from './target-rule.js';
