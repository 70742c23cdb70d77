import { openAsBlob } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { arch, platform, release, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { type DataSource, foldName } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { type FeatureSpec, formatTargetRule, parseTargetRule, type SiteStatistics } from '@octomil/shared/features';
import { parseModelDocument } from '@octomil/shared/models';
import { encodeWeights, type NamedTensor, weightsFromSafetensors } from '@octomil/shared/tensors';
import { parseLocalOptions, runTask, type TrainingProgress, type TrainResult } from '@octomil/shared/training';
import { OctomilClientError } from '../client-error.js';
import type { LocalTrainingOptions } from '../training-options.js';
import { type PersonalRequest, personalPart } from './personal-part.js';

export { withData } from './data.js';
export { readPersonalModel } from './personal-part.js';

/** Rows held out of training, as agents do by default. */
const HOLDOUT_SHARE_RATIO = 0.2;

/** The files of a version that training starts from. */
export interface BaseFiles {
  /** `model.json`. */
  readonly document: Uint8Array;
  /** A weights file. */
  readonly weights: Uint8Array;
}

export interface LocalTrainingRequest {
  readonly base: BaseFiles;
  /** Salt of the held-out rows: the same ones each time, as with agents. */
  readonly modelName: string;
  readonly source: DataSource;
  readonly targetCol: string | undefined;
  readonly updateFormat: 'weights' | 'delta';
  readonly local: LocalTrainingOptions;
  readonly personal: PersonalRequest | undefined;
  /** The epochs are run this many times. */
  readonly rounds: number;
  readonly folder: string;
  readonly onProgress: ((progress: TrainingProgress) => void) | undefined;
  readonly signal: AbortSignal | undefined;
}

export interface LocalTrainingResult {
  readonly update: Blob;
  readonly path: string;
  readonly sha256: string;
  readonly sampleCount: number;
  readonly metrics: Readonly<Record<string, unknown>>;
}

/**
 * Trains in this process on a table whose rows are encoded as the version's feature spec says.
 *
 * @throws OctomilError `data_mismatch` where the table lacks the target or all columns, `too_few_rows`, `data_unreadable`,
 * `training_failed`, `training_not_supported` for a version without a feature spec, `cancelled`
 */
export async function trainOnTable(request: LocalTrainingRequest): Promise<LocalTrainingResult> {
  const { base, source, folder, onProgress, signal } = request;
  const { architecture, featureSpec } = parseModelDocument(base.document);
  if (featureSpec === undefined) {
    throw new OctomilError(
      'training_not_supported',
      `the version of "${request.modelName}" does not say how columns become inputs, so a table cannot be trained on; train yourself and give the weights, or use trainFromRemote`,
    );
  }
  requireTarget(featureSpec, request.targetCol, request.modelName);
  const basePath = join(folder, 'base.safetensors');
  const outputPath = join(folder, 'update.safetensors');
  await writeFile(basePath, base.weights);
  const options = parseLocalOptions(withoutUndefined(request.local));
  const result: TrainResult = await runTask(
    {
      kind: 'train',
      trainer: 'tfjs',
      source,
      architecture,
      featureSpec,
      basePath,
      outputPath,
      updateFormat: request.updateFormat,
      options: { ...options, epochs: options.epochs * request.rounds },
      holdout: { salt: request.modelName, shareRatio: HOLDOUT_SHARE_RATIO },
      ...(request.personal === undefined ? {} : personalPart(request.personal, request.modelName, architecture)),
    },
    { ...(onProgress === undefined ? {} : { onProgress }), ...(signal === undefined ? {} : { signal }) },
  );
  const { trainLoss, evaluation, steps, backend, bestEpoch, personal, personalization } = result;
  return {
    path: outputPath,
    update: await openAsBlob(outputPath),
    sha256: result.update.sha256,
    sampleCount: result.sampleCount,
    metrics: {
      ...(trainLoss === null ? {} : { loss: trainLoss }),
      ...{ evaluation, steps, backend },
      ...withoutUndefined({ bestEpoch, personal, personalization }),
    },
  };
}

/** Aggregates of a table's columns: nothing about fewer than ten rows. @throws OctomilError as a describe task */
export function describeTable(
  source: DataSource,
  target: string,
  signal: AbortSignal | undefined,
): Promise<SiteStatistics> {
  return runTask({ kind: 'describe', source, target: parseTargetRule(target) }, signal === undefined ? {} : { signal });
}

/** A folder of one's own while `work` runs. */
export async function withFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-client-'));
  try {
    return await work(folder);
  } finally {
    await rm(folder, { recursive: true, force: true, maxRetries: 3 });
  }
}

/** @throws OctomilError `invalid_input` for data that do not fill their shape */
export function encode(tensors: readonly NamedTensor[]): Uint8Array {
  return encodeWeights(tensors);
}

/** @throws OctomilError `corrupt_file` */
export function decode(bytes: Uint8Array): NamedTensor[] {
  return weightsFromSafetensors(bytes);
}

/** The tensors of an update that was trained here. */
export async function readUpdate(path: string): Promise<NamedTensor[]> {
  return weightsFromSafetensors(await readFile(path));
}

/** What a registration says of this machine. */
export function machineFacts(): Record<string, unknown> {
  return {
    platform: platform(),
    os_version: release(),
    sdk: 'typescript',
    cpu_architecture: arch(),
    total_memory_mb: Math.round(totalmem() / 2 ** 20),
  };
}

/** A caller that names another target than the model learns would train something else than it means to. */
function requireTarget({ target }: FeatureSpec, asked: string | undefined, model: string): void {
  if (asked === undefined) return;
  const rule = formatTargetRule(target.rule);
  const wanted = parseTargetRule(asked);
  const sameColumn = wanted.comparison === undefined && foldName(wanted.column) === foldName(target.rule.column);
  if (sameColumn || formatTargetRule(wanted) === rule) return;
  throw new OctomilClientError(
    'invalid_input',
    `targetCol is "${asked}", but the version of "${model}" learned "${rule}"; leave targetCol out, or train another model`,
    { details: { field: 'targetCol', value: asked } },
  );
}

function withoutUndefined(options: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}
