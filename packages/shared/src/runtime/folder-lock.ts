import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { OctomilError } from '../errors/index.js';

const LOCK_FILE = '.octomil-lock';
const HOLDER_FILE = '.octomil-lock-holder.json';

export interface FolderLock {
  readonly folder: string;
  /** Safe to repeat. */
  release(): Promise<void>;
}

interface Holder {
  pid: number;
  host: string;
  since: string;
}

/**
 * Locks a folder against a second process, and against a second caller in this one.
 *
 * The lock is an exclusive transaction on an empty SQLite file: Node offers no `flock`, and SQLite takes the operating
 * system's own file lock, which ends with its process however that ends. So there are no stale locks to recognise and
 * no reused process ids to mistake.
 *
 * @param shared together with others that ask for the same: only a holder of the whole folder is kept out
 * @throws OctomilError `store_locked` naming the folder and who holds it
 */
export async function lockFolder(
  folder: string,
  now: () => number,
  { shared = false }: { shared?: boolean } = {},
): Promise<FolderLock> {
  const path = resolve(folder);
  await mkdir(path, { recursive: true });
  // Loaded here: only processes that lock a folder need it.
  const { DatabaseSync } = await import('node:sqlite');
  const database = new DatabaseSync(join(path, LOCK_FILE));
  try {
    // An open read transaction holds SQLite's SHARED lock, which only EXCLUSIVE does not go with.
    const take = shared ? 'begin; select count(*) from sqlite_schema' : 'begin exclusive';
    database.exec(`pragma busy_timeout = 0; pragma journal_mode = memory; ${take}`);
  } catch (error) {
    database.close();
    if (!isBusy(error)) throw error;
    const holder = await readHolder(path);
    throw new OctomilError(
      'store_locked',
      `the folder ${path} is in use by ${describeHolder(holder)}; stop it, or choose another folder`,
      { details: { folder: path, ...(holder === undefined ? {} : { pid: holder.pid, host: holder.host }) } },
    );
  }
  if (shared) return { folder: path, release: async () => closeOnce(database) };
  const holder: Holder = { pid: process.pid, host: hostname(), since: new Date(now()).toISOString() };
  await writeFile(join(path, HOLDER_FILE), JSON.stringify(holder));
  let released = false;
  return {
    folder: path,
    async release() {
      if (released) return;
      released = true;
      await rm(join(path, HOLDER_FILE), { force: true });
      database.close();
    },
  };
}

function closeOnce(database: { readonly isOpen: boolean; close(): void }): void {
  if (database.isOpen) database.close();
}

/** SQLITE_BUSY; its number is in `errcode`. */
function isBusy(error: unknown): boolean {
  return typeof error === 'object' && error !== null && 'errcode' in error && error.errcode === 5;
}

/** Who wrote its name last; only for the message, since the lock itself decides. */
async function readHolder(folder: string): Promise<Holder | undefined> {
  try {
    return JSON.parse(await readFile(join(folder, HOLDER_FILE), 'utf8')) as Holder;
  } catch {
    return undefined;
  }
}

function describeHolder(holder: Holder | undefined): string {
  return holder === undefined ? 'another process' : `process ${holder.pid} on ${holder.host} (since ${holder.since})`;
}
