import { DatasetCache } from './dataset-cache.js';
import { runTask } from './run-task.js';
import type { TrainerResult, TrainerTask } from './task.js';
import { TaskQueue } from './task-queue.js';
import type { RunOptions, Trainer, TrainerResources } from './trainer.js';

/** A trainer without a process of its own: for tests, and for fleets of agents in one process. */
export class InProcessTrainer implements Trainer {
  readonly #queue = new TaskQueue();
  readonly #datasets = new DatasetCache();
  readonly #stopping = new AbortController();
  readonly #resources: TrainerResources;

  /** The memory limit bounds the rows alone: nobody watches this process. */
  constructor(resources: TrainerResources = {}) {
    this.#resources = resources;
  }

  run<T extends TrainerTask>(task: T, options: RunOptions = {}): Promise<TrainerResult<T>> {
    const signals = [this.#stopping.signal, ...(options.signal === undefined ? [] : [options.signal])];
    const signal = AbortSignal.any(signals);
    return this.#queue.add(
      () => runTask(task, { ...this.#resources, ...options, signal, datasets: this.#datasets }),
      signal,
    );
  }

  async stop(): Promise<void> {
    this.#queue.stop();
    this.#stopping.abort();
    await this.#queue.idle();
    await this.#datasets.close();
  }
}
