import type { HoldoutRule, LoadedDataset } from '@octomil/shared/features';
import type { EvaluateTask, TfjsTrainTask } from './task.js';

type Request = Pick<TfjsTrainTask | EvaluateTask, 'source' | 'featureSpec' | 'holdout'>;

/** Keeps the last data set, encoded, between the rounds of a session: the file is not read again while it is the same. */
export class DatasetCache {
  #last: { key: string; dataset: Promise<LoadedDataset> } | undefined;

  /** @throws OctomilError from reading the source; a failure is not kept */
  async load({ source, featureSpec, holdout }: Request, signal?: AbortSignal): Promise<LoadedDataset> {
    const { digestOf } = await import('@octomil/shared/data');
    const key = JSON.stringify([await digestOf(source, signal), featureSpec.hash, ordered(holdout)]);
    if (this.#last?.key === key) return this.#last.dataset;
    const { loadDataset } = await import('@octomil/shared/features');
    const entry = { key, dataset: loadDataset(source, featureSpec, holdout, signal === undefined ? {} : { signal }) };
    this.#last = entry;
    entry.dataset.catch(() => {
      if (this.#last === entry) this.#last = undefined;
    });
    return entry.dataset;
  }
}

const ordered = ({ salt, shareRatio, entityColumn }: HoldoutRule): unknown[] => [
  salt,
  shareRatio,
  entityColumn ?? null,
];
