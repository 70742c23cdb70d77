import type { DataSource, ImageShape } from '@octomil/shared/data';
import type {
  FeatureHints,
  FeatureSpec,
  HoldoutRule,
  SiteDrift,
  SiteStatistics,
  TargetRule,
} from '@octomil/shared/features';
import type { Architecture } from '@octomil/shared/models';
import type { LocalOptions } from './local-options.js';
import type { EvaluationMetrics } from './metrics.js';
import type { OwnCode } from './own-code/own-code.js';
import type { PersonalPlace } from './personal/personal-folder.js';
import type { Personalization } from './personal/personalization.js';

/** Aggregates of a table, from which the coordinator makes a feature spec. */
export interface DescribeTask {
  readonly kind: 'describe';
  readonly source: DataSource;
  readonly target: TargetRule;
  /** Values that stand for "missing", by column, such as `{ chol: [0] }`. */
  readonly missingMarkers?: Readonly<Record<string, readonly (string | number)[]>>;
  /** What the data scientist wishes, by column. */
  readonly hints?: FeatureHints;
  /** What pictures are resized to. Without it they are left out. */
  readonly imageShape?: ImageShape;
}

export interface UpdateDestination {
  /** The update is written beside this path and renamed onto it when it is whole. */
  readonly outputPath: string;
  /** `delta` is trained weights minus base. */
  readonly updateFormat: 'delta' | 'weights';
}

/** Files of SCAFFOLD's control variates, each like the model: `controlVariate/<tensor>`. */
export interface ControlVariateFiles {
  /** The server's c of this round. Absent: zeros, as in a session's first round. */
  readonly serverPath?: string;
  /** The site's own c_i, as the server counts on it. Absent: zeros. */
  readonly ownPath?: string;
  /** Where the site's next one goes, which counts when the server has taken the update. */
  readonly ownOutputPath: string;
}

/** Trains with tfjs on the rows of a table. */
export interface TfjsTrainTask extends UpdateDestination {
  readonly kind: 'train';
  readonly trainer: 'tfjs';
  readonly architecture: Architecture;
  readonly featureSpec: FeatureSpec;
  readonly source: DataSource;
  /** Weights file of the round's base. */
  readonly basePath: string;
  readonly options: LocalOptions;
  readonly holdout: HoldoutRule;
  /** What of the model stays at the site. Default: nothing. */
  readonly personalization?: Personalization;
  /** Where that is kept; needed with a personalization. */
  readonly personal?: PersonalPlace;
  /** With it, training is corrected by control variates and the update holds the change of the site's own beside its weights'. */
  readonly controlVariates?: ControlVariateFiles;
}

/** Returns the base with one tensor changed: no data, no tfjs. For benchmarks and for proving a deployment's plumbing. */
export interface EchoTrainTask extends UpdateDestination {
  readonly kind: 'train';
  readonly trainer: 'echo';
  readonly basePath: string;
  /** What to report as trained rows; default 1. */
  readonly sampleCount?: number;
}

/** Trains with the site's own code, in processes of its own. What it starts from is evaluated with tfjs. */
export interface OwnCodeTrainTask extends Omit<TfjsTrainTask, 'trainer' | 'personalization' | 'personal'> {
  readonly trainer: 'own';
  readonly code: OwnCode;
  /** Digest of the code that the site's policy allows; other code is not run. */
  readonly allowedSha256: string;
  /** A fresh folder is made under it, and removed afterwards. */
  readonly workPath: string;
  readonly roundNumber: number;
}

export type TrainTask = TfjsTrainTask | EchoTrainTask | OwnCodeTrainTask;

/** How a checkpoint does on the site's held-out rows. */
export interface EvaluateTask {
  readonly kind: 'evaluate';
  readonly architecture: Architecture;
  readonly featureSpec: FeatureSpec;
  readonly source: DataSource;
  readonly weightsPath: string;
  readonly holdout: HoldoutRule;
  /** With it the weights are evaluated with what the site keeps of its own in place. */
  readonly personalization?: Personalization;
  readonly personal?: PersonalPlace;
}

/** What a model answers to rows that are encoded already, or to rows of zeros. Reads no data set. */
export interface PredictTask {
  readonly kind: 'predict';
  /** `model.json`. */
  readonly documentPath: string;
  /** Weights file. */
  readonly weightsPath: string;
  /** Encoded rows, each of the document's input width; at most 10,000. Default: one row of zeros. */
  readonly rows?: readonly (readonly number[])[];
}

/** One piece of work for a trainer. JSON-able: it crosses a process boundary. */
export type TrainerTask = DescribeTask | TrainTask | EvaluateTask | PredictTask;

export interface UpdateFile {
  readonly path: string;
  /** Hex digest of the whole file. */
  readonly sha256: string;
  readonly sizeBytes: number;
}

export interface TrainResult {
  /** Rows trained on. */
  readonly sampleCount: number;
  /** Mean loss over the last epoch's rows, the proximal term left out; null for echo. */
  readonly trainLoss: number | null;
  /** Of the incoming base on the held-out rows; null under 10 of them. */
  readonly evaluation: EvaluationMetrics | null;
  readonly update: UpdateFile;
  /** Name of the tfjs backend, `echo`, or `own:` and the trainer's name. */
  readonly backend: string;
  /** Optimizer steps taken; a personal model's are not counted. */
  readonly steps: number;
  /** How far the site's rows are from what the feature spec was made of; absent for echo. */
  readonly drift?: SiteDrift;
  /** With early stop: the epoch, from 1, whose weights were kept. */
  readonly bestEpoch?: number;
  /** Of the site's personal model after this training (Ditto), on the held-out rows; null under 10 of them. */
  readonly personal?: EvaluationMetrics | null;
  readonly personalization?: PersonalReport;
}

/** What a personalization did in one training. */
export interface PersonalReport {
  readonly method: Personalization['method'];
  /** Names of the tensors that stayed at the site: in the update they are as in the base. */
  readonly stayed: readonly string[];
  /** Where the site's own part came from: `kept` from the round before, or the round's base. */
  readonly startedFrom: 'kept' | 'base';
  /** Why from the base, where something was expected: it was lost, damaged, or of another model. */
  readonly reason?: string;
}

export interface PredictResult {
  /** One per row: logits (`binary`: one, `multiclass`: one per class) or the scaled value (`regression`). All finite. */
  readonly outputs: readonly (readonly number[])[];
  /** Name of the tfjs backend. */
  readonly backend: string;
}

/** What each kind of task gives. */
export interface TrainerResults {
  readonly describe: SiteStatistics;
  readonly train: TrainResult;
  readonly evaluate: EvaluationMetrics | null;
  readonly predict: PredictResult;
}

/** The result of a task of type `T`. */
export type TrainerResult<T extends TrainerTask = TrainerTask> = TrainerResults[T['kind']];

export interface TrainingProgress {
  /** Steps done. */
  readonly step: number;
  readonly totalSteps: number;
  /** From 1. */
  readonly epoch: number;
  /** Loss of the last batch. */
  readonly loss: number;
  /** Rows of the last batch, where they are known: the loss of a few rows stays at the site. */
  readonly rows?: number;
}
