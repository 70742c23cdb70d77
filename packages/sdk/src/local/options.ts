import type { TrainingProgress } from '@octomil/shared/training';
import type { LocalTrainingOptions, PersonalizationOptions } from '../training-options.js';
import type { TrainingData } from './data.js';
import type { Filter, FilterRecord } from './filters.js';
import type { StateDict, WeightsLike } from './weights.js';

/** What {@link FederatedClient.train} trains with. */
export interface TrainDataOptions {
  /** Name or id. */
  readonly model: string;
  /**
   * A table to train on here (path or URL of a .csv, .tsv, .csv.gz, .parquet, .json or .jsonl file; or rows), or weights
   * that were trained already: by name, as a list, or the bytes of a safetensors, torch zip or .npy file.
   */
  readonly data: TrainingData | WeightsLike;
  /** What to learn, such as `diagnosis` or `num>0`. Default: the model's own target; for a new model `target`. */
  readonly targetCol?: string;
  /** Version to start from. Default: the latest published one. */
  readonly version?: string;
  /** Rows that the update stands for. Default: those trained on; needed beside ready weights to count more than one row. */
  readonly sampleCount?: number;
  /** Default `weights`. Ready weights are sent as what this says they are. */
  readonly updateFormat?: 'weights' | 'delta';
  /** How often the epochs of `local` are run before the one upload. Default 1. */
  readonly rounds?: number;
  readonly local?: LocalTrainingOptions;
  /**
   * What of the model stays here: kept in `personalFolder` and left out of the update. For a table only; see
   * {@link FederatedClient.personalModel}.
   */
  readonly personalization?: PersonalizationOptions;
  /** Where it is kept; needed with `personalization`. */
  readonly personalFolder?: string;
  /** Of a model that has no version yet. Default `mlp`. */
  readonly architecture?: string | Readonly<Record<string, unknown>>;
  /** Sent with ready weights; local training reports its own. */
  readonly metrics?: Readonly<Record<string, unknown>>;
  readonly onProgress?: (progress: TrainingProgress) => void;
  readonly signal?: AbortSignal;
}

/** A model of the caller's own: Ditto's, or a version with the caller's own layers in it. */
export interface PersonalModel {
  readonly method: 'fedbn' | 'fedper' | 'ditto';
  /** Rounds that it has been trained in. */
  readonly rounds: number;
  readonly architecture: object;
  /** How a table's columns become inputs. */
  readonly featureSpec: object;
  readonly weights: StateDict;
}

/** What became of an update. */
export interface ClientUpdateResult {
  readonly updateId: string;
  /** `rejected`: whole, but it does not count; `reason` says why. */
  readonly status: 'accepted' | 'rejected';
  readonly reason: string | null;
  readonly sampleCount: number;
  readonly metrics: Readonly<Record<string, unknown>>;
  /** The version that it was trained from. */
  readonly version: string;
  readonly roundId: string;
  /** What was done to the update before it left; only in a round that asks for it. */
  readonly filters: readonly FilterRecord[];
}

/** What a training function of one's own is told. */
export interface LocalRound {
  /** From 1. */
  readonly round: number;
  readonly version: string;
  readonly roundId: string | undefined;
  /** As the round says, for whoever has it in the loss; 0 without. */
  readonly proximalMu: number;
  readonly signal: AbortSignal | undefined;
}

export interface LocalTrainResult {
  readonly weights: WeightsLike;
  readonly sampleCount: number;
  readonly metrics?: Readonly<Record<string, unknown>>;
}

/** Trains from the base and gives the trained weights, all of them. */
export type LocalTrainFn = (base: StateDict, round: LocalRound) => LocalTrainResult | Promise<LocalTrainResult>;

export interface RemoteTrainOptions {
  readonly model: string;
  readonly localTrainFn: LocalTrainFn;
  /** Default 1. While no new version appears, each goes on from the weights of the one before. */
  readonly rounds?: number;
  /** Version to start from in every round. Default: the latest published one, asked for before each. */
  readonly version?: string;
  /** Default `weights`. */
  readonly updateFormat?: 'weights' | 'delta';
  readonly signal?: AbortSignal;
}

export interface JoinRoundOptions {
  /** Default: the oldest open round that this device has not answered. */
  readonly roundId?: string;
  /** One of these two: a function that trains, or a table to train on here. */
  readonly localTrainFn?: LocalTrainFn;
  readonly data?: TrainingData;
  readonly targetCol?: string;
  /**
   * What of the model stays here: kept in `personalFolder` and left out of the update. For a table only; see
   * {@link FederatedClient.personalModel}.
   */
  readonly personalization?: PersonalizationOptions;
  /** Where it is kept; needed with `personalization`. */
  readonly personalFolder?: string;
  /** Applied after those of the round. */
  readonly filters?: readonly Filter[];
  readonly onProgress?: (progress: TrainingProgress) => void;
  readonly signal?: AbortSignal;
}
