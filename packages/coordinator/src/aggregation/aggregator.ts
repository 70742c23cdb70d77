import { type Clock, type EntryPoint, entryPoint, type Service, systemClock } from '@octomil/shared/runtime';
import type { AggregationJob, AggregationResult, UpdateMeasure, ValidationJob } from './aggregation-job.js';
import { WorkerLane } from './worker-lane.js';

export interface AggregatorOptions {
  readonly clock?: Clock;
  /** Worker threads end after so long without work, in milliseconds. Default 60 s. */
  readonly idleMs?: number;
  /** The worker's file. Default: the one beside this; tests bring others. */
  readonly entry?: EntryPoint;
}

/**
 * Runs aggregations and validations off the main thread. Each kind has a worker thread of its own, at most one, so that a
 * validation never waits behind a long aggregation; within a kind, jobs run in the order in which they came.
 */
export class Aggregator implements Service {
  readonly #aggregations: WorkerLane;
  readonly #validations: WorkerLane;

  constructor(options: AggregatorOptions = {}) {
    const lane = {
      clock: options.clock ?? systemClock,
      idleMs: options.idleMs ?? 60_000,
      entry: options.entry ?? entryPoint(import.meta.url, 'aggregation-worker'),
    };
    // tfjs, when a job asks for it, needs most of the larger heap.
    this.#aggregations = new WorkerLane({ ...lane, maxHeapMiB: 192 });
    this.#validations = new WorkerLane({ ...lane, maxHeapMiB: 64 });
  }

  /** @throws as `aggregate`; `internal` when the worker crashed; `cancelled` when aborted or stopped */
  aggregate(job: AggregationJob, signal?: AbortSignal): Promise<AggregationResult> {
    return this.#aggregations.run({ kind: 'aggregate', job }, signal);
  }

  /** @throws as `validateUpdate`; `internal` when the worker crashed; `cancelled` when aborted or stopped */
  validate(job: ValidationJob, signal?: AbortSignal): Promise<UpdateMeasure> {
    return this.#validations.run({ kind: 'validate', job }, signal);
  }

  async stop(): Promise<void> {
    await Promise.all([this.#aggregations.stop(), this.#validations.stop()]);
  }
}
