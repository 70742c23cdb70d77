import { randomUUID } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { FileObjectStore, type ObjectStore } from '@octomil/shared/storage';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import { describeOnDatabases, type OpenTestDatabase } from '../testing/databases.js';
import { insertAssignment, insertEnrollmentToken, insertOrganization } from '../testing/enrolled-device.js';
import { openTestDatabase } from '../testing/index.js';
import { createBackup, restoreBackup } from './index.js';
import { manifestText, parseManifest } from './manifest.js';
import { dumpRows, listTables } from './table-rows.js';

let folder: string;
let source: Database;
let sourceObjects: FileObjectStore;
const closing: (() => Promise<void>)[] = [];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-backup-'));
  source = await openTestDatabase();
  sourceObjects = await openObjects();
  closing.push(() => source.close());
  await fill(source, sourceObjects);
}, 240_000);
afterAll(async () => {
  for (const close of closing.reverse()) await close();
  await rm(folder, { recursive: true, force: true });
});

async function openObjects(): Promise<FileObjectStore> {
  const store = await FileObjectStore.open({ folder: join(folder, randomUUID()), durable: false, clock: systemClock });
  closing.push(() => store.close());
  return store;
}

/** A model that refers to itself in every way, a rollout, and values that a careless copy would change. */
async function fill(database: Database, objects: ObjectStore): Promise<void> {
  const organizationId = await insertOrganization(database);
  await insertEnrollmentToken(database, organizationId, { labels: { 'é "\\ \n': '漢 \u2028 \u2029 \u0085' } });
  const statements = [
    sql`insert into devices (id, organization_id, device_identifier, placement, labels, capabilities, site, status)
      values ('d', ${organizationId}, 'd', 0.1 + 0.2, '{}', '{"n": 12345678901234567890.125}', '{}', 'active')`,
    sql`insert into models (id, organization_id, name) values ('m', ${organizationId}, 'heart')`,
    sql`insert into versions (id, model_id, sequence, version, status, base_version_id, created_at)
      values ('z', 'm', 1, '1.0.0', 'published', null, '2026-01-02 03:04:05.123456Z'), ('a', 'm', 2, '1.0.1', 'draft', 'z', now())`,
    sql`insert into artifacts (version_id, format, file_name, object_key, sha256, size_bytes)
      values ('z', 'onnx', 'm.onnx', 'artifacts/one', 'x', 9007199254740991)`,
    sql`insert into rollouts (organization_id, model_id, version_id, state, share_ratio, initial_ratio, target_ratio,
        increment_ratio, placement_offset, created_by, advance_every_seconds)
      values (${organizationId}, 'm', 'z', 'active', 0.1, 0.1, 1, 0.1, 0.7, 'key:k', 'NaN')`,
    sql`insert into audit_entries (organization_id, actor, action, resource)
      select ${organizationId}, 'a', 'b', i::text from generate_series(1, 450) i`,
  ];
  for (const statement of statements) await statement.execute(database.kysely);
  await insertAssignment(database, organizationId, 'd');
  await objects.put('artifacts/one', new Uint8Array(300_000).fill(7));
  await objects.put('updates/r/empty', new Uint8Array());
  await objects.put('health/someone', new Uint8Array(1));
}

async function everything(database: Database): Promise<Record<string, string[]>> {
  return database.transact(async (transaction) => {
    const found: Record<string, string[]> = {};
    for (const shape of await listTables(transaction)) {
      const lines: string[] = [];
      for await (const line of dumpRows(transaction, shape)) lines.push(line);
      found[shape.name] = lines;
    }
    return found;
  });
}

async function keys(objects: ObjectStore): Promise<string[]> {
  const found: string[] = [];
  for await (const { key } of objects.list('')) found.push(key);
  return found;
}

async function openTarget(open: OpenTestDatabase): Promise<Database> {
  const database = await open();
  closing.push(() => database.close());
  return database;
}

const backUp = (database: Database, objects: Pick<ObjectStore, 'list' | 'read'>, output: string) =>
  createBackup({ database, objects, output, clock: systemClock, logger: silentLogger });

test('every table of the schema is in a backup, and no other', async () => {
  const manifest = await backUp(source, sourceObjects, join(folder, 'all'));
  const { rows } = await sql<{ name: string }>`select table_name::text as name from information_schema.tables
    where table_schema = 'public' and table_name not like 'kysely%' order by 1`.execute(source.kysely);
  expect(manifest.tables.map(({ name }) => name).sort()).toEqual(rows.map(({ name }) => name).sort());
  expect(rows.length).toBeGreaterThan(25);
  expect(manifest.objects.count).toBe(2);
  expect(manifest.missing_objects).toEqual([]);
  expect((await stat(join(folder, 'all', 'tables', 'api_keys.ndjson'))).mode & 0o077).toBe(0);
});

describeOnDatabases('restored', (open) => {
  test('rows and objects are the same, numbers go on, and it can be backed up and restored again', async () => {
    const output = join(folder, 'restored');
    await backUp(source, sourceObjects, output);
    const target = await openTarget(open);
    const objects = await openObjects();
    await restoreBackup({ input: output, database: target, objects });
    const expected = await everything(source);
    expect(await everything(target)).toEqual(expected);
    expect(expected['rollouts']).toHaveLength(1);
    expect(await keys(objects)).toEqual(['artifacts/one', 'updates/r/empty']);
    expect(await objects.readAll('artifacts/one', 2 ** 20)).toEqual(
      await sourceObjects.readAll('artifacts/one', 2 ** 20),
    );

    // Keys are back, and the next number is free.
    await expect(
      sql`insert into models (id, organization_id, name) values ('n', 'nobody', 'n')`.execute(target.kysely),
    ).rejects.toThrow(/foreign key/);
    const { rows } = await sql<{ id: number }>`insert into audit_entries (organization_id, actor, action, resource)
      select id, 'a', 'b', 'c' from organizations limit 1 returning id`.execute(target.kysely);
    expect(rows[0]?.id).toBe(451);
    await sql`delete from audit_entries where id = 451`.execute(target.kysely);

    await backUp(target, objects, `${output}-again`);
    const third = await openTarget(openTestDatabase);
    await restoreBackup({ input: `${output}-again`, database: third, objects: await openObjects() });
    expect(await everything(third)).toEqual(expected);
  }, 240_000);
});

