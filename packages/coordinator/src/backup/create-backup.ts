import { randomUUID } from 'node:crypto';
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import { COORDINATOR_VERSION } from '../version.js';
import {
  MANIFEST_FILE,
  type Manifest,
  manifestOf,
  manifestText,
  OBJECT_LIST_FILE,
  type ObjectLine,
  type TablePart,
} from './manifest.js';
import { writePart } from './part-files.js';
import { appliedMigrations, dumpRows, listTables, namedObjects, type TableShape } from './table-rows.js';

export interface BackupOptions {
  readonly database: Database;
  readonly objects: Pick<ObjectStore, 'list' | 'read'>;
  /** The folder to make; it must not exist. */
  readonly output: string;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Objects may be deleted, with the rows that named them, while they are copied; then all begins again. */
const MAX_ATTEMPTS = 3;
/** Beacons of running coordinators, and marks of a restore. */
const PASSING_OBJECTS = /^(health|restore)\//;

/**
 * Copies every row, as of one moment, and every object into a new folder, which appears under its name when it is whole.
 * A coordinator may go on beside it on PostgreSQL; on PGlite others wait while the rows are read.
 *
 * @throws OctomilError `conflict` when `output` exists or objects keep vanishing, `insufficient_storage`
 */
export async function createBackup({ database, objects, output, clock, logger }: BackupOptions): Promise<Manifest> {
  const path = resolve(output);
  if ((await stat(path).catch(() => undefined)) !== undefined) {
    throw new OctomilError('conflict', `${output} exists; name a folder that does not`);
  }
  await mkdir(dirname(path), { recursive: true });
  for (let attempt = 1; ; attempt++) {
    const partial = `${path}.partial-${randomUUID().slice(0, 8)}`;
    try {
      await mkdir(partial, { mode: 0o700 });
      const rows = await copyRows(database, partial);
      const copied = await copyObjects(objects, partial);
      const absent = [...rows.named].filter((key) => !copied.keys.has(key));
      // An object that no row names any more was deleted behind us, and the rows copied still name it.
      const still = absent.length === 0 ? new Set<string>() : await namedObjects(database.kysely, rows.shapes);
      if (absent.some((key) => !still.has(key))) {
        if (attempt < MAX_ATTEMPTS) {
          await rm(partial, { recursive: true, force: true });
          continue;
        }
        throw new OctomilError('conflict', `objects were deleted during each of ${attempt} attempts; try again later`);
      }
      if (absent.length > 0) logger.warn({ missing: absent.length }, 'rows name objects that the store does not have');
      const manifest = manifestOf({
        created_at: new Date(clock.now()).toISOString(),
        coordinator_version: COORDINATOR_VERSION,
        database: database.kind,
        migrations: rows.migrations,
        tables: rows.tables,
        objects: copied.list,
        missing_objects: absent,
      });
      await writePart(partial, MANIFEST_FILE, [Buffer.from(manifestText(manifest))]);
      await rename(partial, path);
      return manifest;
    } catch (error) {
      await rm(partial, { recursive: true, force: true });
      throw error;
    }
  }
}

interface CopiedRows {
  readonly migrations: string[];
  readonly shapes: readonly TableShape[];
  readonly tables: TablePart[];
  readonly named: Set<string>;
}

function copyRows(database: Database, root: string): Promise<CopiedRows> {
  return database.transact(async (transaction) => {
    await sql`set transaction isolation level repeatable read, read only`.execute(transaction);
    // A repeated transaction writes its files anew.
    await rm(`${root}/tables`, { recursive: true, force: true });
    const shapes = await listTables(transaction);
    const tables: TablePart[] = [];
    for (const shape of shapes) {
      let rows = 0;
      const lines = async function* (): AsyncGenerator<Uint8Array> {
        for await (const line of dumpRows(transaction, shape)) {
          rows++;
          yield Buffer.from(`${line}\n`);
        }
      };
      const part = await writePart(root, `tables/${shape.name}.ndjson`, lines());
      tables.push({ name: shape.name, columns: shape.columns, rows, ...part });
    }
    const named = await namedObjects(transaction, shapes);
    return { migrations: await appliedMigrations(transaction), shapes, tables, named };
  });
}

async function copyObjects(
  objects: Pick<ObjectStore, 'list' | 'read'>,
  root: string,
): Promise<{ list: Manifest['objects']; keys: Set<string> }> {
  const keys = new Set<string>();
  let totalBytes = 0;
  const lines = async function* (): AsyncGenerator<Uint8Array> {
    for await (const { key } of objects.list('')) {
      if (PASSING_OBJECTS.test(key)) continue;
      const part = await copyObject(objects, root, key);
      if (part === undefined) continue;
      keys.add(key);
      totalBytes += part.size_bytes;
      yield Buffer.from(`${JSON.stringify(part)}\n`);
    }
  };
  const part = await writePart(root, OBJECT_LIST_FILE, lines());
  return { list: { ...part, count: keys.size, total_bytes: totalBytes }, keys };
}

/** `undefined` for one that was deleted since it was listed. */
async function copyObject(
  objects: Pick<ObjectStore, 'read'>,
  root: string,
  key: string,
): Promise<ObjectLine | undefined> {
  const file = `objects/${key}`;
  try {
    const { size_bytes, sha256 } = await writePart(root, file, objects.read(key));
    return { key, size_bytes, sha256 };
  } catch (error) {
    if (!(error instanceof OctomilError) || error.code !== 'not_found') throw error;
    await rm(`${root}/${file}`, { force: true });
    return undefined;
  }
}
