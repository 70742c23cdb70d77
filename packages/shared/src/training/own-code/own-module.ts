import type { NamedTensor } from '@octomil/shared/tensors';

/** What a module's `train` is given. */
export interface OwnModuleInput {
  /** The round's base. */
  readonly weights: readonly NamedTensor[];
  /** Encoded, row-major: x has rows × width numbers, y one per row. */
  readonly data: {
    readonly x: Float32Array;
    readonly y: Float32Array;
    readonly rows: number;
    readonly width: number;
    /** Names of the inputs: the feature, and its index where it takes several inputs. */
    readonly columns: readonly string[];
  };
  /** As in `config.json`. */
  readonly config: Readonly<Record<string, unknown>>;
  /** Aborts when the round is over; the process is killed two seconds later. */
  readonly signal: AbortSignal;
  readonly report: (progress: { readonly step: number; readonly totalSteps: number; readonly loss?: number }) => void;
}

/** What it gives back: `weights` or `delta`, with the names and shapes of the base. */
export interface OwnModuleResult {
  readonly weights?: readonly NamedTensor[];
  readonly delta?: readonly NamedTensor[];
  /** Rows trained on. */
  readonly sampleCount: number;
  readonly metrics?: { readonly trainLoss?: number };
}

/** The export `train` of a site's Node module. */
export type OwnModuleTrain = (input: OwnModuleInput) => Promise<OwnModuleResult> | OwnModuleResult;
