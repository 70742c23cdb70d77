import { OctomilError } from '@octomil/shared/errors';
import { type Dataset, MINIMUM_ROWS } from '@octomil/shared/features';
import { type BuiltModel, getFlat, type Output, setFlat } from '@octomil/shared/models';
import { evaluate } from './evaluate.js';
import type { LocalOptions } from './local-options.js';

/**
 * Ends training when the loss on the held-out rows has stopped falling, and brings the best weights back (Prechelt 1998,
 * "Early Stopping – But When?"; the criterion UP with a patience). The weights that training starts from do not compete.
 */
export class EarlyStop {
  /** Epoch, from 1, whose weights are the best so far. */
  bestEpoch = 0;
  readonly #built: BuiltModel;
  readonly #output: Output;
  readonly #heldOut: Dataset;
  readonly #rule: NonNullable<LocalOptions['earlyStop']>;
  #bestLoss = Number.POSITIVE_INFINITY;
  #best: Float32Array | undefined;
  #epochs = 0;

  /** @throws OctomilError `too_few_rows` with fewer than 10 held-out rows */
  constructor(
    built: BuiltModel,
    output: Output,
    heldOut: Dataset | undefined,
    rule: NonNullable<LocalOptions['earlyStop']>,
  ) {
    if (heldOut === undefined || heldOut.rows < MINIMUM_ROWS) {
      throw new OctomilError(
        'too_few_rows',
        // Not how many: this goes to the coordinator, which must not learn a number below the limit.
        `early stop needs at least ${MINIMUM_ROWS} held-out rows at each site, and this one has fewer; raise the held-out share or leave early stop out`,
        { details: { limit: MINIMUM_ROWS } },
      );
    }
    this.#built = built;
    this.#output = output;
    this.#heldOut = heldOut;
    this.#rule = rule;
  }

  /** To be called after each epoch. @returns whether training is over */
  async epochEnded(signal?: AbortSignal): Promise<boolean> {
    this.#epochs += 1;
    const metrics = await evaluate(this.#built, this.#output, this.#heldOut, signal);
    const loss = metrics?.loss ?? Number.POSITIVE_INFINITY;
    if (this.#best === undefined || loss < this.#bestLoss - this.#rule.minDelta) {
      this.#bestLoss = loss;
      this.#best = await getFlat(this.#built);
      this.bestEpoch = this.#epochs;
    }
    return this.#epochs - this.bestEpoch >= this.#rule.patience;
  }

  /** Puts the best weights back. */
  restore(): void {
    if (this.#best !== undefined && this.bestEpoch !== this.#epochs) setFlat(this.#built, this.#best);
  }
}
