import { createHash, randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import { openPGlite, type PGliteDatabase } from '../database/pglite.js';
import { openJobs } from '../jobs/open-jobs.js';

let template: Promise<Blob> | undefined;

/**
 * A dump of an empty, migrated database with the job queues' tables. Making one takes about 2 s, so it is kept in the
 * folder for temporary files, named by the PGlite version and the migrations' text.
 */
export function testDatabaseDump(): Promise<Blob> {
  template ??= makeDump();
  return template;
}

async function makeDump(): Promise<Blob> {
  const folder = join(tmpdir(), `octomil-test-${process.getuid?.() ?? 'user'}`);
  const path = join(folder, `database-${await templateKey()}.tar`);
  try {
    return new Blob([await readFile(path)]);
  } catch {
    await mkdir(folder, { recursive: true });
  }
  const database = await openPGlite({ logger: silentLogger, clock: systemClock });
  const jobs = await openJobs({ database, logger: silentLogger });
  await jobs.close();
  const dump = await database.pglite.dumpDataDir('none');
  await database.close();
  const bytes = new Uint8Array(await dump.arrayBuffer());
  // Several test processes may do this at once: each writes its own file, the last rename wins with the same content.
  const temporary = `${path}.${randomUUID()}`;
  await writeFile(temporary, bytes);
  await rename(temporary, path);
  return new Blob([bytes]);
}

export async function templateKey(): Promise<string> {
  const hash = createHash('sha256');
  const require = createRequire(import.meta.url);
  for (const name of ['@electric-sql/pglite', 'bullmq']) {
    const paths = require.resolve.paths(name) ?? [];
    for (const path of paths) {
      const manifest = await readFile(join(path, name, 'package.json'), 'utf8').catch(() => undefined);
      if (manifest === undefined) continue;
      hash.update(`${name}@${(JSON.parse(manifest) as { version: string }).version}\n`);
      break;
    }
  }
  const migrations = new URL('../database/migrations/', import.meta.url);
  for (const file of (await readdir(migrations)).sort()) hash.update(await readFile(new URL(file, migrations)));
  return hash.digest('hex').slice(0, 16);
}

/** A fresh, migrated, embedded database in memory, in about 0.5 s. Close it. */
export async function openTestDatabase(): Promise<PGliteDatabase> {
  return openPGlite({ logger: silentLogger, clock: systemClock, loadDataDir: await testDatabaseDump() });
}
