import { randomUUID } from 'node:crypto';
import { rmSync } from 'node:fs';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import { type BucketObject, problemOf, type SourceClient } from '@octomil/shared/storage';
import { type CopyWish, LocalCopy } from './local-copy.js';
import { versionOf } from './object-version.js';
import { missingObject, statObject } from './source-client.js';

export interface TemporaryCopiesOptions {
  /** Folders of several processes may lie in it; what dead ones left is removed. Not to be shared between machines. */
  readonly folder: string;
  /** All copies together; holes of sparse ones do not count. */
  readonly maxBytes: number;
  readonly clock: Clock;
}

export interface CopyRequest extends Pick<CopyWish, 'columns' | 'maxRows' | 'signal'> {
  readonly client: SourceClient;
  readonly object: BucketObject;
  /** As it may be shown. */
  readonly place: string;
}

export interface AcquiredCopy {
  readonly path: string;
  /** Of the object; a sparse copy holds fewer. */
  readonly sizeBytes: number;
  /** Equal versions are equal bytes. */
  readonly version: string;
  /** SHA-256 of the bytes, hex, where they came whole. */
  readonly digest: string | undefined;
  /** Safe to repeat. */
  release(): Promise<void>;
}

interface Kept {
  /** Place and key: URLs of one place may differ in their query. */
  readonly id: string;
  readonly copy: LocalCopy;
  users: number;
  /** Counted against the limit: what it holds, and what is being fetched. */
  claimedBytes: number;
}

/** An object that is rewritten again and again is given up. */
const MAX_VERSIONS = 3;

/** Folders of this process that its exit removes. */
const living = new Set<string>();
let sweepsAtExit = false;

/**
 * Copies of remote objects, for readers that need a file. A copy is kept while it is used, and afterwards until its room
 * is needed or the object has another version: the next round reads it without a download. Of Parquet files only the
 * columns that somebody asked for are fetched. All go when this is closed, when the process ends, and, after a killed
 * process, when the next one opens the same folder.
 */
export class TemporaryCopies {
  readonly #folder: string;
  readonly #maxBytes: number;
  readonly #clock: Clock;
  /** The newest version of each object. */
  readonly #latest = new Map<string, Kept>();
  /** Older ones too, while somebody reads them. The order is that of their last use. */
  readonly #kept = new Set<Kept>();
  #closed = false;

  private constructor(folder: string, { maxBytes, clock }: TemporaryCopiesOptions) {
    this.#folder = folder;
    this.#maxBytes = maxBytes;
    this.#clock = clock;
  }

  static async open(options: TemporaryCopiesOptions): Promise<TemporaryCopies> {
    await mkdir(options.folder, { recursive: true, mode: 0o700 });
    await sweep(options.folder);
    const folder = join(options.folder, `copies-${process.pid}-${randomUUID()}`);
    await mkdir(folder, { mode: 0o700 });
    living.add(folder);
    if (!sweepsAtExit) {
      sweepsAtExit = true;
      process.once('exit', () => {
        for (const left of living) rmSync(left, { recursive: true, force: true });
      });
    }
    return new TemporaryCopies(folder, options);
  }

