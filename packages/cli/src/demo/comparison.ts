import { selectBackend } from '@octomil/shared/compute';
import type { DataSource } from '@octomil/shared/data';
import {
  type Dataset,
  type HoldoutRule,
  type LoadedDataset,
  loadDataset,
  MemoryDataset,
} from '@octomil/shared/features';
import { buildModel, getFlat, initialWeights, type ModelDocument, setFlat } from '@octomil/shared/models';
import { decodeWeights, encodeWeights, flatView, parseLayout } from '@octomil/shared/tensors';
import { type EvaluationMetrics, evaluate, type LocalOptions, trainLocally } from '@octomil/shared/training';

/** One model on the held-out rows of all sites together and of each by itself. */
export interface Scores {
  readonly overall: EvaluationMetrics | null;
  readonly sites: Readonly<Record<string, EvaluationMetrics | null>>;
}

export interface Comparison {
  readonly federated: Scores;
  /** Trained at one site alone, by its name. */
  readonly local: Readonly<Record<string, Scores>>;
  /** Trained on the rows of all sites in one place, which only a demo may do. */
  readonly pooled: Scores;
}

export interface ComparedSite {
  readonly name: string;
  /** With files of this machine. */
  readonly source: DataSource;
}

export interface ComparisonRequest {
  /** In one order, which fixes the order of the pooled rows. */
  readonly sites: readonly ComparedSite[];
  readonly document: ModelDocument;
  /** Weights file of the federated model. */
  readonly weights: Uint8Array;
  /** The session's: the same rows are held out. */
  readonly holdout: HoldoutRule;
  /** `epochs` of one round; the others train `rounds` times as many. */
  readonly local: LocalOptions;
  readonly rounds: number;
  /** Of the session: all three start from the same weights. */
  readonly seed: number;
  readonly onStep?: (text: string) => void;
  readonly signal?: AbortSignal;
}

interface Site extends LoadedDataset {
  readonly name: string;
}

/**
 * Compares the federated model with one trained at each site alone and with the pooled one. All see the same encoding,
 * the same splits, the same initial weights and the same number of passes, and are evaluated here, by the same code.
 *
 * @throws OctomilError as `loadDataset` and `trainLocally`
 */
export async function compareModels(request: ComparisonRequest): Promise<Comparison> {
  const { document, onStep = () => undefined } = request;
  const { featureSpec, architecture } = document;
  if (featureSpec === undefined) throw new TypeError('a model that was trained on tables has a feature spec');
  const signal = request.signal === undefined ? {} : { signal: request.signal };
  const sites: Site[] = [];
  for (const { name, source } of request.sites) {
    sites.push({ name, ...(await loadDataset(source, featureSpec, request.holdout, signal)) });
  }
  const built = await buildModel(await selectBackend(), architecture, document.inputWidth);
  const initial = encodeWeights(initialWeights(architecture, document.inputWidth, request.seed));
  const options: LocalOptions = { ...request.local, epochs: request.local.epochs * request.rounds };

  const score = async (weights: Float32Array): Promise<Scores> => {
    setFlat(built, weights);
    const one = (rows: Dataset): Promise<EvaluationMetrics | null> =>
      evaluate(built, architecture.output, rows, request.signal);
    const bySite: Record<string, EvaluationMetrics | null> = {};
    for (const site of sites) bySite[site.name] = await one(site.heldOut);
    return { overall: await one(await concatenate(sites.map((site) => site.heldOut))), sites: bySite };
  };
  const trainOn = async (rows: Dataset): Promise<Scores> => {
    setFlat(built, flatOf(initial));
    await trainLocally(built, architecture.output, rows, options, signal);
    return score(await getFlat(built));
  };

  try {
    const federated = await score(flatOf(request.weights));
    const local: Record<string, Scores> = {};
    for (const site of sites) {
      onStep(`training at ${site.name} alone (${site.train.rows} rows)`);
      local[site.name] = await trainOn(site.train);
    }
    const pooledRows = await concatenate(sites.map((site) => site.train));
    onStep(`training on all rows in one place (${pooledRows.rows} rows)`);
    return { federated, local, pooled: await trainOn(pooledRows) };
  } finally {
    built.dispose();
  }
}

/** The order of a weights file derives from the names alone, so one written by another process has the same. */
function flatOf(file: Uint8Array): Float32Array {
  const aligned = encodeWeights(decodeWeights(file));
  return flatView(aligned, parseLayout(aligned));
}

async function concatenate(parts: readonly Dataset[]): Promise<Dataset> {
  const rows = parts.reduce((sum, part) => sum + part.rows, 0);
  const width = parts[0]?.width ?? 0;
  const x = new Float32Array(rows * width);
  const y = new Float32Array(rows);
  let at = 0;
  for (const part of parts) {
    x.set(await part.readRange(0, part.rows), at * width);
    y.set(part.y, at);
    at += part.rows;
  }
  return new MemoryDataset(width, x, y);
}
