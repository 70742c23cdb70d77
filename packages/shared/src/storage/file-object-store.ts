import { randomUUID } from 'node:crypto';
import { createReadStream, type Stats } from 'node:fs';
import {
  copyFile,
  type FileHandle,
  mkdir,
  open,
  opendir,
  readdir,
  rename,
  rm,
  rmdir,
  stat,
  utimes,
} from 'node:fs/promises';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { OctomilError } from '../errors/index.js';
import { type Clock, type FolderLock, lockFolder, systemClock } from '../runtime/index.js';
import { ABANDONED_AFTER_MS, removeOldEntries } from './abandoned-files.js';
import { checkObjectKey } from './object-key.js';
import type { ByteRange, ByteSource, ObjectStat, ObjectStore } from './object-store.js';
import { requireAtMost } from './require-at-most.js';

export interface FileObjectStoreOptions {
  readonly folder: string;
  /**
   * Waits until the disk has an object (fsync of file and folder) before a put resolves. On beside PostgreSQL, which
   * does the same for its rows. Off beside PGlite, which does not fsync: after a power cut its rows may be gone anyway,
   * and after a crash of the process the operating system still writes what it was given.
   */
  readonly durable: boolean;
  readonly clock: Clock;
  /**
   * Lets several processes use the folder at once, also over the network: for file systems that all of them mount and on
   * which a rename is atomic for every one of them (NFSv4, CephFS, EFS). Default false.
   */
  readonly shared?: boolean;
}

const OBJECTS = 'objects';
const TEMPORARY = 'temporary';
const MAX_FOLDERS_REMEMBERED = 10_000;

interface FolderSync {
  /** Never rejects. */
  running: Promise<void>;
  next: Promise<void> | undefined;
}

/**
 * Objects as files in a folder: `objects/<key>`, written under `temporary/` and renamed into place.
 * The folder is locked against a second process until `close`, unless it is opened as shared by all; what a killed writer
 * left under `temporary/` is removed when the folder is opened, in a shared one after a day.
 *
 * @see FileObjectStore.open
 */
export class FileObjectStore implements ObjectStore {
  readonly folder: string;
  readonly #durable: boolean;
  readonly #lock: FolderLock;
  readonly #clock: Clock;
  readonly #syncing = new Map<string, FolderSync>();
  /** Folders that exist, or are being made. */
  readonly #made = new Map<string, Promise<void>>();

  private constructor(lock: FolderLock, durable: boolean, clock: Clock) {
    this.#lock = lock;
    this.#clock = clock;
    this.folder = lock.folder;
    this.#durable = durable;
  }

  /** @throws OctomilError `store_locked` when another process holds the folder, or some share it and this one would not */
  static async open({ folder, durable, clock, shared = false }: FileObjectStoreOptions): Promise<FileObjectStore> {
    const lock = await lockFolder(resolve(folder), () => clock.now(), { shared });
    try {
      const temporary = join(lock.folder, TEMPORARY);
      if (shared) await removeOldEntries(temporary, clock.now() - ABANDONED_AFTER_MS);
      else await rm(temporary, { recursive: true, force: true });
      await mkdir(temporary, { recursive: true });
      await mkdir(join(lock.folder, OBJECTS), { recursive: true });
    } catch (error) {
      await lock.release();
      throw error;
    }
    return new FileObjectStore(lock, durable, clock);
  }

  /**
   * Only to read, also while another process holds the folder: an object is there whole or not at all.
   */
  static forReading(folder: string): Pick<ObjectStore, 'stat' | 'read' | 'list'> {
    const lock: FolderLock = { folder: resolve(folder), release: async () => undefined };
    return new FileObjectStore(lock, false, systemClock);
  }

  async stat(key: string): Promise<ObjectStat | undefined> {
    const found = await this.#find(key);
    return found === undefined ? undefined : toStat(key, found);
  }

  async *read(key: string, range?: ByteRange): AsyncGenerator<Uint8Array> {
    const path = this.#path(key);
    if (range !== undefined && range.end <= range.start) {
      await this.#require(key);
      return;
    }
    const file = await open(path).catch((error: unknown) => {
      throw asMissing(error, key);
    });
    if ((await file.stat()).isDirectory()) {
      await file.close();
      throw missing(key);
    }
    // `end` of Node's streams is inclusive.
    const bounds = range === undefined ? {} : { start: range.start, end: range.end - 1 };
    yield* createReadStream(path, { fd: file, highWaterMark: 256 * 1024, ...bounds }) as AsyncIterable<Uint8Array>;
  }

