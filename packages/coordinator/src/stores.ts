import { chmod, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock, Lifecycle, Logger } from '@octomil/shared/runtime';
import {
  ABANDONED_AFTER_MS,
  FileObjectStore,
  type ObjectStore,
  openObjectStore,
  removeOldEntries,
} from '@octomil/shared/storage';
import type { CoordinatorConfig } from './config.js';
import { type OpenDatabase, openDatabase } from './database/open-database.js';
import type { Jobs } from './jobs/jobs.js';
import { openJobs } from './jobs/open-jobs.js';

/** Everything that lasts. */
export interface Stores {
  readonly database: OpenDatabase;
  readonly jobs: Jobs;
  readonly objects: ObjectStore;
  /** For unfinished uploads, on the same file system as the objects, so that a finished one is renamed into place. */
  readonly uploadFolder: string;
  /** For checkpoints in the making, on the same file system too. What a killed coordinator left there was removed. */
  readonly checkpointFolder: string;
}

export interface StoresOptions {
  readonly config: CoordinatorConfig;
  /** The embedded database in memory instead of in the data folder. */
  readonly inMemory: boolean;
  readonly databaseDump: Blob | undefined;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly random: () => number;
}

/** @throws OctomilError `store_locked`, `schema_newer`, `network_unavailable` */
export async function openStores(options: StoresOptions, lifecycle: Lifecycle): Promise<Stores> {
  const { config, logger, clock, random } = options;
  const { databaseUrl, redisUrl } = config.secrets;
  await mkdir(config.dataDir, { recursive: true }).catch((cause: NodeJS.ErrnoException) => {
    const problem = cause.code === 'EEXIST' || cause.code === 'ENOTDIR' ? 'a file is in its place' : cause.code;
    throw new OctomilError(
      'config_invalid',
      `OCTOMIL_DATA_DIR=${config.dataDir} cannot be made a folder (${problem}); name another (octomil up --data-dir)`,
      { cause },
    );
  });
  const database = await openDatabase({
    logger,
    clock,
    random,
    ...(databaseUrl === undefined ? {} : { url: databaseUrl }),
    ...(options.inMemory ? {} : { dataDir: join(config.dataDir, 'database') }),
    ...(options.databaseDump === undefined ? {} : { loadDataDir: options.databaseDump }),
  });
  lifecycle.onStop('database', () => database.close());
  // As durable as the rows that name the objects.
  const durable = database.kind === 'postgres';
  const objects = await openObjects(config, durable, clock);
  lifecycle.onStop('objects', () => objects.close());
  // Updates of single sites lie there. A folder that coordinators share has the mode that its owner gave it.
  if (config.secrets.bucketUrl === undefined && !config.objectsShared) {
    const { objectFolder } = config;
    await chmod(objectFolder, 0o700).catch((error: unknown) =>
      logger.warn({ error, objectFolder }, 'other users of this machine may read updates; give the folder mode 0700'),
    );
  }
  const jobs = await openJobs({ database, logger, ...(redisUrl === undefined ? {} : { redisUrl }) });
  lifecycle.onStop('jobs', () => jobs.close());
  const stagingFolder = join(config.objectFolder, 'staging');
  const checkpointFolder = join(stagingFolder, 'checkpoints');
  await removeOldEntries(checkpointFolder, config.objectsShared ? clock.now() - ABANDONED_AFTER_MS : Infinity);
  return { database, jobs, objects, uploadFolder: join(stagingFolder, 'uploads'), checkpointFolder };
}

/**
 * The objects of a configuration: a bucket, whose credentials this process's environment has, or a folder.
 *
 * @throws OctomilError `store_locked` for a folder that another process holds; `config_invalid` for a bucket that is
 * missing or may not be used, `network_unavailable`
 */
export function openObjects(
  config: CoordinatorConfig,
  durable: boolean,
  clock: Clock,
): Promise<ObjectStore & { close(): Promise<void> }> {
  const { objectFolder: folder, objectsShared: shared, dataDir, secrets } = config;
  if (secrets.bucketUrl === undefined) return FileObjectStore.open({ folder, durable, clock, shared });
  const temporaryFolder = join(dataDir, 'object-copies');
  return openObjectStore(secrets.bucketUrl, { environment: process.env, temporaryFolder, clock });
}
