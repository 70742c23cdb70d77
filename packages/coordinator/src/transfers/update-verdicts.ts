import { randomUUID } from 'node:crypto';
import { access } from 'node:fs/promises';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { SessionHub } from '../devices/index.js';
import type { Jobs } from '../jobs/index.js';
import type { AssignmentPort, Verdict } from '../training/assignment-port.js';
import { ArrivedUploads } from './arrived-uploads.js';
import type { DirectUploads } from './direct-uploads.js';
import { gatherParts } from './sibling-parts.js';
import type { StagedUpload } from './staged-upload.js';
import type { StagedUploads } from './staged-uploads.js';
import type { ClaimedTicket, Ticket, TicketStore } from './ticket-store.js';

export interface UpdateVerdictsOptions {
  readonly tickets: TicketStore;
  readonly staged: StagedUploads;
  readonly direct: DirectUploads;
  readonly assignments: AssignmentPort;
  /** The sessions held here: they are told while an update of theirs is being taken. */
  readonly hub: SessionHub;
  /** Default: updates that arrived in the bucket are looked for, without wake-ups. */
  readonly jobs: Jobs | undefined;
  /** Of who checks an update that arrived in the bucket. Default 30 s. */
  readonly checkLeaseMs: number | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
}

const LOOK_AGAIN_MS = 250;

/**
 * Hands updates over whose bytes have arrived. Those that came here are checked while their sender waits; those in the
 * bucket by whichever coordinator takes the job.
 */
export class UpdateVerdicts {
  readonly #on: UpdateVerdictsOptions;
  readonly #ownerId = randomUUID();
  readonly #running = new Map<string, Promise<Verdict>>();
  readonly #arrived: ArrivedUploads<ClaimedTicket>;

  constructor(options: UpdateVerdictsOptions) {
    this.#on = options;
    const { tickets, direct, assignments, jobs, checkLeaseMs, clock, logger } = options;
    this.#arrived = new ArrivedUploads({
      queue: 'arrived-updates',
      rows: tickets,
      jobs,
      ownerId: this.#ownerId,
      leaseMs: checkLeaseMs,
      clock,
      logger,
      validate: (ticket) => this.#submit(ticket),
      renewed: (ticket) => {
        const { sizeBytes } = ticket.layout;
        assignments
          .progress(ticket.deviceId, ticket.header.key, { phase: 'validate', completed: sizeBytes, total: sizeBytes })
          .catch((error: unknown) => logger.debug({ error, ticketId: ticket.id }, 'progress was not recorded'));
      },
      refused: async (ticket, error, why) => {
        if (why === 'final') {
          await tickets.abandon(ticket.id, error);
          await direct.drop(ticket.id);
        } else {
          // Its sender may send it again, to the coordinator.
          await direct.drop(ticket.id);
          await tickets.reopen(ticket.id, this.#ownerId, error);
        }
      },
    });
  }

  start(): Promise<void> {
    return this.#arrived.start();
  }

  stop(): Promise<void> {
    return this.#arrived.stop();
  }

  /** Whether the upload's files are being read here. */
  isRunning(ticketId: string): boolean {
    return this.#running.has(ticketId);
  }

  /**
   * The verdict; undefined where the bytes are in the bucket and still being checked after `waitMs`.
   *
   * @throws `checksum_mismatch`, `transfer_incomplete`; why it was refused, when it was
   */
  async of(ticket: Ticket, waitMs: number): Promise<Verdict | undefined> {
    const { tickets, staged, direct } = this.#on;
    if (ticket.verdict !== undefined) return ticket.verdict;
    if (ticket.state === 'arrived') return this.#checked(ticket.id, waitMs);
    const upload = await staged.of(ticket);
    if (
      !this.#running.has(ticket.id) &&
      upload.received.length < ticket.layout.partCount &&
      (await direct.arrived(ticket))
    ) {
      await tickets.arrive(ticket.id);
      await this.#arrived.add(ticket.id);
      return this.#checked(ticket.id, waitMs);
    }
    if (ticket.problem !== undefined && upload.received.length === 0) throw ticket.problem;
    let running = this.#running.get(ticket.id);
    if (running === undefined) {
      running = this.#submit(ticket).finally(() => this.#running.delete(ticket.id));
      this.#running.set(ticket.id, running);
    }
    return running;
  }

  async #checked(ticketId: string, waitMs: number): Promise<Verdict | undefined> {
    const { tickets, clock } = this.#on;
    const untilMs = clock.now() + waitMs;
    for (;;) {
      const { state, verdict, problem } = await tickets.outcome(ticketId);
      if (verdict !== undefined) return verdict;
      if (state !== 'arrived') throw problem;
      const leftMs = untilMs - clock.now();
      if (leftMs <= 0) return undefined;
      const pause = clock.sleep(Math.min(LOOK_AGAIN_MS, leftMs));
      await Promise.race([pause, this.#arrived.checking(ticketId) ?? pause]);
    }
  }

  async #submit(ticket: Ticket): Promise<Verdict> {
    const { tickets, staged, direct, assignments, logger } = this.#on;
    // A coordinator that was killed after the update counted left the ticket open.
    const earlier = await assignments.verdictOn(ticket.deviceId, ticket.header);
    if (earlier !== undefined) {
      await tickets.complete(ticket, earlier);
      await staged.forget(ticket.id);
      return earlier;
    }
    const upload = await staged.of(ticket);
    await gatherParts(upload, ticket.id, await staged.siblings());
    await direct.fetch(ticket, upload);
    const verdict = await this.#handOver(ticket, upload);
    await tickets.complete(ticket, verdict);
    await staged.forget(ticket.id);
    await direct.drop(ticket.id).catch((error: unknown) => {
      logger.warn({ error, ticketId: ticket.id }, 'could not remove an update from the bucket; trying again later');
    });
    return verdict;
  }

  /** Leaves the upload so that it can be completed again where the update may count later. */
  async #handOver(ticket: Ticket, upload: StagedUpload): Promise<Verdict> {
    const { tickets, staged, direct, assignments, hub } = this.#on;
    const sealed = await upload.seal();
    if (sealed.sha256 !== ticket.header.sha256) {
      await upload.reset();
      await direct.drop(ticket.id);
      throw new OctomilError(
        'checksum_mismatch',
        `the ${ticket.layout.sizeBytes} bytes that arrived have SHA-256 ${sealed.sha256}, not ${ticket.header.sha256} as announced; all parts were dropped: send them again, or ask for a ticket with the right digest`,
        { details: { expected: ticket.header.sha256, received: sealed.sha256 } },
      );
    }
    const { key } = ticket.header;
    let verdict: Verdict;
    hub.get(ticket.deviceId)?.submitting(key, true);
    try {
      verdict = await assignments.submitUpdate(ticket.deviceId, ticket.header, sealed);
    } catch (thrown) {
      const error = toOctomilError(thrown);
      if (error.entry.retry === 'never') {
        await tickets.abandon(ticket.id, error);
        await staged.forget(ticket.id);
      } else if (await exists(sealed.path)) {
        upload.unseal();
      } else {
        await upload.reset();
      }
      throw thrown;
    } finally {
      hub.get(ticket.deviceId)?.submitting(key, false);
    }
    hub.get(ticket.deviceId)?.settled(key);
    return verdict;
  }
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
