import { toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { ObjectStore, PresignedRequest } from '@octomil/shared/storage';
import { partRange } from './part-layout.js';
import { receivePart } from './receive-part.js';
import type { StagedUpload } from './staged-upload.js';
import type { Ticket, TicketStore } from './ticket-store.js';

export interface DirectPart extends PresignedRequest {
  readonly number: number;
}

export interface DirectUploadsOptions {
  readonly objects: ObjectStore;
  readonly tickets: TicketStore;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Every part has a request of its own in the ticket, which is one message. */
const MAX_PARTS = 1000;
/** Longer than reading one part from the bucket takes between two signs of life. */
const IDLE_MS = 60_000;
const CLEAN_EVERY_MS = 30_000;

/**
 * Updates whose parts go straight to the bucket of the objects. What lies there is only a way of arriving: before an
 * update counts, its bytes are copied to the staging folder and take the same checks as those that came here, and it is
 * stored anew, so that a sender whose requests are still valid can change nothing that was checked.
 */
export class DirectUploads {
  readonly #options: DirectUploadsOptions;
  #cleanedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: DirectUploadsOptions) {
    this.#options = options;
  }

  /**
   * The requests that send what the bucket does not have; none where objects live in a folder or the bucket cannot be
   * used now: the parts then come here.
   */
  async requests(ticket: Ticket): Promise<{ readonly parts: readonly DirectPart[]; readonly arrived: boolean }> {
    const { objects, tickets, logger } = this.#options;
    const { direct } = objects;
    const { layout } = ticket;
    const none = { parts: [], arrived: false };
    if (direct === undefined || layout.partCount > MAX_PARTS) return none;
    if (layout.partSizeBytes % direct.partMultipleBytes !== 0) return none;
    try {
      const begun = await tickets.directOf(ticket.id);
      const upload = begun ?? (await direct.begin(incomingKey(ticket.id)));
      if (begun === undefined) await tickets.rememberDirect(ticket.id, upload);
      const there = begun === undefined ? [] : await direct.received(upload, layout.partSizeBytes);
      const received = new Set(there.map(({ number }) => number));
      const parts: DirectPart[] = [];
      for (let number = 0; number < layout.partCount; number++) {
        if (received.has(number)) continue;
        const { start, end } = partRange(layout, number);
        const part = { number, offset: start, sizeBytes: end - start, totalBytes: layout.sizeBytes };
        parts.push({ number, ...(await direct.presignPart(upload, part, ticket.expiresInMs)) });
      }
      return { parts, arrived: parts.length === 0 };
    } catch (error) {
      logger.warn({ error, ticketId: ticket.id }, 'parts cannot go straight to the bucket; they come here instead');
      return none;
    }
  }

  /**
   * Whether all bytes lie in the bucket, as one object from here on.
   *
   * @throws `network_unavailable`, `request_timeout`
   */
  async arrived(ticket: Ticket, staged: StagedUpload): Promise<boolean> {
    const { objects, tickets } = this.#options;
    const { direct } = objects;
    const { layout } = ticket;
    if (direct === undefined || staged.received.length === layout.partCount) return false;
    const upload = await tickets.directOf(ticket.id);
    if (upload === undefined) return false;
    try {
      // There already where a coordinator was killed after this step.
      const whole = await objects.stat(upload.key);
      if (whole === undefined) await direct.complete(upload, layout.partCount, layout.sizeBytes);
      return true;
    } catch (error) {
      const { code } = toOctomilError(error);
      // The sender may have gone on here: what is missing there is then said of what is here.
      if (code === 'transfer_incomplete' || code === 'not_found') return false;
      throw error;
    }
  }

  /**
   * Brings what arrived in the bucket to the staging folder. Does nothing where not all of it is there.
   *
   * @throws `network_unavailable`, `request_timeout`, `transfer_incomplete` from reading the bucket
   */
  async fetch(ticket: Ticket, staged: StagedUpload): Promise<void> {
    const { objects, tickets, clock } = this.#options;
    const { layout } = ticket;
    if (!(await this.arrived(ticket, staged))) return;
    const upload = await tickets.directOf(ticket.id);
    if (upload === undefined) return;
    for (let index = 0; index < layout.partCount; index++) {
      const { start, end } = partRange(layout, index);
      await receivePart({
        upload: staged,
        index,
        sizeBytes: end - start,
        body: objects.read(upload.key, { start, end }),
        contentLength: undefined,
        clock,
        idleMs: IDLE_MS,
        onBytes: () => undefined,
      });
    }
  }

  /** Removes what a ticket that is settled has in the bucket. Safe to repeat. */
  async drop(ticketId: string): Promise<void> {
    const { objects, tickets } = this.#options;
    const upload = await tickets.directOf(ticketId);
    if (objects.direct === undefined || upload === undefined) return;
    await objects.direct.abort(upload);
    await objects.delete(upload.key);
    await tickets.forgetDirect(ticketId);
  }

  /** Drops what tickets left behind that expired or whose coordinator was killed. */
  async clean(): Promise<void> {
    const { objects, tickets, clock, logger } = this.#options;
    if (objects.direct === undefined || clock.now() - this.#cleanedAtMs < CLEAN_EVERY_MS) return;
    this.#cleanedAtMs = clock.now();
    for (const ticketId of await tickets.settledWithDirect()) {
      await this.drop(ticketId).catch((error: unknown) =>
        logger.warn({ error, ticketId }, 'could not clean the bucket'),
      );
    }
  }
}

/** One key for each ticket: what lies there is nobody else's. */
function incomingKey(ticketId: string): string {
  return `incoming/${ticketId}`;
}
