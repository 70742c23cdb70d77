import type { ParameterLayout } from '@octomil/shared/tensors';
import type { ControlShares } from './strategy.js';

/** `delta`: what changed since the base. `weights`: the trained parameters themselves. */
export type UpdateFormat = 'delta' | 'weights';

export interface UpdateFile {
  readonly path: string;
  /** Samples that the update stands for, already capped. 0 counts for nothing. */
  readonly weight: number;
}

/** What one aggregation needs: plain data, so that it can go to a worker thread. */
export interface AggregationJob {
  /** Weights file of the round's base. */
  readonly basePath: string;
  /** In device order: the order decides the bytes. */
  readonly updates: readonly UpdateFile[];
  readonly updateFormat: UpdateFormat;
  /** A name of `STRATEGY_NAMES`. */
  readonly strategy: string;
  readonly options?: Readonly<Record<string, unknown>>;
  /** From 1. A strategy with state needs `statePath` from round 2 on. */
  readonly round: number;
  /** State file that the previous round wrote. */
  readonly statePath?: string;
  /** What a controlled strategy needs to move its control variate. */
  readonly control?: ControlShares;
  /** Where the checkpoint goes. It appears whole or not at all. */
  readonly outputPath: string;
  /** Where the strategy's new state goes; needed when it keeps any. */
  readonly stateOutputPath?: string;
  /**
   * `wasm` (default) folds on the CPU in float64; `js` gives the same bytes without WebAssembly SIMD; `tfjs` folds as
   * tensor products in float32 on the tfjs backend of this process, which is the way to a GPU.
   */
  readonly backend?: 'wasm' | 'js' | 'tfjs';
  /** Parameters folded at a time: memory is 52 to 68 bytes for each. Default 131,072; the bytes do not depend on it. */
  readonly rangeParams?: number;
}

export interface WrittenFile {
  readonly path: string;
  readonly sha256: string;
  readonly sizeBytes: number;
}

export interface AggregationResult {
  readonly checkpoint: WrittenFile;
  /** `null` when the strategy keeps no state. */
  readonly state: WrittenFile | null;
  /** To be recorded: repeating the job on the same backend gives the same bytes. `wasm`, `js` or `tfjs:<name>`. */
  readonly backend: string;
  readonly totalWeight: number;
  /** Euclidean norm of the checkpoint. */
  readonly normL2: number;
  /** Of a controlled strategy: that of its new control variate. */
  readonly controlNormL2?: number;
  readonly seconds: number;
}

export interface ValidationJob {
  readonly path: string;
  /** Names and shapes that the update must have: the base's, or of a controlled strategy the two halves. */
  readonly layout: ParameterLayout;
  /** The norm is of the parameters from here on. Default 0. */
  readonly measuredFrom?: number;
}

export interface UpdateMeasure {
  readonly normL2: number;
  /** Euclidean norm of what lies before `measuredFrom`; 0 where nothing does. */
  readonly controlNormL2: number;
  readonly maxAbs: number;
  readonly sizeBytes: number;
}
