import { readFile } from 'node:fs/promises';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import {
  type DecodePicture,
  decodePictures,
  encodeRows,
  type FeatureSpec,
  rowWarnings,
} from '@octomil/shared/features';
import { type ModelDocument, parseModelDocument } from '@octomil/shared/models';
import { type Clock, type Logger, silentLogger, systemClock } from '@octomil/shared/runtime';
import { type Trainer, TrainerSupervisor } from '@octomil/shared/training';
import { nearNames } from '../gateway/near-names.js';
import { type ModelVersion, readActiveVersions } from './active-version.js';
import { AgentReports } from './agent-reports.js';
import { type OnnxRunner, openOnnxRunner } from './onnx-runner.js';
import { PictureDecoder } from './picture-decoder.js';
import { type Prediction, readOutputs } from './predicted-values.js';

export interface PredictorOptions {
  /** An agent's state folder: what it has activated is served, from the moment on which it is. */
  readonly stateDir?: string;
  /** Versions besides those, such as a model's files that somebody downloaded. */
  readonly versions?: readonly ModelVersion[];
  /** Where tfjs runs. Default: a process of its own, which ends when idle. */
  readonly trainer?: Trainer;
  /** Default: used for versions with an ONNX file where onnxruntime-node is installed. */
  readonly useOnnx?: boolean;
  readonly clock?: Clock;
  readonly logger?: Logger;
}

/** A row by column names, or its values in the order of the model's columns; a picture as bytes (PNG, JPEG) or base64. */
export type InputRow = Readonly<Record<string, unknown>> | readonly unknown[];

export interface PredictionAnswer {
  readonly model: string;
  readonly modelId: string;
  readonly version: string;
  readonly versionId: string;
  readonly engine: 'tfjs' | 'onnx';
  readonly predictions: readonly Prediction[];
  readonly latencyMs: number;
  /** What of the rows is probably not meant, such as names that the model does not know. */
  readonly warnings: readonly string[];
}

export interface Predictor {
  /**
   * Rows are encoded by the version's feature spec, as in training. A version that is activated while this runs is for
   * the next request.
   *
   * @param model name or id; may be left out where there is one
   * @throws OctomilError `model_not_found`, `invalid_input` for rows, `inference_failed`, `corrupt_file`, `cancelled`
   */
  predict(model: string | undefined, rows: readonly InputRow[], signal?: AbortSignal): Promise<PredictionAnswer>;
  models(): Promise<readonly { readonly name: string; readonly version: string }[]>;
  stop(): Promise<void>;
}

const MAX_DOCUMENTS = 16;

/** Serves the registry's own models, made of `model.json` and a weights file. */
export function openPredictor(options: PredictorOptions): Predictor {
  return new DeployedPredictor(options);
}

class DeployedPredictor implements Predictor {
  readonly #options: PredictorOptions;
  readonly #clock: Clock;
  readonly #trainer: Trainer;
  readonly #reports: AgentReports | undefined;
  /** By version: a version's files never change. */
  readonly #documents = new Map<string, Promise<ModelDocument>>();
  readonly #onnx: OnnxRunner | undefined;
  readonly #pictures: PictureDecoder;

  constructor(options: PredictorOptions) {
    const { stateDir, clock = systemClock, logger = silentLogger } = options;
    this.#options = options;
    this.#clock = clock;
    this.#trainer = options.trainer ?? new TrainerSupervisor({ clock, logger });
    this.#reports = stateDir === undefined ? undefined : new AgentReports({ stateDir, clock, logger });
    this.#onnx = options.useOnnx === false ? undefined : openOnnxRunner(logger);
    this.#pictures = new PictureDecoder({ clock, logger });
  }

