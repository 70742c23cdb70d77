import { isRemoteSource, pathsOf } from '@octomil/shared/data';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { RunOptions, Trainer, TrainerResult, TrainerTask } from '@octomil/shared/training';
import { columnsRead } from './columns-read.js';
import { outwardProblem } from './outward-problem.js';
import type { SiteData } from './site-data.js';
import { withoutFolders } from './without-folders.js';

/** Gives tasks on remote data local files, so that the trainer needs neither network nor credentials. */
export class FetchingTrainer implements Trainer {
  readonly #trainer: Trainer;
  readonly #data: Pick<SiteData, 'acquire'>;

  constructor(trainer: Trainer, data: Pick<SiteData, 'acquire'>) {
    this.#trainer = trainer;
    this.#data = data;
  }

  /** @throws OctomilError besides the trainer's: why remote data could not be had, as it may leave the site */
  async run<T extends TrainerTask>(task: T, options: RunOptions = {}): Promise<TrainerResult<T>> {
    if (!('source' in task) || !isRemoteSource(task.source)) return this.#trainer.run(task, options);
    const { signal } = options;
    const { source, release } = await this.#data
      .acquire(task.source, { columns: columnsRead(task), signal })
      .catch((error: unknown) => {
        throw outwardProblem(toOctomilError(error, 'data_unreadable'));
      });
    try {
      return await this.#trainer.run({ ...task, source }, options);
    } catch (thrown) {
      // Buckets and temporary folders are nobody else's business.
      const error = toOctomilError(thrown, 'training_failed');
      const { details } = error;
      const reason = withoutFolders(error.reason, pathsOf(source));
      if (reason === error.reason) throw error;
      throw new OctomilError(error.code, reason, {
        cause: thrown,
        ...(details === undefined ? {} : { details }),
      });
    } finally {
      await release();
    }
  }

  stop(): Promise<void> {
    return this.#trainer.stop();
  }
}
