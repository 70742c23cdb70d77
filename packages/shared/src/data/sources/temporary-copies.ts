import { randomUUID } from 'node:crypto';
import { rmSync } from 'node:fs';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import type { BucketObject, SourceClient } from '@octomil/shared/storage';
import { type FetchedFile, fetchToFile, versionOf } from './fetch-to-file.js';

export interface TemporaryCopiesOptions {
  /** Folders of several processes may lie in it; what dead ones left is removed. Not to be shared between machines. */
  readonly folder: string;
  /** All copies together. */
  readonly maxBytes: number;
  readonly clock: Clock;
}

export interface CopyRequest {
  readonly client: SourceClient;
  readonly object: BucketObject;
  /** As it may be shown; also what tells copies apart. */
  readonly place: string;
  readonly signal?: AbortSignal | undefined;
}

interface Kept {
  readonly file: FetchedFile;
  users: number;
}

/** Folders of this process that its exit removes. */
const living = new Set<string>();
let sweepsAtExit = false;

/**
 * Copies of remote objects, for readers that need a file. A copy is kept while it is used, and afterwards until its room
 * is needed or the object has another version: the next round reads it without a download. All go when this is closed,
 * when the process ends, and, after a killed process, when the next one opens the same folder.
 */
export class TemporaryCopies {
  readonly #folder: string;
  readonly #maxBytes: number;
  readonly #clock: Clock;
  /** By place. The order is that of their last use. */
  readonly #kept = new Map<string, Kept>();
  readonly #fetching = new Map<string, Promise<Kept>>();
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
   * A local copy of the object in the version it has now. Call `release` once.
   *
   * @throws what `fetchToFile` throws; `too_large` where the copies in use leave no room
   */
  async acquire(request: CopyRequest): Promise<FetchedFile & { release(): Promise<void> }> {
    const kept = await this.#current(request);
    kept.users += 1;
    let released = false;
    const release = async (): Promise<void> => {
      if (released) return;
      released = true;
      kept.users -= 1;
      // Replaced by a newer version meanwhile.
      if (kept.users === 0 && this.#kept.get(request.place) !== kept) await rm(kept.file.path, { force: true });
    };
    return { ...kept.file, release };
  }

  /** Safe to repeat. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#kept.clear();
    await rm(this.#folder, { recursive: true, force: true });
    living.delete(this.#folder);
  }

  async #current(request: CopyRequest): Promise<Kept> {
    const { place, object } = request;
    const kept = this.#kept.get(place);
    const version = versionOf(object);
    if (kept !== undefined && version !== undefined && kept.file.version === version) {
      this.#kept.delete(place);
      this.#kept.set(place, kept);
      return kept;
    }
    const id = `${version ?? randomUUID()} ${place}`;
    let fetching = this.#fetching.get(id);
    if (fetching === undefined) {
      fetching = this.#fetch(request).finally(() => this.#fetching.delete(id));
      this.#fetching.set(id, fetching);
    }
    return fetching;
  }

  async #fetch({ client, object, place, signal }: CopyRequest): Promise<Kept> {
    if (this.#closed) throw new OctomilError('cancelled', 'the temporary copies are closed');
    const before = this.#kept.get(place);
    await this.#makeRoom(object.sizeBytes, place);
    const fetched = await fetchToFile({
      client,
      key: object.key,
      place,
      folder: this.#folder,
      maxBytes: this.#maxBytes - this.#usedBytes(),
      clock: this.#clock,
      signal,
    });
    if (fetched === 'unchanged') throw new OctomilError('internal', 'a first copy cannot be unchanged');
    const kept = { file: fetched, users: 0 };
    this.#kept.delete(place);
    this.#kept.set(place, kept);
    if (before !== undefined && before.users === 0) await rm(before.file.path, { force: true });
    return kept;
  }

  /** Lets go of what nobody uses, the least recently used first. */
  async #makeRoom(neededBytes: number, place: string): Promise<void> {
    for (const [name, kept] of this.#kept) {
      const outdated = name === place;
      if (kept.users > 0 || (!outdated && this.#usedBytes() + neededBytes <= this.#maxBytes)) continue;
      this.#kept.delete(name);
      await rm(kept.file.path, { force: true });
    }
  }

  #usedBytes(): number {
    let bytes = 0;
    for (const { file } of this.#kept.values()) bytes += file.sizeBytes;
    return bytes;
  }
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