  /**
   * A local copy of the object as listed, or of the version it has by now: every byte is of one. Call `release` once.
   *
   * @throws OctomilError `too_large` where the copies in use leave no room; `data_unreadable`, `corrupt_file`,
   * `insufficient_storage`, `network_unavailable`, `request_timeout`, `transfer_incomplete`, `cancelled`
   */
  async acquire(request: CopyRequest): Promise<AcquiredCopy> {
    const { client, place, signal } = request;
    let { object } = request;
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#acquire({ ...request, object });
      } catch (error) {
        if (problemOf(error) !== 'changed' || attempt >= MAX_VERSIONS) throw error;
        const found = await statObject(client, object.key, signal);
        if (found === undefined) throw await missingObject(client, place, signal);
        object = found;
      }
    }
  }

  /** Safe to repeat. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#latest.clear();
    this.#kept.clear();
    await rm(this.#folder, { recursive: true, force: true });
    living.delete(this.#folder);
  }

  async #acquire({ object, ...request }: CopyRequest): Promise<AcquiredCopy> {
    const { kept, outdated } = this.#use(object, request.place);
    try {
      if (outdated?.users === 0) await this.#drop(outdated);
      await kept.copy.fill({
        ...request,
        clock: this.#clock,
        claim: (bytes) => this.#claim(kept, bytes, request.place),
      });
      if (this.#closed) throw closed();
    } catch (error) {
      kept.users -= 1;
      if (kept.users === 0) await this.#drop(kept);
      throw error;
    } finally {
      kept.claimedBytes = kept.copy.heldBytes;
    }
    let released = false;
    const release = async (): Promise<void> => {
      if (released) return;
      released = true;
      kept.users -= 1;
      if (kept.users === 0 && this.#latest.get(kept.id) !== kept) await this.#drop(kept);
    };
    const { path, version, digest } = kept.copy;
    return { path, version, digest, sizeBytes: kept.copy.object.sizeBytes, release };
  }

  /** Counts a user before anything is waited for: whoever needs room leaves it alone from now on. */
  #use(object: BucketObject, place: string): { readonly kept: Kept; readonly outdated: Kept | undefined } {
    if (this.#closed) throw closed();
    const id = JSON.stringify([place, object.key]);
    const version = versionOf(object);
    const found = this.#latest.get(id);
    if (found !== undefined && version !== undefined && found.copy.version === version) {
      found.users += 1;
      this.#kept.delete(found);
      this.#kept.add(found);
      return { kept: found, outdated: undefined };
    }
    const copy = new LocalCopy(this.#folder, object, version ?? randomUUID());
    const kept = { id, copy, users: 1, claimedBytes: 0 };
    this.#latest.set(id, kept);
    this.#kept.add(kept);
    return { kept, outdated: found };
  }

  /** Lets go of what nobody uses, the least recently used first, until there is room. */
  async #claim(kept: Kept, bytes: number, place: string): Promise<void> {
    const dropped: Kept[] = [];
    for (const other of this.#kept) {
      if (this.#claimedBytes() + bytes <= this.#maxBytes) break;
      if (other.users > 0) continue;
      this.#forget(other);
      dropped.push(other);
    }
    const leftBytes = this.#maxBytes - this.#claimedBytes();
    // Counted before anything is waited for: others claim meanwhile.
    if (bytes <= leftBytes) kept.claimedBytes += bytes;
    for (const { copy } of dropped) await rm(copy.path, { force: true });
    if (bytes > leftBytes) throw tooLarge(place, bytes, leftBytes);
  }

  #claimedBytes(): number {
    let bytes = 0;
    for (const { claimedBytes } of this.#kept) bytes += claimedBytes;
    return bytes;
  }

  async #drop(kept: Kept): Promise<void> {
    this.#forget(kept);
    await rm(kept.copy.path, { force: true });
  }

  #forget(kept: Kept): void {
    this.#kept.delete(kept);
    if (this.#latest.get(kept.id) === kept) this.#latest.delete(kept.id);
  }
}

function closed(): OctomilError {
  return new OctomilError('cancelled', 'the temporary copies are closed');
}

function tooLarge(place: string, neededBytes: number, leftBytes: number): OctomilError {
  return new OctomilError(
    'too_large',
    `${place}: ${neededBytes} bytes are to be fetched, more than the ${leftBytes} that temporary copies may still take; raise that limit, or keep the data as Parquet, of which only the columns in use are fetched`,
    { details: { size_bytes: neededBytes, limit_bytes: leftBytes } },
  );
}

/** Removes the folders of processes that are gone. */
async function sweep(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    const pid = Number(/^copies-(\d+)-/.exec(name)?.[1]);
    const path = join(folder, name);
    if (!Number.isInteger(pid) || living.has(path)) continue;
    // Our own number, but not ours: a process before us in a container, where numbers begin anew.
    if (pid === process.pid || !isAlive(pid)) await rm(path, { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as { code?: unknown }).code === 'EPERM';
  }
}
