import { toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { ObjectStore, PartUpload, PresignedRequest } from '@octomil/shared/storage';
import type { ArrivingRows } from './arriving-rows.js';
import { PART_SIZE_BYTES, type PartLayout, partRange } from './part-layout.js';
import { receivePart } from './receive-part.js';
import type { StagedUpload } from './staged-upload.js';

export interface DirectPart extends PresignedRequest {
  readonly number: number;
}

export interface DirectRequests {
  readonly parts: readonly DirectPart[];
  /** Numbers of the parts that the bucket has. */
  readonly received: readonly number[];
  /** Others are missing besides `parts`. */
  readonly more: boolean;
  /** Nothing is missing. */
  readonly arrived: boolean;
}

export interface DirectUploadsOptions {
  readonly objects: ObjectStore;
  readonly rows: ArrivingRows;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** As many requests are signed at once; a ticket, which is one message, has one for every part. */
const MAX_REQUESTS = 1000;
/** Longer than reading one part from the bucket takes between two signs of life. */
const IDLE_MS = 60_000;
const CLEAN_EVERY_MS = 30_000;
/** Within what every bucket takes in one request. */
const LARGEST_PART_BYTES = 1024 ** 3;

/**
 * Updates and files of versions whose parts go straight to the bucket of the objects. What lies there is only a way of
 * arriving: before it counts, its bytes are copied, take the same checks as those that came here, and are stored anew, so that a sender whose requests are still valid can change nothing that was checked.
 */
export class DirectUploads {
  readonly #options: DirectUploadsOptions;
  #cleanedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: DirectUploadsOptions) {
    this.#options = options;
  }

  /**
   * The requests that send what the bucket does not have, at most `limit` of them; none where objects live in a folder or
   * the bucket cannot be used now: the parts then come here. `received` are the numbers of parts that are there.
   */
  async requests(
    upload: { readonly id: string; readonly layout: PartLayout; readonly expiresInMs: number },
    limit = MAX_REQUESTS,
  ): Promise<DirectRequests> {
    const { objects, rows, logger } = this.#options;
    const { direct } = objects;
    const { layout } = upload;
    const none = { parts: [], received: [], more: false, arrived: false };
    if (direct === undefined || !fits(layout, direct.partMultipleBytes)) return none;
    if (limit === MAX_REQUESTS && layout.partCount > limit) return none;
    try {
      const known = await rows.directOf(upload.id);
      const begun = known ?? (await this.#begin(upload.id));
      if (begun === undefined) return none;
      const there = known === undefined ? [] : await direct.received(begun, layout.partSizeBytes);
      const received = new Set(there.map(({ number }) => number));
      const parts: DirectPart[] = [];
      for (let number = 0; number < layout.partCount && parts.length < limit; number++) {
        if (received.has(number)) continue;
        const { start, end } = partRange(layout, number);
        const part = { number, offset: start, sizeBytes: end - start, totalBytes: layout.sizeBytes };
        parts.push({ number, ...(await direct.presignPart(begun, part, upload.expiresInMs)) });
      }
      const more = received.size + parts.length < layout.partCount;
      return { parts, received: [...received].sort((a, b) => a - b), more, arrived: parts.length === 0 };
    } catch (error) {
      logger.warn({ error, id: upload.id }, 'parts cannot go straight to the bucket; they come here instead');
      return none;
    }
  }

  /**
   * Whether all bytes lie in the bucket, as one object from here on.
   *
   * @throws `network_unavailable`, `request_timeout`
   */
  async arrived({ id, layout }: { readonly id: string; readonly layout: PartLayout }): Promise<boolean> {
    const { objects, rows } = this.#options;
    const { direct } = objects;
    if (direct === undefined) return false;
    const upload = await rows.directOf(id);
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
  async fetch(ticket: { readonly id: string; readonly layout: PartLayout }, staged: StagedUpload): Promise<void> {
    const { objects, clock } = this.#options;
    const { layout } = ticket;
    if (staged.received.length === layout.partCount || !(await this.arrived(ticket))) return;
    for (let index = 0; index < layout.partCount; index++) {
      const { start, end } = partRange(layout, index);
      await receivePart({
        upload: staged,
        index,
        sizeBytes: end - start,
        body: objects.read(incomingKey(ticket.id), { start, end }),
        contentLength: undefined,
        clock,
        idleMs: IDLE_MS,
        onBytes: () => undefined,
      });
    }
  }

  /** Removes what an upload that is settled has in the bucket. Safe to repeat. */
  async drop(id: string): Promise<void> {
    const { objects, rows } = this.#options;
    const upload = await rows.directOf(id);
    if (objects.direct === undefined || upload === undefined) return;
    await objects.direct.abort(upload);
    await objects.delete(upload.key);
    await rows.forgetDirect(id);
  }

  /** Drops what uploads left behind that expired or whose coordinator was killed. */
  async clean(): Promise<void> {
    const { objects, rows, clock, logger } = this.#options;
    if (objects.direct === undefined || clock.now() - this.#cleanedAtMs < CLEAN_EVERY_MS) return;
    this.#cleanedAtMs = clock.now();
    for (const id of await rows.settledWithDirect()) {
      await this.drop(id).catch((error: unknown) => logger.warn({ error, id }, 'could not clean the bucket'));
    }
  }

  async #begin(id: string): Promise<PartUpload | undefined> {
    const { objects, rows } = this.#options;
    const own = await objects.direct?.begin(incomingKey(id));
    if (own === undefined) return undefined;
    const kept = await rows.rememberDirect(id, own);
    if (kept.uploadId !== own.uploadId) await objects.direct?.abort(own);
    return kept;
  }
}

/** Whether every bucket takes such parts. */
function fits({ partCount, partSizeBytes }: PartLayout, multipleBytes: number): boolean {
  if (partCount <= 1) return true;
  return (
    partSizeBytes % multipleBytes === 0 &&
    partSizeBytes >= PART_SIZE_BYTES.smallest &&
    partSizeBytes <= LARGEST_PART_BYTES
  );
}

/** One key for each upload: what lies there is nobody else's. */
export function incomingKey(ticketId: string): string {
  return `incoming/${ticketId}`;
}
