import { toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { JobQueue, Jobs, JobWorker } from '../jobs/index.js';
import type { Verdict } from '../training/assignment-port.js';
import type { ClaimedTicket, TicketStore } from './ticket-store.js';

export interface ArrivedUpdatesOptions {
  readonly tickets: TicketStore;
  /** Wake-ups for every coordinator. Without them this one looks for itself. */
  readonly jobs?: Jobs | undefined;
  readonly ownerId: string;
  /** Default 30 s. */
  readonly leaseMs?: number | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Reads the bytes, checks them, and lets them count. Safe to repeat. */
  readonly validate: (ticket: ClaimedTicket) => Promise<Verdict>;
  /** Says that an update is being looked at, so that its assignment is not given up meanwhile. */
  readonly renewed: (ticket: ClaimedTicket) => void;
  /** Removes what arrived. Safe to repeat. */
  readonly drop: (ticketId: string) => Promise<void>;
}

const LEASE_MS = 30_000;
const QUEUE = 'arrived-updates';
const AT_ONCE = 2;
/** Failures that have nothing to do with the bytes; then they are asked for once more, by way of the coordinator. */
const MAX_ATTEMPTS = 8;
const LOOK_AGAIN_MS = 250;

/**
 * Checks updates whose bytes did not pass through a coordinator. Rows are the truth: who checks one holds a lease on its
 * ticket, and whoever finds a lease that ended (its holder was killed) takes it over. A job is but a wake-up.
 */
export class ArrivedUpdates {
  readonly #options: ArrivedUpdatesOptions;
  readonly #leaseMs: number;
  #queue: JobQueue<{ ticketId: string }> | undefined;
  #worker: JobWorker | undefined;
  #cancelLook = (): void => undefined;
  #running = false;
  /** Tickets that this process checks. */
  readonly #here = new Map<string, Promise<void>>();

  constructor(options: ArrivedUpdatesOptions) {
    this.#options = options;
    this.#leaseMs = options.leaseMs ?? LEASE_MS;
  }

  async start(): Promise<void> {
    this.#running = true;
    const { jobs } = this.#options;
    if (jobs !== undefined) {
      this.#queue = await jobs.queue(QUEUE);
      this.#worker = await jobs.worker<{ ticketId: string }>(QUEUE, ({ ticketId }) => this.#run(ticketId), AT_ONCE);
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
  async add(ticketId: string): Promise<void> {
    if (this.#queue === undefined) void this.#run(ticketId);
    else {
      await this.#queue.add({ ticketId }).catch((error: unknown) => {
        this.#options.logger.warn({ error, ticketId }, 'no wake-up for an arrived update; it is found by its row');
      });
    }
  }

  /** The verdict, once there is one within this time; undefined while the update is still being looked at. */
  async verdict(ticketId: string, waitMs: number): Promise<Verdict | undefined> {
    const { tickets, clock } = this.#options;
    const untilMs = clock.now() + waitMs;
    for (;;) {
      const { state, verdict, problem } = await tickets.outcome(ticketId);
      if (verdict !== undefined) return verdict;
      if (state !== 'arrived') throw problem;
      const leftMs = untilMs - clock.now();
      if (leftMs <= 0) return undefined;
      const pause = clock.sleep(Math.min(LOOK_AGAIN_MS, leftMs));
      await Promise.race([pause, this.#here.get(ticketId) ?? pause]);
    }
  }

  /** Finds what nobody checks: a wake-up was lost, or its receiver killed. */
  #look(): void {
    const { tickets, clock, logger } = this.#options;
    if (!this.#running) return;
    tickets
      .unclaimed()
      .then((ids) => Promise.all(ids.map((id) => this.#run(id))))
      .catch((error: unknown) => logger.warn({ error }, 'could not look for arrived updates; looking again'))
      .finally(() => {
        if (this.#running) this.#cancelLook = clock.after(this.#leaseMs / 2, () => this.#look());
      });
  }

  #run(ticketId: string): Promise<void> {
    const known = this.#here.get(ticketId);
    if (known !== undefined) return known;
    const running = this.#check(ticketId)
      .catch((error: unknown) => {
        this.#options.logger.warn({ error, ticketId }, 'an arrived update waits for its lease to end');
      })
      .finally(() => this.#here.delete(ticketId));
    this.#here.set(ticketId, running);
    return running;
  }

  async #check(ticketId: string): Promise<void> {
    const { tickets, ownerId, validate, drop, logger } = this.#options;
    const ticket = await tickets.claim(ticketId, ownerId, this.#leaseMs);
    if (ticket === undefined) return;
    const stopRenewing = this.#renew(ticket);
    try {
      await validate(ticket);
    } catch (thrown) {
      const error = toOctomilError(thrown);
      logger.warn({ error, ticketId, attempt: ticket.attempts }, 'an arrived update does not count');
      const wrongBytes = error.code === 'checksum_mismatch' || error.code === 'transfer_incomplete';
      if (!wrongBytes && error.entry.retry === 'never') {
        await tickets.abandon(ticketId, error);
        await drop(ticketId);
      } else if (wrongBytes || ticket.attempts >= MAX_ATTEMPTS) {
        // Its sender may send it again, to the coordinator.
        await drop(ticketId);
        await tickets.reopen(ticketId, ownerId, error);
      } else await tickets.release(ticketId, ownerId, Math.min(30_000, 250 * 2 ** ticket.attempts));
    } finally {
      stopRenewing();
    }
  }

  #renew(ticket: ClaimedTicket): () => void {
    const { tickets, ownerId, clock, logger, renewed } = this.#options;
    let cancel = (): void => undefined;
    let stopped = false;
    const again = (): void => {
      renewed(ticket);
      tickets
        .renew(ticket.id, ownerId, this.#leaseMs)
        .catch((error: unknown) => logger.warn({ error, ticketId: ticket.id }, 'a lease was not renewed'))
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
