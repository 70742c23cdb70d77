import type { ErrorBody } from '@octomil/shared/errors';
import type { TrainerTask, TrainingProgress } from './task.js';
import type { TrainerResources } from './trainer.js';

/** From the supervisor to its trainer process. */
export type ToTrainer =
  | { readonly type: 'run'; readonly id: number; readonly task: TrainerTask; readonly resources: TrainerResources }
  | { readonly type: 'cancel'; readonly id: number };

/** From the trainer process to its supervisor. */
export type FromTrainer =
  | { readonly type: 'progress'; readonly id: number; readonly progress: TrainingProgress }
  | { readonly type: 'result'; readonly id: number; readonly result: unknown }
  | { readonly type: 'error'; readonly id: number; readonly error: ErrorBody };
