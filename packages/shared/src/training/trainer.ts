import type { TrainerResult, TrainerTask, TrainingProgress } from './task.js';

export interface RunOptions {
  /** Stops the work at the next batch; the promise rejects with `cancelled`. No update is left behind. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: TrainingProgress) => void;
}

/** What a trainer may take of its machine. JSON-able. */
export interface TrainerResources {
  /** Resident memory. Rows that do not fit are read from a file. Default: half of what is available when a task starts. */
  readonly memoryLimitBytes?: number;
  /** For rows that do not fit into memory. Default: the system's folder for temporary files. */
  readonly temporaryFolder?: string;
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
