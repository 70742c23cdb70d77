import type { FeatureHints } from './features/feature-proposal.js';
import { snakeNames } from './wire-names.js';

/** How one site trains in one round. */
export interface LocalTrainingOptions {
  /** Passes over the site's rows. Default 1. */
  readonly epochs?: number;
  /** Rows per step, 10 or more; for code of the sites' own any number. Default 32. */
  readonly batchSize?: number;
  /** Default 0.01. */
  readonly learningRate?: number;
  /** Default `adam`; with `scaffold` `sgd`, the only one it trains with. */
  readonly optimizer?: 'sgd' | 'momentum' | 'adam' | 'adamax' | 'rmsprop' | 'adagrad' | 'adadelta';
  /** FedProx μ. Default 0, or what the algorithm says. */
  readonly proximalMu?: number;
  /** Shuffling and dropout. Default: from the session's `seed`. */
  readonly seed?: number;
  /** Training ends after so many steps, also within an epoch. Default: all epochs. */
  readonly maxSteps?: number;
  /** `balanced`: each class counts as much as every other at its site. Or a weight by class; others have 1. */
  readonly classWeights?: 'balanced' | Readonly<Record<string, number>>;
  /**
   * Ends training when the loss on the held-out rows has not fallen by more than `minDelta` (default 0) for `patience`
   * epochs, and keeps the weights of the best epoch. Sites with fewer than 10 held-out rows cannot.
   */
  readonly earlyStop?: { readonly patience: number; readonly minDelta?: number };
}

/** What of the model stays at each site. */
export type PersonalizationOptions =
  | 'fedbn'
  | 'ditto'
  | { readonly method: 'fedbn' }
  /** `headLayers`: names of the layers that stay. */
  | { readonly method: 'fedper'; readonly headLayers: readonly string[] }
  /** `lambda`: how much the personal model is held near the global one; default 0.1. */
  | {
      readonly method: 'ditto';
      readonly lambda?: number;
      /** Of the personal model. Default: as `local`. */
      readonly epochs?: number;
      readonly learningRate?: number;
    };

export interface HoldoutOptions {
  /** 0 to 1: the share of each site's rows that is never trained on. Default 0.2. */
  readonly share?: number;
  /** Rows of one entity (a patient) stay on the same side. Default: the row's whole content decides. */
  readonly entityColumn?: string;
}

/** What `federation.train` is asked for. */
export interface TrainingOptions {
  /** Name or id of a model in the registry (`ModelRegistry.ensureModel`). */
  readonly model: string;
  /** Default 10. */
  readonly rounds?: number;
  /** Accepted updates that close a round. More than the devices that could answer is an error. Default 1. */
  readonly minUpdates?: number;
  /** `fedavg` (default), `fedprox`, `fedavgm`, `fedadam`, `fedyogi`, `fedadagrad`, `scaffold`. */
  readonly algorithm?: string;
  /** The algorithm's own numbers, such as `{ proximalMu: 0.1 }` or `{ serverLearningRate: 0.1 }`. */
  readonly algorithmOptions?: Readonly<Record<string, unknown>>;
  /** Default: the latest version, or fresh weights from `seed` when there is none. */
  readonly baseVersion?: string;
  /** Semantic version to make. Default: the next one. */
  readonly newVersion?: string;
  /** What sites send: their change (`delta`, default) or their weights. */
  readonly updateFormat?: 'delta' | 'weights';
  /** false leaves the new version a draft. Default true. */
  readonly publish?: boolean;
  /** `logistic`, `mlp`, `cnn`, or an object with the sizes, or `{ name: 'layers', topology, output }`. Default: the model's. */
  readonly architecture?: string | Readonly<Record<string, unknown>>;
  /** What to learn: a column, or a rule such as `num>0`. Default: the model's. */
  readonly target?: string;
  /** Name that the sites' configuration gives to their data. Default: the only one, or `default`. */
  readonly dataSet?: string;
  /** Values that mean "missing", by column, such as `{ chol: [0] }`. */
  readonly missingMarkers?: Readonly<Record<string, readonly (string | number)[]>>;
  /** How columns are meant where their values do not say it. Not together with `featureSpec`. */
  readonly features?: { readonly hints?: FeatureHints };
  /**
   * `auto` (default): the sites describe their columns and a spec follows. `confirmed`, or a proposal's id: the spec that
   * somebody looked at (`client.features`).
   */
  readonly featureSpec?: 'auto' | 'confirmed' | (string & {});
  readonly local?: LocalTrainingOptions;
  /** `fedbn`: normalization layers; `fedper`: named head layers; `ditto`: a second model of the site's own. Default: nothing. */
  readonly personalization?: PersonalizationOptions;
  /** Initial weights, selection and local shuffling follow from it. Default: random. */
  readonly seed?: number;
  /** Devices asked per update needed, 1 or more. Default 1. */
  readonly overSelection?: number;
  readonly roundDeadlineSeconds?: number;
  /** Without bytes moved or steps trained for this long, a device's part is given to another. */
  readonly noProgressSeconds?: number;
  readonly maxRoundRetries?: number;
  readonly holdout?: HoldoutOptions;
  /** Only devices with these labels. */
  readonly selector?: Readonly<Record<string, string>>;
  /** `tfjs` (default), `echo` to prove a deployment's plumbing, or what the sites call code of their own. */
  readonly trainer?: string;
}

/** The request body of `POST /training/sessions` (and of the dry run). */
export function trainingRequest(federation: string, options: TrainingOptions): Record<string, unknown> {
  const { algorithm, algorithmOptions, local, holdout, ...rest } = options;
  const { personalization } = rest;
  return {
    federation,
    ...snakeNames({ ...rest, strategy: algorithm, strategyOptions: algorithmOptions }),
    ...(algorithmOptions === undefined ? {} : { strategy_options: snakeNames(algorithmOptions) }),
    ...(local === undefined ? {} : { local: localRequest(local) }),
    ...(typeof personalization === 'object' ? { personalization: snakeNames(personalization) } : {}),
    ...(holdout === undefined ? {} : { holdout: snakeNames(holdout) }),
  };
}

/** The names of classes stay as they are. */
function localRequest(local: LocalTrainingOptions): Record<string, unknown> {
  const { earlyStop } = local;
  return { ...snakeNames(local), ...(earlyStop === undefined ? {} : { early_stop: snakeNames(earlyStop) }) };
}
