import { OctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import { type Kysely, sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { Tables } from '../database/tables.js';

const HOUR_MS = 3_600_000;
const ARTIFACTS = 'artifacts/';
/** What is uploaded and not part of a version yet. */
export const UPLOADS = 'uploads/';
/** Longer than an upload address is valid: what is older belongs to nobody. */
const ABANDONED_UPLOAD_MS = 48 * HOUR_MS;
/** An object is stored before its row. */
const ORPHAN_GRACE_MS = 24 * HOUR_MS;
const SWEEP_EVERY_MS = HOUR_MS;

export interface ArtifactObjectsOptions {
  readonly database: Database;
  readonly objects: ObjectStore;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Where the file with this digest is kept: equal files are one object. */
export function artifactKey(sha256: string): string {
  return `${ARTIFACTS}${sha256}`;
}

/**
 * Holds everybody else off an object until the transaction ends. Whoever stores a file under its digest takes it before
 * the put and inserts its row in the same transaction; otherwise a deletion of the last version with the same file could
 * come in between.
 */
export async function lockObject(transaction: Kysely<Tables>, key: string): Promise<void> {
  await sql`select pg_advisory_xact_lock(hashtextextended(${key}, 0))`.execute(transaction);
}

/** The files of versions in the object store, and the removal of what no row names any more. */
export class ArtifactObjects {
  readonly #on: ArtifactObjectsOptions;
  #stopped = false;
  #cancelTimer = (): void => undefined;
  #sweeping: Promise<unknown> = Promise.resolve();

  constructor(options: ArtifactObjectsOptions) {
    this.#on = options;
  }

  /**
   * Moves a received file to where its digest says, within the transaction that inserts its row.
   *
   * @throws OctomilError `transfer_incomplete` when it is gone
   */
  async keep(from: string, sha256: string, sizeBytes: number, transaction: Kysely<Tables>): Promise<void> {
    const { objects } = this.#on;
    const key = artifactKey(sha256);
    await lockObject(transaction, key);
    // Also when there is one already: what is there may have been damaged, and this one was just read.
    if ((await objects.stat(from)) !== undefined) return moveObject(objects, from, key);
    // The transaction is being repeated.
    if ((await objects.stat(key))?.sizeBytes === sizeBytes) return;
    throw new OctomilError('transfer_incomplete', 'the uploaded file is gone; upload it again');
  }

  /**
   * Deletes those of these objects that no version and no checkpoint names. Other folders' objects are left alone, and so
   * are those that were put after `beforeMs`.
   */
  async deleteUnreferenced(keys: Iterable<string>, beforeMs = Number.POSITIVE_INFINITY): Promise<number> {
    const { database, objects } = this.#on;
    let deleted = 0;
    for (const key of new Set(keys)) {
      if (!key.startsWith(ARTIFACTS)) continue;
      deleted += await database.transact(async (transaction) => {
        await lockObject(transaction, key);
        const found = await objects.stat(key);
        if (found === undefined || found.modifiedAtMs >= beforeMs) return 0;
        if ((await unreferenced([key], transaction)).length === 0) return 0;
        await objects.delete(key);
        return 1;
      });
    }
    return deleted;
  }

  /** Looks every hour from now on. */
  start(): void {
    this.#stopped = false;
    this.#schedule();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancelTimer();
    await this.#sweeping;
  }

  /** Removes uploads that nobody confirmed, after 48 hours, and files that no version names, after 24. */
  async sweep(): Promise<{ uploads: number; artifacts: number }> {
    const { database, objects, clock } = this.#on;
    let uploads = 0;
    const abandoned: string[] = [];
    for await (const { key, modifiedAtMs } of objects.list(UPLOADS)) {
      if (modifiedAtMs < clock.now() - ABANDONED_UPLOAD_MS) abandoned.push(key);
    }
    for (const key of abandoned) {
      await objects.delete(key);
      uploads++;
    }
    const beforeMs = clock.now() - ORPHAN_GRACE_MS;
    let artifacts = 0;
    let candidates: string[] = [];
    const remove = async (): Promise<void> => {
      artifacts += await this.deleteUnreferenced(await unreferenced(candidates, database.kysely), beforeMs);
      candidates = [];
    };
    for await (const { key, modifiedAtMs } of objects.list(ARTIFACTS)) {
      if (modifiedAtMs < beforeMs) candidates.push(key);
      if (candidates.length >= 500) await remove();
    }
    await remove();
    return { uploads, artifacts };
  }

  #schedule(): void {
    if (this.#stopped) return;
    this.#cancelTimer = this.#on.clock.after(SWEEP_EVERY_MS, () => {
      this.#sweeping = this.#sweepAndLog().finally(() => this.#schedule());
    });
  }

  async #sweepAndLog(): Promise<void> {
    const { logger } = this.#on;
    try {
      const removed = await this.sweep();
      if (removed.uploads + removed.artifacts > 0) logger.info(removed, 'removed files that no version names');
    } catch (error) {
      logger.warn({ error }, 'looking for files that no version names failed; it is tried again in an hour');
    }
  }
}

/** Renamed where the store is a folder. Safe to repeat after it was interrupted. */
export async function moveObject(objects: ObjectStore, from: string, to: string): Promise<void> {
  const local = await objects.localFile(from);
  try {
    await objects.putFile(to, local.path);
  } finally {
    await local.release();
  }
  await objects.delete(from);
}

async function unreferenced(keys: readonly string[], kysely: Kysely<Tables>): Promise<string[]> {
  if (keys.length === 0) return [];
  const { rows } = await sql<{ key: string }>`
    select key from unnest(${[...keys]}::text[]) as list(key)
    where not exists (select 1 from artifacts where object_key = key)
      and not exists (select 1 from checkpoints where object_key = key)`.execute(kysely);
  return rows.map(({ key }) => key);
}
