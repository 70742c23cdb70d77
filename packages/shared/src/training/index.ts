export { ABILITIES, neededAbilities, type TaskParts } from './abilities.js';
export { DatasetCache } from './dataset-cache.js';
export { evaluate } from './evaluate.js';
export { type GradientTerm, type GradientTermFactory, proximalTerm, type TrainedVariable } from './gradient-terms.js';
export { InProcessTrainer } from './in-process-trainer.js';
export {
  DEFAULT_LOCAL_OPTIONS,
  type LocalOptions,
  LocalOptionsSchema,
  OPTIMIZERS,
  type OptimizerName,
  parseLocalOptions,
} from './local-options.js';
export { areaUnderRoc, type EvaluationMetrics, metricsOf } from './metrics.js';
export * from './own-code/index.js';
export * from './personal/index.js';
export { type RunTaskOptions, runTask } from './run-task.js';
export { requireRowsPerStep } from './steps.js';
export type {
  ControlVariateFiles,
  DescribeTask,
  EchoTrainTask,
  EvaluateTask,
  OwnCodeTrainTask,
  PersonalReport,
  PredictResult,
  PredictTask,
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
export { type LocalTraining, type LocalTrainingOptions, trainLocally } from './train-locally.js';
export type { RunOptions, Trainer, TrainerResources } from './trainer.js';
export { TrainerSupervisor, type TrainerSupervisorOptions } from './trainer-supervisor.js';
