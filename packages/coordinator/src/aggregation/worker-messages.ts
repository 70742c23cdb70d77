import type { ErrorBody } from '@octomil/shared/errors';
import type { AggregationJob, AggregationResult, UpdateMeasure, ValidationJob } from './aggregation-job.js';

/** What the worker thread of this room is asked to do. */
export type WorkerTask =
  | { readonly kind: 'aggregate'; readonly job: AggregationJob }
  | { readonly kind: 'validate'; readonly job: ValidationJob };

export type WorkerRequest =
  | { readonly kind: 'run'; readonly id: number; readonly task: WorkerTask }
  | { readonly kind: 'abort'; readonly id: number };

export type WorkerReply =
  | { readonly id: number; readonly result: AggregationResult | UpdateMeasure }
  /** `cause` is the original stack, for the log of the process that asked. */
  | { readonly id: number; readonly error: ErrorBody; readonly cause: string };
