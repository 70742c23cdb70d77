import { type OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { JobQueue, Jobs, JobWorker } from '../jobs/index.js';
import type { ArrivedRows } from './arriving-rows.js';

interface Upload {
  readonly id: string;
  readonly attempts: number;
}

export interface ArrivedUploadsOptions<Claimed extends Upload> {
  /** Of the jobs that wake up who checks. */
  readonly queue: string;
  readonly rows: ArrivedRows<Claimed>;
  /** Wake-ups for every coordinator. Without them this one looks for itself. */
  readonly jobs?: Jobs | undefined;
  readonly ownerId: string;
  /** Default 30 s. */
  readonly leaseMs?: number | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Reads the bytes, checks them, and lets them count. Safe to repeat. */
  readonly validate: (upload: Claimed) => Promise<unknown>;
  /**
   * It does not count: because of what was sent (`final`), because other bytes came than were announced (`wrong_bytes`),
   * or because checking failed too often for reasons of its own (`exhausted`).
   */
  readonly refused: (upload: Claimed, error: OctomilError, why: 'final' | 'wrong_bytes' | 'exhausted') => Promise<void>;
  /** Says that it is being looked at. */
  readonly renewed?: (upload: Claimed) => void;
}

const LEASE_MS = 30_000;
const AT_ONCE = 2;
/** Failures that have nothing to do with the bytes; then it is refused all the same. */
const MAX_ATTEMPTS = 8;
/** Errors of the coordinator’s own, such as credentials that expired. */
const OURS: ReadonlySet<string> = new Set(['config_invalid']);

/**
 * Checks uploads whose bytes did not pass through a coordinator. Rows are the truth: who checks one holds a lease on its
 * row, and whoever finds a lease that ended (its holder was killed) takes it over. A job is but a wake-up.
 */
export class ArrivedUploads<Claimed extends Upload> {
  readonly #options: ArrivedUploadsOptions<Claimed>;
  readonly #leaseMs: number;
  #queue: JobQueue<{ id: string }> | undefined;
  #worker: JobWorker | undefined;
  #cancelLook = (): void => undefined;
  #running = false;
  /** What this process checks. */
  readonly #here = new Map<string, Promise<void>>();

  constructor(options: ArrivedUploadsOptions<Claimed>) {
    this.#options = options;
    this.#leaseMs = options.leaseMs ?? LEASE_MS;
  }

  async start(): Promise<void> {
    this.#running = true;
    const { jobs, queue } = this.#options;
    if (jobs !== undefined) {
      this.#queue = await jobs.queue(queue);
      this.#worker = await jobs.worker<{ id: string }>(queue, ({ id }) => this.#run(id), AT_ONCE);
    }
    this.#look();
  }

  async stop(): Promise<void> {
    this.#running = false;
    this.#cancelLook();
    await this.#worker?.close();
    await this.#queue?.close();
    await Promise.allSettled(this.#here.values());
  }

  /** Call after the row says `arrived`, and never in a transaction. */
  async add(id: string): Promise<void> {
    if (this.#queue === undefined) void this.#run(id);
    else {
      await this.#queue.add({ id }).catch((error: unknown) => {
        this.#options.logger.warn({ error, id }, 'no wake-up for an arrived upload; it is found by its row');
      });
    }
  }

  /** Ends when this process has checked it; undefined where it does not. */
  checking(id: string): Promise<void> | undefined {
    return this.#here.get(id);
  }

  /** Finds what nobody checks: a wake-up was lost, or its receiver killed. */
  #look(): void {
    const { rows, clock, logger } = this.#options;
    if (!this.#running) return;
    rows
      .unclaimed()
      .then((ids) => Promise.all(ids.map((id) => this.#run(id))))
      .catch((error: unknown) => logger.warn({ error }, 'could not look for arrived uploads; looking again'))
      .finally(() => {
        if (this.#running) this.#cancelLook = clock.after(this.#leaseMs / 2, () => this.#look());
      });
  }

  #run(id: string): Promise<void> {
    const known = this.#here.get(id);
    if (known !== undefined) return known;
    const running = this.#check(id)
      .catch((error: unknown) => {
        this.#options.logger.warn({ error, id }, 'an arrived upload waits for its lease to end');
      })
      .finally(() => this.#here.delete(id));
    this.#here.set(id, running);
    return running;
  }

  async #check(id: string): Promise<void> {
    const { rows, ownerId, validate, refused, logger } = this.#options;
    const upload = await rows.claim(id, ownerId, this.#leaseMs);
    if (upload === undefined) return;
    const stopRenewing = this.#renew(upload);
    try {
      await validate(upload);
    } catch (thrown) {
      const error = toOctomilError(thrown);
      logger.warn({ error, id, attempt: upload.attempts }, 'an arrived upload does not count');
      const wrongBytes = error.code === 'checksum_mismatch' || error.code === 'transfer_incomplete';
      if (wrongBytes) await refused(upload, error, 'wrong_bytes');
      else if (error.entry.retry === 'never' && !OURS.has(error.code)) await refused(upload, error, 'final');
      else if (upload.attempts >= MAX_ATTEMPTS) await refused(upload, error, 'exhausted');
      else await rows.release(id, ownerId, Math.min(30_000, 250 * 2 ** upload.attempts));
    } finally {
      stopRenewing();
    }
  }

  #renew(upload: Claimed): () => void {
    const { rows, ownerId, clock, logger, renewed } = this.#options;
    const { id } = upload;
    let cancel = (): void => undefined;
    let stopped = false;
    const again = (): void => {
      renewed?.(upload);
      rows
        .renew(id, ownerId, this.#leaseMs)
        .catch((error: unknown) => logger.warn({ error, id }, 'a lease was not renewed'))
        .finally(() => {
          if (!stopped) cancel = clock.after(this.#leaseMs / 3, again);
        });
    };
    cancel = clock.after(this.#leaseMs / 3, again);
    return () => {
      stopped = true;
      cancel();
    };
  }
}