  async predict(name: string | undefined, rows: readonly InputRow[], signal?: AbortSignal): Promise<PredictionAnswer> {
    const version = pick(await this.#versions(), name);
    const document = await this.#document(version);
    const { encoded, warnings } = await encode(document, rows, (bytes, shape) =>
      this.#pictures.decode(bytes, shape, signal),
    );
    const startedAtMs = this.#clock.now();
    const report = (failed: boolean): number => {
      const latencyMs = this.#clock.now() - startedAtMs;
      const { modelId, versionId } = version;
      this.#reports?.add({ modelId, versionId, latencyMs, failed });
      return latencyMs;
    };
    try {
      const { outputs, engine } = await this.#run(version, document, encoded, signal);
      const predictions = readOutputs(document, outputs);
      return {
        model: version.modelName,
        modelId: version.modelId,
        version: version.version,
        versionId: version.versionId,
        engine,
        predictions,
        latencyMs: report(false),
        warnings,
      };
    } catch (error) {
      // Who left, and a server that stops, say nothing of the version.
      if (signal?.aborted !== true && toOctomilError(error).code !== 'cancelled') report(true);
      throw error;
    }
  }

  async models(): Promise<readonly { readonly name: string; readonly version: string }[]> {
    return (await this.#versions()).map(({ modelName: name, version }) => ({ name, version }));
  }

  async stop(): Promise<void> {
    await this.#reports?.flush();
    await this.#onnx?.stop();
    await this.#pictures.stop();
    if (this.#options.trainer === undefined) await this.#trainer.stop();
  }

  async #versions(): Promise<readonly ModelVersion[]> {
    const { stateDir, versions = [] } = this.#options;
    return stateDir === undefined ? versions : [...versions, ...(await readActiveVersions(stateDir))];
  }

  async #document({ versionId, documentPath }: ModelVersion): Promise<ModelDocument> {
    const known = this.#documents.get(versionId);
    if (known !== undefined) return known;
    const reading = readFile(documentPath).then((bytes) => parseModelDocument(bytes));
    this.#documents.set(versionId, reading);
    const [oldest] = this.#documents.keys();
    if (this.#documents.size > MAX_DOCUMENTS && oldest !== undefined) this.#documents.delete(oldest);
    // A file that could not be read may be there the next time.
    reading.catch(() => this.#documents.delete(versionId));
    return reading;
  }

  async #run(
    version: ModelVersion,
    document: ModelDocument,
    rows: readonly (readonly number[])[],
    signal: AbortSignal | undefined,
  ): Promise<{ readonly outputs: readonly (readonly number[])[]; readonly engine: 'tfjs' | 'onnx' }> {
    if (version.onnxPath !== undefined && this.#onnx !== undefined) {
      const outputs = await this.#onnx.run(version.onnxPath, document, rows, signal);
      if (outputs !== undefined) return { outputs, engine: 'onnx' };
    }
    const task = {
      kind: 'predict',
      documentPath: version.documentPath,
      weightsPath: version.weightsPath,
      rows,
    } as const;
    const { outputs } = await this.#trainer.run(task, signal === undefined ? {} : { signal });
    return { outputs, engine: 'tfjs' };
  }
}

function pick(versions: readonly ModelVersion[], name: string | undefined): ModelVersion {
  const [only] = versions;
  if (name === undefined && versions.length === 1 && only !== undefined) return only;
  const found =
    versions.find(({ modelName }) => modelName === name) ?? versions.find(({ modelId }) => modelId === name);
  if (found !== undefined) return found;
  const names = versions.map(({ modelName }) => modelName);
  const near = nearNames(name ?? '', names);
  const help =
    names.length === 0
      ? 'nothing is deployed here yet'
      : `there ${names.length === 1 ? 'is' : 'are'} ${(near.length > 0 ? near : names.slice(0, 10)).join(', ')}`;
  throw new OctomilError(
    'model_not_found',
    name === undefined ? `say which model; ${help}` : `the model "${name.slice(0, 200)}" is not deployed here; ${help}`,
    { details: { field: 'model', near } },
  );
}

async function encode(
  { featureSpec, inputWidth }: ModelDocument,
  rows: readonly InputRow[],
  decode: DecodePicture,
): Promise<{ readonly encoded: number[][]; readonly warnings: readonly string[] }> {
  if (featureSpec === undefined) {
    return { encoded: rows.map((row, index) => plainRow(row, index, inputWidth)), warnings: [] };
  }
  const named = rows.map((row, index) => (isList(row) ? byColumn(featureSpec, row, index) : row));
  const inputs = encodeRows(featureSpec, await decodePictures(featureSpec, named, decode));
  const encoded = rows.map((_, index) => [...inputs.subarray(index * inputWidth, (index + 1) * inputWidth)]);
  return { encoded, warnings: rowWarnings(featureSpec, named, nearNames) };
}

function byColumn(spec: FeatureSpec, row: readonly unknown[], index: number): Record<string, unknown> {
  if (row.length !== spec.columns.length) {
    throw invalidRow(index, `has ${row.length} values; the model has ${spec.columns.length} columns`);
  }
  return Object.fromEntries(spec.columns.map(({ name }, column) => [name, row[column]]));
}

/** A model without a feature spec takes its inputs as they are. */
function plainRow(row: InputRow, index: number, width: number): number[] {
  if (!isList(row))
    throw invalidRow(index, `has names, but the model knows no columns; give a list of ${width} numbers`);
  if (row.length !== width) throw invalidRow(index, `has ${row.length} numbers; the model takes ${width}`);
  return row.map((value, column) => {
    if (typeof value === 'number' && Number.isFinite(value)) return value;
    throw invalidRow(index, `has at ${column} what is no number`);
  });
}

function isList(row: InputRow): row is readonly unknown[] {
  return Array.isArray(row);
}

function invalidRow(index: number, problem: string): OctomilError {
  return new OctomilError('invalid_input', `inputs.${index} ${problem}`, { details: { field: `inputs.${index}` } });
}
