import type { MemoryBudget } from '@octomil/shared/data';
import type { HoldoutRule, LoadedDataset } from '@octomil/shared/features';
import type { EvaluateTask, TfjsTrainTask } from './task.js';

type Request = Pick<TfjsTrainTask | EvaluateTask, 'source' | 'featureSpec' | 'holdout'>;

export interface LoadResources {
  /** Rows beyond go to a file. Default: by the memory that is free. */
  readonly memory?: MemoryBudget;
  /** Where that file is. Default: the system's folder for temporary files. */
  readonly folder?: string;
  readonly signal?: AbortSignal;
}

/**
 * Keeps the last data set, encoded, between the rounds of a session: the file is not read again while it is the same. For
 * one task at a time: the next data set takes the place of the last, in memory and on the disk.
 */
export class DatasetCache {
  #last: { key: string; dataset: Promise<LoadedDataset> } | undefined;

  /** @throws OctomilError from reading the source; a failure is not kept */
  async load({ source, featureSpec, holdout }: Request, resources: LoadResources = {}): Promise<LoadedDataset> {
    const { digestOf } = await import('@octomil/shared/data');
    const key = JSON.stringify([await digestOf(source, resources.signal), featureSpec.hash, ordered(holdout)]);
    if (this.#last?.key === key) return this.#last.dataset;
    await this.close();
    const { loadDataset } = await import('@octomil/shared/features');
    const entry = { key, dataset: loadDataset(source, featureSpec, holdout, resources) };
    this.#last = entry;
    entry.dataset.catch(() => {
      if (this.#last === entry) this.#last = undefined;
    });
    return entry.dataset;
  }

  /** Gives back what is kept; tasks that use it must be over. Safe to repeat. */
  async close(): Promise<void> {
    const last = this.#last;
    this.#last = undefined;
    const loaded = await last?.dataset.catch(() => undefined);
    await loaded?.train.close();
    await loaded?.heldOut.close();
  }
}

const ordered = ({ salt, shareRatio, entityColumn }: HoldoutRule): unknown[] => [
  salt,
  shareRatio,
  entityColumn ?? null,
];
