import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { type Clock, createLogger, Lifecycle, type Logger, systemClock } from '@octomil/shared/runtime';
import { FileObjectStore } from '@octomil/shared/storage';
import type { CoordinatorConfig } from '../config.js';
import { type OpenDatabase, openDatabase } from '../database/open-database.js';
import { openObjects } from '../stores.js';
import { createBackup } from './create-backup.js';
import type { Manifest } from './manifest.js';
import { restoreBackup } from './restore-backup.js';

export interface BackupSettings {
  /** Default: JSON lines on standard error, from the configured level on. */
  readonly logger?: Logger;
  readonly clock?: Clock;
}

/**
 * Backs up the stores of a configuration into the new folder `path`. With PostgreSQL the coordinator may run; the embedded
 * database belongs to one process at a time, so there it must be stopped.
 *
 * @throws OctomilError `store_locked` for an embedded database in use, `config_invalid` where there is none, and whatever
 * `createBackup` throws
 */
export async function backupCoordinator(
  config: CoordinatorConfig,
  path: string,
  settings: BackupSettings = {},
): Promise<Manifest> {
  await requireDatabase(config);
  return withDatabase(config, settings, async (database, { clock, logger }, lifecycle) => {
    if (config.secrets.bucketUrl === undefined) {
      const objects = FileObjectStore.forReading(config.objectFolder);
      return createBackup({ database, objects, output: path, clock, logger });
    }
    const objects = await openObjects(config, true, clock);
    lifecycle.onStop('objects', () => objects.close());
    return createBackup({ database, objects, output: path, clock, logger });
  });
}

/**
 * Restores the backup `path` into the empty stores of a configuration, before a coordinator was started on them.
 *
 * @throws OctomilError `store_locked`, and whatever `restoreBackup` throws
 */
export function restoreCoordinator(
  config: CoordinatorConfig,
  path: string,
  settings: BackupSettings = {},
): Promise<Manifest> {
  return withDatabase(config, settings, async (database, { clock }, lifecycle) => {
    const durable = database.kind === 'postgres';
    const objects = await openObjects(config, durable, clock);
    lifecycle.onStop('objects', () => objects.close());
    return restoreBackup({ input: path, database, objects });
  });
}

/** Opening an embedded database would make one, and its backup would pass for a good one. */
async function requireDatabase({ dataDir, secrets }: CoordinatorConfig): Promise<void> {
  if (secrets.databaseUrl !== undefined) return;
  if ((await stat(join(dataDir, 'database')).catch(() => undefined)) !== undefined) return;
  throw new OctomilError(
    'config_invalid',
    `no coordinator was started on ${dataDir}, so there is nothing to back up; set OCTOMIL_DATA_DIR or DATABASE_URL as for "octomil up"`,
  );
}

async function withDatabase(
  config: CoordinatorConfig,
  { logger = createLogger('backup', config.logLevel), clock = systemClock }: BackupSettings,
  work: (database: OpenDatabase, on: Required<BackupSettings>, lifecycle: Lifecycle) => Promise<Manifest>,
): Promise<Manifest> {
  const lifecycle = new Lifecycle();
  try {
    const { databaseUrl: url } = config.secrets;
    const dataDir = join(config.dataDir, 'database');
    const database = await openDatabase({ logger, clock, ...(url === undefined ? { dataDir } : { url }) });
    lifecycle.onStop('database', () => database.close());
    return await work(database, { logger, clock }, lifecycle);
  } finally {
    await lifecycle.stop();
  }
}
