import { statfs } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import { StagedUpload } from './staged-upload.js';
import { StagingFolder } from './staging-folder.js';
import type { Ticket } from './ticket-store.js';

/** Longer than a part may take between two signs of life, so that nobody still writes through what is forgotten. */
const FORGET_AFTER_MS = 900_000;
/** Left free on the staging disk for everything else. */
const DISK_RESERVE_BYTES = 64 * 1024 * 1024;

/** The unfinished uploads in this process's staging folder. */
export class StagedUploads {
  readonly #root: string;
  readonly #clock: Clock;
  readonly #uploads = new Map<string, { readonly staged: Promise<StagedUpload>; usedAtMs: number }>();
  #held: StagingFolder | undefined;

  constructor(root: string, clock: Clock) {
    this.#root = root;
    this.#clock = clock;
  }

  get isOpen(): boolean {
    return this.#held !== undefined;
  }

  /** @throws `store_locked` when every slot of the staging folder is taken */
  async open(): Promise<void> {
    this.#held = await StagingFolder.take(this.#root, this.#clock);
  }

  async close(): Promise<void> {
    const held = this.#held;
    this.#held = undefined;
    await held?.release();
  }

  /** With the parts that arrived under this ticket, also before a restart. */
  of(ticket: Ticket): Promise<StagedUpload> {
    let upload = this.#uploads.get(ticket.id);
    if (upload === undefined) {
      upload = { staged: StagedUpload.load(this.#folder.path, ticket.id, ticket.layout), usedAtMs: 0 };
      this.#uploads.set(ticket.id, upload);
    }
    upload.usedAtMs = this.#clock.now();
    return upload.staged;
  }

  /** Removes what has arrived. Safe to repeat. */
  async forget(ticketId: string): Promise<void> {
    const upload = this.#uploads.get(ticketId);
    this.#uploads.delete(ticketId);
    await (await upload?.staged)?.remove();
    await this.#held?.remove(ticketId);
  }

  /** The staging folders of other processes. */
  siblings(): Promise<string[]> {
    return this.#folder.siblings();
  }

  /** @throws `insufficient_storage` */
  async requireDisk(neededBytes: number): Promise<void> {
    const disk = await statfs(this.#folder.path);
    const freeBytes = disk.bavail * disk.bsize - DISK_RESERVE_BYTES;
    if (freeBytes >= neededBytes) return;
    throw new OctomilError(
      'insufficient_storage',
      `the coordinator has ${Math.max(0, freeBytes)} bytes free for uploads and this one needs ${neededBytes}; free space there, then try again`,
      { details: { freeBytes: Math.max(0, freeBytes), neededBytes }, retryAfterSeconds: 60 },
    );
  }

  /**
   * Removes what belongs to no ticket that is open.
   *
   * @param isBusy asked right before the removal
   */
  async sweep(
    stillOpen: (ticketIds: readonly string[]) => Promise<ReadonlySet<string>>,
    isBusy: (ticketId: string) => boolean,
  ): Promise<void> {
    const staged = await this.#folder.ticketIds();
    const open = await stillOpen(staged);
    for (const ticketId of staged) {
      if (!open.has(ticketId) && !isBusy(ticketId)) await this.forget(ticketId);
    }
    // What is known of uploads that rest is read again when they go on.
    for (const [ticketId, { staged: upload, usedAtMs }] of this.#uploads) {
      if (this.#clock.now() - usedAtMs > FORGET_AFTER_MS && (await upload).idle) this.#uploads.delete(ticketId);
    }
  }

  get #folder(): StagingFolder {
    if (this.#held === undefined) throw new OctomilError('internal', 'the transfer service is not started');
    return this.#held;
  }
}
