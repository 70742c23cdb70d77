import type { Clock, Logger } from '@octomil/shared/runtime';
import { openPGlite, type PGliteDatabase } from './pglite.js';
import { openPostgres, type PostgresDatabase } from './postgres.js';

export type OpenDatabase = PGliteDatabase | PostgresDatabase;

export interface DatabaseOptions {
  /** PostgreSQL; when absent, the database is embedded. */
  readonly url?: string;
  /** Folder of the embedded database; in memory when absent. */
  readonly dataDir?: string;
  /** A dump to start an embedded database from. */
  readonly loadDataDir?: Blob;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly random?: () => number;
}

/** @throws OctomilError `store_locked`, `schema_newer` */
export function openDatabase({ url, ...options }: DatabaseOptions): Promise<OpenDatabase> {
  if (url === undefined) return openPGlite(options);
  const { logger, clock, random } = options;
  return openPostgres({ connectionString: url, logger, clock, ...(random === undefined ? {} : { random }) });
}
