export {
  DEFAULT_LOCAL_OPTIONS,
  type LocalOptions,
  LocalOptionsSchema,
  OPTIMIZERS,
  type OptimizerName,
  parseLocalOptions,
} from './local-options.js';
export type { EvaluationMetrics } from './metrics.js';
export type {
  DescribeTask,
  EchoTrainTask,
  EvaluateTask,
  TfjsTrainTask,
  TrainerResult,
  TrainerResults,
  TrainerTask,
  TrainingProgress,
  TrainResult,
  TrainTask,
  UpdateDestination,
  UpdateFile,
} from './task.js';
export type { RunOptions, Trainer } from './trainer.js';