describe('a restore that cannot be', () => {
  let input: string;
  let target: Database;
  let objects: FileObjectStore;
  beforeEach(async () => {
    input = join(folder, randomUUID());
    await backUp(source, sourceObjects, input);
    target = await openTarget(openTestDatabase);
    objects = await openObjects();
  });

  const restore = () =>
    restoreBackup({ input, database: target, objects }).then(
      () => undefined,
      (error: unknown) => error,
    );
  const untouched = async () => {
    expect(Object.values(await everything(target)).flat()).toEqual([]);
    expect(await keys(objects)).toEqual([]);
  };

  test.each([
    ['tables/models.ndjson', (path: string) => writeFile(path, '{}\n')],
    ['tables/models.ndjson', (path: string) => rm(path)],
    ['objects/artifacts/one', (path: string) => truncate(path, 299_999)],
    ['objects.ndjson', (path: string) => writeFile(path, '')],
    [
      'manifest.json',
      async (path: string) => writeFile(path, (await readFile(path, 'utf8')).replace('"rows": 2', '"rows": 3')),
    ],
    ['manifest.json', (path: string) => rm(path)],
  ])('names the damaged part %s and changes nothing', async (part, harm) => {
    await harm(join(input, ...part.split('/')));
    expect(await restore()).toMatchObject({ code: 'corrupt_file', details: { part } });
    await untouched();
  });

  test('refuses a newer schema and an older one', async () => {
    const path = join(input, 'manifest.json');
    const manifest = parseManifest(await readFile(path, 'utf8'));
    await writeFile(path, manifestText({ ...manifest, migrations: [...manifest.migrations, '9999-later'] }));
    expect(await restore()).toMatchObject({ code: 'schema_newer', details: { unknown_migrations: ['9999-later'] } });
    await writeFile(path, manifestText({ ...manifest, migrations: manifest.migrations.slice(0, 1) }));
    expect(await restore()).toMatchObject({ code: 'wrong_state' });
    await untouched();
  });

  test('refuses a database with rows, and a store with objects', async () => {
    await objects.put('artifacts/mine', new Uint8Array(1));
    expect(await restore()).toMatchObject({ code: 'conflict', reason: expect.stringContaining('artifacts/mine') });
    await objects.delete('artifacts/mine');
    await insertOrganization(target);
    expect(await restore()).toMatchObject({ code: 'conflict', details: { tables: ['organizations'] } });
    expect(await keys(objects)).toEqual([]);
  });

  test('takes its objects back when the rows do not go in', async () => {
    await sql`alter table models add constraint never check (name <> 'heart')`.execute(target.kysely);
    expect(String(await restore())).toMatch(/never/);
    await untouched();
  });

  test('goes on after one that was killed', async () => {
    await objects.put('restore/unfinished', new Uint8Array());
    await objects.put('artifacts/left-over', new Uint8Array(1));
    expect(await restore()).toBeUndefined();
    expect(await keys(objects)).toEqual(['artifacts/one', 'updates/r/empty']);
  });
});

describe('a backup', () => {
  test('is not begun over another, and leaves nothing when it fails', async () => {
    const output = join(folder, 'taken');
    await backUp(source, sourceObjects, output);
    await expect(backUp(source, sourceObjects, output)).rejects.toMatchObject({ code: 'conflict' });
    const full = {
      list: (prefix: string) => sourceObjects.list(prefix),
      // biome-ignore lint/correctness/useYield: it fails before its first chunk.
      async *read(): AsyncGenerator<Uint8Array> {
        throw new OctomilError('insufficient_storage', 'the disk is full');
      },
    };
    await expect(backUp(source, full, join(folder, 'failed'))).rejects.toMatchObject({ code: 'insufficient_storage' });
    expect((await readdir(folder)).filter((name) => name.startsWith('failed'))).toEqual([]);
  });

  test('begins again when an object vanishes with its row, and names one that was missing before', async () => {
    const database = await openTestDatabase();
    closing.push(() => database.close());
    const objects = await openObjects();
    await fill(database, objects);
    await sql`insert into artifacts (version_id, format, file_name, object_key, sha256, size_bytes)
      values ('a', 'onnx', 'a', 'artifacts/two', 'x', 1), ('a', 'gone', 'a', 'artifacts/gone', 'x', 1)`.execute(
      database.kysely,
    );
    let lists = 0;
    const vanishing = {
      async *list(prefix: string) {
        lists++;
        // Deleted by somebody after the rows were read.
        if (lists === 1) await sql`delete from artifacts where object_key = 'artifacts/two'`.execute(database.kysely);
        yield* objects.list(prefix);
      },
      read: (key: string) => objects.read(key),
    };
    const manifest = await backUp(database, vanishing, join(folder, 'vanishing'));
    expect(lists).toBe(2);
    expect(manifest.missing_objects).toEqual(['artifacts/gone']);
    expect(manifest.tables.find(({ name }) => name === 'artifacts')?.rows).toBe(2);
  });
});
