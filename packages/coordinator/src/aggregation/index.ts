export { aggregate } from './aggregate.js';
export type {
  AggregationJob,
  AggregationResult,
  UpdateFile,
  UpdateFormat,
  UpdateMeasure,
  ValidationJob,
  WrittenFile,
} from './aggregation-job.js';
export { Aggregator, type AggregatorOptions } from './aggregator.js';
export { DEFAULT_STRATEGY, isControlled, STRATEGY_NAMES, strategyByName } from './strategies.js';
export type { ControlShares, PreparedStrategy, StateSlot, Strategy, StrategyRange } from './strategy.js';
export { validateUpdate, validateUpdateBytes } from './validate-update.js';
