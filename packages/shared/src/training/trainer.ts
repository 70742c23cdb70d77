import type { TrainerResult, TrainerTask, TrainingProgress } from './task.js';

export interface RunOptions {
  /** Stops the work at the next batch; the promise rejects with `cancelled`. No update is left behind. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: TrainingProgress) => void;
}

/** Runs tasks one after another, in the order asked. */
export interface Trainer {
  /**
   * @throws OctomilError `cancelled` when the signal aborts or the trainer is stopped, `training_failed` when
   * training diverges or the trainer dies, `data_unreadable`, `data_mismatch` and `too_few_rows` from the data
   */
  run<T extends TrainerTask>(task: T, options?: RunOptions): Promise<TrainerResult<T>>;
  /** Ends what runs and what waits. Safe to repeat. */
  stop(): Promise<void>;
}
