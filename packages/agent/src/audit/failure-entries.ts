import { createHash } from 'node:crypto';
import type { Clock } from '@octomil/shared/runtime';
import type { AuditEntry, AuditLog } from './audit-log.js';

/** The coordinator can make assignments fail as fast as it sends them, and older entries would be pushed out of the log. */
const INTERVAL_MS = 3_600_000;
const MAX_KINDS = 30;

export interface FailureEntriesOptions {
  readonly audit: Pick<AuditLog, 'record'>;
  readonly clock: Clock;
}

type FailureEntry = AuditEntry & { readonly kind: 'failure' };

/**
 * Failures of assignments, which leave with their reason. One that was written within the hour is counted when it happens
 * again; of more than 30 different ones the reasons stay here. What leaves is thus in the log, word for word.
 */
export class FailureEntries {
  readonly #options: FailureEntriesOptions;
  /** Of this hour, by digest: names from outside may be long. */
  readonly #written = new Map<string, Promise<void>>();
  /** That reasons stay here from now on. */
  #limitWritten: Promise<void> | undefined;
  #repeated = 0;
  #leftOut = 0;
  #startedAtMs = 0;
  #callOff: () => void = () => undefined;

  constructor(options: FailureEntriesOptions) {
    this.#options = options;
  }

  /**
   * @returns whether the reason may leave
   * @throws OctomilError `insufficient_storage` as {@link AuditLog.record}
   */
  async record(entry: FailureEntry): Promise<boolean> {
    const { audit, clock } = this.#options;
    if (this.#written.size === 0) {
      this.#startedAtMs = clock.now();
      this.#callOff();
      this.#callOff = clock.after(INTERVAL_MS, () => void this.#endInterval());
    }
    const { assignmentId: _assignmentId, round: _round, ...kind } = entry;
    const key = createHash('sha256').update(JSON.stringify(kind)).digest('hex');
    const before = this.#written.get(key);
    if (before !== undefined) {
      this.#repeated += 1;
      await before;
      return true;
    }
    if (this.#written.size >= MAX_KINDS) {
      this.#leftOut += 1;
      this.#limitWritten ??= audit.record({
        kind: 'failure',
        details: {
          code: 'rate_limited',
          message: `${MAX_KINDS} different failures within an hour: until it is over, others leave without their reason and are counted`,
        },
      });
      await this.#limitWritten.catch((error: unknown) => {
        this.#limitWritten = undefined;
        throw error;
      });
      return false;
    }
    const written = audit.record(entry);
    this.#written.set(key, written);
    await written.catch((error: unknown) => {
      this.#written.delete(key);
      throw error;
    });
    return true;
  }

  /** Writes the counts of the interval that has begun. */
  async stop(): Promise<void> {
    this.#callOff();
    await this.#endInterval();
  }

  async #endInterval(): Promise<void> {
    const [repeated, leftOut] = [this.#repeated, this.#leftOut];
    this.#written.clear();
    this.#limitWritten = undefined;
    this.#repeated = 0;
    this.#leftOut = 0;
    if (repeated + leftOut === 0) return;
    const since = new Date(this.#startedAtMs).toISOString();
    const details = { message: 'failures beside those written one by one', since, repeated, leftOut };
    // A full disk has these counts alone: whatever left is written.
    await this.#options.audit.record({ kind: 'failure', details }).catch(() => undefined);
  }
}
