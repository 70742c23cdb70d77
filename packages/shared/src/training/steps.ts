import { OctomilError } from '@octomil/shared/errors';
import { MINIMUM_ROWS } from '@octomil/shared/features';
import type { LocalOptions } from './local-options.js';

/**
 * No step takes fewer than 10 rows. Who chooses the options can make an update tell its last step alone (a moving mean
 * without memory; SGD by which a large `proximalMu` forgets what was before), and one of a single row would be that row.
 *
 * @throws OctomilError `invalid_input`
 */
export function requireRowsPerStep({ batchSize }: Pick<LocalOptions, 'batchSize'>): void {
  if (batchSize >= MINIMUM_ROWS) return;
  throw new OctomilError(
    'invalid_input',
    `local option batchSize = ${batchSize}: a step takes ${MINIMUM_ROWS} rows at least, since an update of fewer could tell them; use ${MINIMUM_ROWS} or more`,
    { details: { batchSize, limit: MINIMUM_ROWS } },
  );
}

/** How an epoch's rows are shared among its steps: what is left for the last one joins the step before it, if it is fewer than 10. */
export class EpochSteps {
  readonly count: number;
  readonly #rows: number;
  readonly #batchSize: number;

  /** @throws OctomilError `invalid_input` for a batch size below 10, `too_few_rows` */
  constructor(rows: number, options: Pick<LocalOptions, 'batchSize'>) {
    requireRowsPerStep(options);
    if (rows < MINIMUM_ROWS) {
      // Not how many: this goes to the coordinator, which must not learn a number below the limit.
      throw new OctomilError('too_few_rows', `there are fewer than ${MINIMUM_ROWS} rows to train on`, {
        details: { limit: MINIMUM_ROWS },
      });
    }
    const { batchSize } = options;
    const left = rows % batchSize;
    this.count = left < MINIMUM_ROWS ? Math.floor(rows / batchSize) : Math.ceil(rows / batchSize);
    this.#rows = rows;
    this.#batchSize = batchSize;
  }

  /** Places of a step's rows in the epoch's order: from `start` up to, but not including, `end`. */
  at(step: number): { readonly start: number; readonly end: number } {
    const start = step * this.#batchSize;
    return { start, end: step + 1 === this.count ? this.#rows : start + this.#batchSize };
  }
}
