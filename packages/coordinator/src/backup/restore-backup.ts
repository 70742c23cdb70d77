import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { checkObjectKey, type ObjectStore } from '@octomil/shared/storage';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import { damaged, MANIFEST_FILE, type Manifest, type ObjectLine, parseManifest } from './manifest.js';
import { checkPart, readLines, readPart } from './part-files.js';
import {
  advanceSequences,
  appliedMigrations,
  filledTables,
  listTables,
  loadRows,
  type TableShape,
  withoutForeignKeys,
} from './table-rows.js';

export interface RestoreOptions {
  /** The folder that `createBackup` made. */
  readonly input: string;
  /** Migrated, and without a row. */
  readonly database: Database;
  readonly objects: ObjectStore;
}

/** There while a restore puts objects: what a killed one left behind is known by it, and removed by the next. */
const MARK = 'restore/unfinished';
const PASSING_OBJECTS = /^health\//;

/**
 * Fills an empty database and an empty object store from a backup: everything or nothing, from PGlite to PostgreSQL or the
 * other way round. Objects come first and rows last, in one transaction.
 *
 * @throws OctomilError `corrupt_file` naming the damaged part, `schema_newer` for a backup of a newer version,
 * `wrong_state` for one of an older version, `conflict` when there are rows or objects already
 */
export async function restoreBackup({ input, database, objects }: RestoreOptions): Promise<Manifest> {
  const manifest = await readManifest(input);
  await checkSchema(manifest, database);
  for (const part of [...manifest.tables, manifest.objects]) await checkPart(input, part);
  await requireEmpty(database, objects);
  await objects.put(MARK, new Uint8Array());
  try {
    await putObjects(input, manifest, objects);
    await loadTables(input, manifest, database);
  } catch (error) {
    await removeAll(objects);
    throw error;
  }
  await objects.delete(MARK);
  return manifest;
}

async function readManifest(input: string): Promise<Manifest> {
  const text = await readFile(join(input, MANIFEST_FILE), 'utf8').catch((error: unknown) => {
    throw damaged(MANIFEST_FILE, `there is none in ${input} that can be read`, error);
  });
  return parseManifest(text);
}

async function checkSchema({ migrations, coordinator_version }: Manifest, database: Database): Promise<void> {
  const known = await appliedMigrations(database.kysely);
  const unknown = migrations.filter((name) => !known.includes(name));
  if (unknown.length > 0) {
    throw new OctomilError(
      'schema_newer',
      `the backup was made by a newer Octomil (${coordinator_version}, ${unknown.join(', ')}); restore with that version`,
      { details: { unknown_migrations: unknown } },
    );
  }
  if (migrations.length < known.length) {
    throw new OctomilError(
      'wrong_state',
      `the backup was made by Octomil ${coordinator_version}, before ${known.slice(migrations.length).join(', ')}; restore with that version, then start this one, which brings it up to date`,
    );
  }
}

async function requireEmpty(database: Database, objects: ObjectStore): Promise<void> {
  refuseFilled(await filledTables(database.kysely, await listTables(database.kysely)));
  if ((await objects.stat(MARK)) !== undefined) await removeAll(objects);
  for await (const { key } of objects.list('')) {
    if (PASSING_OBJECTS.test(key)) continue;
    throw new OctomilError('conflict', `the object store is not empty (it has ${key}); restore into an empty one`);
  }
}

function refuseFilled(filled: readonly string[]): void {
  if (filled.length === 0) return;
  throw new OctomilError(
    'conflict',
    `the database is not empty (there are rows in ${filled.slice(0, 5).join(', ')}); restore into one that no coordinator was started on`,
    { details: { tables: filled } },
  );
}

async function putObjects(input: string, manifest: Manifest, objects: ObjectStore): Promise<void> {
  let count = 0;
  for await (const line of readLines(input, manifest.objects)) {
    const { key, size_bytes, sha256 } = JSON.parse(line) as ObjectLine;
    checkObjectKey(key);
    // A digest that does not match ends the put, and with it the object.
    await objects.put(key, readPart(input, { file: `objects/${key}`, size_bytes, sha256 }));
    count++;
  }
  if (count !== manifest.objects.count) {
    throw damaged(manifest.objects.file, `it lists ${count} objects in place of ${manifest.objects.count}`);
  }
}

function loadTables(input: string, manifest: Manifest, database: Database): Promise<void> {
  return database.transact(async (transaction) => {
    const shapes = await listTables(transaction);
    // A coordinator that starts now waits, and then finds the organization that it would have made.
    await sql`lock table organizations in access exclusive mode`.execute(transaction);
    refuseFilled(await filledTables(transaction, shapes));
    await withoutForeignKeys(transaction, async () => {
      for (const table of manifest.tables) {
        checkShape(table, shapes);
        const count = await loadRows(transaction, table, readLines(input, table));
        if (count !== table.rows) throw damaged(table.file, `it has ${count} rows in place of ${table.rows}`);
      }
    });
    await advanceSequences(transaction);
  });
}

function checkShape({ name, columns, file }: Manifest['tables'][number], shapes: readonly TableShape[]): void {
  const shape = shapes.find((each) => each.name === name);
  const unknown = shape === undefined ? [name] : columns.filter((column) => !shape.columns.includes(column));
  if (unknown.length === 0) return;
  throw damaged(
    file,
    `this version has no ${shape === undefined ? 'table' : `column of ${name} named`} ${unknown.join(', ')}`,
  );
}

/** The mark last: with it, what is left is known to be left over. */
async function removeAll(objects: ObjectStore): Promise<void> {
  const keys: string[] = [];
  for await (const { key } of objects.list('')) if (!PASSING_OBJECTS.test(key) && key !== MARK) keys.push(key);
  for (const key of keys) await objects.delete(key);
  await objects.delete(MARK);
}
