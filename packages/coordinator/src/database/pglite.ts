import { chmod } from 'node:fs/promises';
import { join } from 'node:path';
import { PGlite } from '@electric-sql/pglite';
import { OctomilError } from '@octomil/shared/errors';
import { type Clock, type FolderLock, type Logger, lockFolder } from '@octomil/shared/runtime';
import { Kysely, PGliteDialect, sql } from 'kysely';
import type { Database } from './database.js';
import { GuardedDialect } from './guarded-dialect.js';
import { migrateToLatest } from './migrate.js';
import { checkNotification } from './notification.js';
import { INT8_OID, NUMERIC_OID, parseInt8, parseNumeric } from './number-parsers.js';
import { keepWalShort } from './short-wal.js';
import type { Tables } from './tables.js';
import { runTransaction } from './transact.js';
import { outsideAnyTransaction, refuseInsideTransaction } from './transaction-guard.js';

export interface PGliteDatabase extends Database {
  readonly kind: 'pglite';
  /** The one session everybody shares; for the job queues. */
  readonly pglite: PGlite;
}

export interface PGliteOptions {
  /** Folder of the database, locked while it is open; in memory when absent. */
  readonly dataDir?: string;
  /** A dump to start from in place of an empty database; saves a second or two. */
  readonly loadDataDir?: Blob;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly random?: () => number;
}

/**
 * Opens PostgreSQL embedded in this process, migrated.
 *
 * @throws OctomilError `store_locked` when another process has the folder open, `schema_newer`
 */
export async function openPGlite(options: PGliteOptions): Promise<PGliteDatabase> {
  const { dataDir, logger, clock } = options;
  // PGlite itself does not notice a second process in its folder.
  const lock = dataDir === undefined ? undefined : await lockFolder(dataDir, () => clock.now());
  try {
    // PGlite writes files that everybody on the machine could change; the rows hold what addresses are signed with.
    if (dataDir !== undefined) {
      await chmod(dataDir, 0o700).catch((error: unknown) =>
        logger.warn({ error, dataDir }, 'other users of this machine may read the database; give the folder mode 0700'),
      );
    }
    const pglite = await PGlite.create({
      dataDir: dataDir === undefined ? 'memory://' : join(dataDir, 'pglite'),
      parsers: { [INT8_OID]: parseInt8, [NUMERIC_OID]: parseNumeric },
      // Saves about 100 MB of resident memory against the default of 128 MB buffers, at no cost that could be measured.
      startParams: [...PGlite.defaultStartParams, '-c', 'shared_buffers=16MB'],
      ...(options.loadDataDir === undefined ? {} : { loadDataDir: options.loadDataDir }),
    });
    if (dataDir !== undefined) {
      logger.warn(
        { dataDir },
        'using the embedded database: it survives a crash of this process but does not fsync, so a power cut may lose data; set DATABASE_URL for production',
      );
    }
    const kysely = new Kysely<Tables>({
      dialect: new GuardedDialect(new PGliteDialect({ pglite }), { oneConnection: true }),
    });
    try {
      await pglite.exec('set search_path to public');
      await migrateToLatest(kysely);
    } catch (error) {
      await pglite.close();
      throw error;
    }
    return bind(pglite, kysely, lock, options);
  } catch (error) {
    await lock?.release();
    throw error;
  }
}

function bind(
  pglite: PGlite,
  kysely: Kysely<Tables>,
  lock: FolderLock | undefined,
  { dataDir, logger, clock, random = Math.random }: PGliteOptions,
): PGliteDatabase {
  // In memory there is no next start.
  const stopCheckpoints = dataDir === undefined ? undefined : keepWalShort(kysely, { clock, logger });
  let closing: Promise<void> | undefined;
  return {
    kind: 'pglite',
    pglite,
    kysely,
    transact: (work) => runTransaction(kysely, work, { clock, random }),
    async notify(channel, payload, within = kysely) {
      checkNotification(payload);
      await sql`select pg_notify(${channel}, ${payload})`.execute(within);
    },
    async listen(channel, receive) {
      refuseInsideTransaction('listen');
      // Quoted, or PGlite would fold the name to lower case where `pg_notify` does not.
      const stop = await pglite.listen(`"${channel}"`, (payload) => {
        // PGlite runs receivers outside every promise: what they throw would end the process.
        outsideAnyTransaction(() => {
          try {
            receive(payload);
          } catch (error) {
            logger.error({ error, channel }, 'a receiver of notifications failed');
          }
        });
      });
      return () => (pglite.closed ? Promise.resolve() : stop());
    },
    async ping() {
      if (pglite.closed) throw new OctomilError('network_unavailable', 'the embedded database is closed');
      await sql`select 1`.execute(kysely);
    },
    close() {
      closing ??= (async () => {
        try {
          await stopCheckpoints?.();
          await kysely.destroy();
          if (!pglite.closed) await pglite.close();
        } finally {
          await lock?.release();
        }
      })();
      return closing;
    },
  };
}
