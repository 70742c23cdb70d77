import { readFile } from 'node:fs/promises';
import type { DeviceModelHealth } from '@octomil/shared/deployment';
import type { EvaluationMetrics } from '@octomil/shared/training';
import { writeAtomically } from '../state/atomic-file.js';
import { LatencyHistogram, type StoredHistogram } from './latency-histogram.js';

/** One answer, or several alike, that a program on this machine gave with a deployed version. */
export interface InferenceReport {
  readonly modelId: string;
  readonly versionId: string;
  readonly latencyMs: number;
  readonly failed: boolean;
}

/** Where what serves a deployed model says how it goes. */
export interface InferenceCounters {
  /** @returns false when that version is not the active one, so that nothing was counted */
  record(report: InferenceReport): boolean;
}

/** How the device's own rows were answered by the version and the one before it. */
export interface SiteEvaluation {
  readonly evaluation: EvaluationMetrics | null;
  readonly baseline: EvaluationMetrics | null;
}

interface Stored extends SiteEvaluation {
  readonly activation: string;
  readonly inferences: number;
  readonly inferenceErrors: number;
  readonly evaluated: boolean;
  readonly latencies: StoredHistogram;
}

/** The figures of one activation, kept over restarts. */
export class ModelHealth {
  /** Version and time of the activation. */
  readonly activation: string;
  #inferences: number;
  #inferenceErrors: number;
  #latencies: LatencyHistogram;
  #site: SiteEvaluation | undefined;

  constructor(activation: string, stored?: Stored) {
    this.activation = activation;
    this.#inferences = stored?.inferences ?? 0;
    this.#inferenceErrors = stored?.inferenceErrors ?? 0;
    this.#latencies = new LatencyHistogram(stored?.latencies);
    this.#site = stored?.evaluated === true ? { evaluation: stored.evaluation, baseline: stored.baseline } : undefined;
  }

  /** What an earlier process counted of the same activation; a lost or damaged file counts from zero. */
  static async read(path: string, activation: string): Promise<ModelHealth> {
    try {
      const stored = JSON.parse(await readFile(path, 'utf8')) as Stored;
      return new ModelHealth(activation, stored.activation === activation ? stored : undefined);
    } catch {
      return new ModelHealth(activation);
    }
  }

  async write(path: string): Promise<void> {
    const stored: Stored = {
      activation: this.activation,
      inferences: this.#inferences,
      inferenceErrors: this.#inferenceErrors,
      evaluated: this.evaluated,
      evaluation: this.#site?.evaluation ?? null,
      baseline: this.#site?.baseline ?? null,
      latencies: this.#latencies.toJSON(),
    };
    await writeAtomically(path, JSON.stringify(stored));
  }

  /** Whether the site's rows were tried, whatever came of it. */
  get evaluated(): boolean {
    return this.#site !== undefined;
  }

  record(latencyMs: number, failed: boolean): void {
    this.#inferences += 1;
    if (failed) this.#inferenceErrors += 1;
    else this.#latencies.add(latencyMs);
  }

  evaluatedAs(site: SiteEvaluation): void {
    this.#site = site;
  }

  toReport(): DeviceModelHealth {
    return {
      inferences: this.#inferences,
      inferenceErrors: this.#inferenceErrors,
      latencyMs: this.#latencies.summary(),
      evaluation: this.#site?.evaluation ?? null,
      baseline: this.#site?.baseline ?? null,
    };
  }
}