  async readAll(key: string, maxBytes: number): Promise<Uint8Array> {
    const file = await open(this.#path(key)).catch((error: unknown) => {
      throw asMissing(error, key);
    });
    try {
      const { size } = await this.#fileOnly(key, await file.stat());
      requireAtMost(maxBytes, key, size);
      const bytes = new Uint8Array(size);
      let filled = 0;
      while (filled < size) {
        const { bytesRead } = await file.read(bytes, filled, size - filled, filled);
        if (bytesRead === 0)
          throw new OctomilError('corrupt_file', `object ${key} ended after ${filled} of ${size} bytes`);
        filled += bytesRead;
      }
      return bytes;
    } finally {
      await file.close();
    }
  }

  async put(key: string, source: ByteSource): Promise<ObjectStat> {
    const path = this.#path(key);
    const temporary = this.#temporaryPath();
    try {
      const file = await open(temporary, 'wx');
      try {
        if (source instanceof Uint8Array) await writeAll(file, source);
        else for await (const chunk of source) await writeAll(file, chunk);
        if (this.#durable) await file.sync();
      } finally {
        await file.close();
      }
      await this.#publish(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true });
      throw asFull(error, this.folder);
    }
    return toStat(key, await stat(path));
  }

  async putFile(key: string, source: string): Promise<ObjectStat> {
    const path = this.#path(key);
    const temporary = this.#temporaryPath();
    try {
      try {
        await rename(source, temporary);
      } catch (error) {
        if ((error as { code?: unknown }).code !== 'EXDEV') throw error;
        // Another file system: the copy is made beside the object, so that the last step is still one rename.
        await copyFile(source, temporary);
        await rm(source);
      }
      // An object is as old as its put, however old the file was: sweeps go by it.
      const now = new Date(this.#clock.now());
      await utimes(temporary, now, now);
      if (this.#durable) await syncPath(temporary);
      await this.#publish(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true });
      throw asFull(error, this.folder);
    }
    return toStat(key, await stat(path));
  }

  async delete(key: string): Promise<void> {
    const path = this.#path(key);
    await rm(path, { force: true }).catch((error: unknown) => {
      // A folder of other keys, or a key below a file: there is no such object.
      if (!isMissing(error) && (error as { code?: unknown }).code !== 'ERR_FS_EISDIR') throw error;
    });
    await this.#removeEmptyFolders(dirname(path));
  }

  async *list(prefix: string): AsyncGenerator<ObjectStat> {
    const root = join(this.folder, OBJECTS);
    // The prefix need not end at a word: start at the folder that certainly holds all matches.
    const words = prefix.split('/').slice(0, -1);
    if (words.length > 0) checkObjectKey(words.join('/'));
    yield* this.#walk(root, join(root, ...words), prefix);
  }

  async localFile(
    key: string,
    maxBytes = Number.POSITIVE_INFINITY,
  ): Promise<{ path: string; release(): Promise<void> }> {
    requireAtMost(maxBytes, key, (await this.#require(key)).size);
    return { path: this.#path(key), release: async () => undefined };
  }

  /** Lets another process have the folder. Safe to repeat. */
  close(): Promise<void> {
    return this.#lock.release();
  }

  async *#walk(root: string, folder: string, prefix: string): AsyncGenerator<ObjectStat> {
    const entries = await readdir(folder, { withFileTypes: true }).catch((error: unknown) => {
      if (isMissing(error)) return [];
      throw error;
    });
    for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const path = join(folder, entry.name);
      const key = relative(root, path).split(sep).join('/');
      if (entry.isDirectory()) {
        if (`${key}/`.startsWith(prefix) || prefix.startsWith(`${key}/`)) yield* this.#walk(root, path, prefix);
      } else if (key.startsWith(prefix)) {
        const found = await this.#find(key);
        if (found !== undefined) yield toStat(key, found);
      }
    }
  }

  #path(key: string): string {
    checkObjectKey(key);
    return join(this.folder, OBJECTS, ...key.split('/'));
  }

  #temporaryPath(): string {
    return join(this.folder, TEMPORARY, randomUUID());
  }

  async #find(key: string): Promise<Stats | undefined> {
    try {
      const found = await stat(this.#path(key));
      return found.isFile() ? found : undefined;
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
  }

  async #require(key: string): Promise<Stats> {
    const found = await this.#find(key);
    if (found === undefined) throw missing(key);
    return found;
  }

  async #fileOnly(key: string, found: Stats): Promise<Stats> {
    if (!found.isFile()) throw missing(key);
    return found;
  }

  async #publish(temporary: string, path: string): Promise<void> {
    const folder = dirname(path);
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#folderMade(folder);
        await rename(temporary, path);
        break;
      } catch (error) {
        // A delete may remove the folder, empty for a moment, between the steps.
        if (!isMissing(error) || attempt >= 5) throw error;
        this.#made.delete(folder);
      }
    }
    // The folder too, or a power cut could forget the name of a file whose content is safe.
    if (this.#durable) await this.#folderSynced(folder);
  }

  /** A sync that begins after this call. Those who ask while one is under way share the next. */
  #folderSynced(folder: string): Promise<void> {
    const under = this.#syncing.get(folder);
    if (under === undefined) {
      const state: FolderSync = { running: Promise.resolve(), next: undefined };
      this.#syncing.set(folder, state);
      return this.#syncFolder(folder, state);
    }
    under.next ??= under.running.then(() => {
      under.next = undefined;
      return this.#syncFolder(folder, under);
    });
    return under.next;
  }

  #syncFolder(folder: string, state: FolderSync): Promise<void> {
    const synced = syncPath(folder);
    state.running = synced
      .catch(() => undefined)
      .then(() => {
        if (state.next === undefined) this.#syncing.delete(folder);
      });
    return synced;
  }

  /**
   * Resolves when the folder exists and, if puts are to be durable, its own name is on the disk. Remembered: a put into a
   * folder that is there already has one folder to synchronise, not all of its path.
   */
  #folderMade(folder: string): Promise<void> {
    let made = this.#made.get(folder);
    if (made === undefined) {
      made = this.#makeFolder(folder);
      if (this.#made.size >= MAX_FOLDERS_REMEMBERED) this.#made.clear();
      this.#made.set(folder, made);
      const forget = (): void => {
        if (this.#made.get(folder) === made) this.#made.delete(folder);
      };
      made.catch(forget);
    }
    return made;
  }

  async #makeFolder(folder: string): Promise<void> {
    await mkdir(folder, { recursive: true });
    if (!this.#durable) return;
    const root = join(this.folder, OBJECTS);
    const above: string[] = [];
    for (let current = folder; current !== root; current = dirname(current)) above.push(dirname(current));
    await Promise.all(above.map(syncPath));
  }

  async #removeEmptyFolders(folder: string): Promise<void> {
    const root = join(this.folder, OBJECTS);
    for (let current = folder; current !== root && current.startsWith(root); current = dirname(current)) {
      try {
        if (await hasEntries(current)) return;
        this.#made.delete(current);
        await rmdir(current);
      } catch {
        // Filled or removed by somebody else meanwhile: either way not ours to remove.
        return;
      }
    }
  }
}

async function hasEntries(folder: string): Promise<boolean> {
  const handle = await opendir(folder);
  try {
    return (await handle.read()) !== null;
  } finally {
    await handle.close();
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  let written = 0;
  while (written < bytes.byteLength) {
    const { bytesWritten } = await file.write(bytes, written, bytes.byteLength - written);
    written += bytesWritten;
  }
}

async function syncPath(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

function toStat(key: string, found: Stats): ObjectStat {
  return { key, sizeBytes: found.size, modifiedAtMs: found.mtimeMs };
}

function isMissing(error: unknown): boolean {
  const code = (error as { code?: unknown }).code;
  return code === 'ENOENT' || code === 'ENOTDIR';
}

function missing(key: string): OctomilError {
  return new OctomilError('not_found', `there is no object ${key}`, { details: { key } });
}

function asMissing(error: unknown, key: string): unknown {
  return isMissing(error) ? missing(key) : error;
}

function asFull(error: unknown, folder: string): unknown {
  const code = (error as { code?: unknown }).code;
  if (code !== 'ENOSPC' && code !== 'EDQUOT') return error;
  return new OctomilError('insufficient_storage', `the disk of ${folder} is full; nothing was stored`, {
    cause: error,
  });
}
