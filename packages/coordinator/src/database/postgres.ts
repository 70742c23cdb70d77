import type { Clock, Logger } from '@octomil/shared/runtime';
import { Kysely, PostgresDialect, sql } from 'kysely';
import pg from 'pg';
import type { Database } from './database.js';
import { GuardedDialect } from './guarded-dialect.js';
import { migrateToLatest } from './migrate.js';
import { checkNotification } from './notification.js';
import { INT8_OID, NUMERIC_OID, parseInt8, parseNumeric } from './number-parsers.js';
import { PostgresListener } from './postgres-listener.js';
import type { Tables } from './tables.js';
import { runTransaction } from './transact.js';
import { refuseInsideTransaction } from './transaction-guard.js';

export interface PostgresDatabase extends Database {
  readonly kind: 'postgres';
  readonly connectionString: string;
}

export interface PostgresOptions {
  readonly connectionString: string;
  /** Connections of the pool, without the one for notifications and those of the job queues. Default 15. */
  readonly maxConnections?: number;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly random?: () => number;
}

/**
 * Connects to PostgreSQL (15 or newer) and migrates the schema under a lock, so that several coordinators may start at once.
 *
 * @throws OctomilError `schema_newer`; whatever pg throws when the server cannot be reached
 */
export async function openPostgres(options: PostgresOptions): Promise<PostgresDatabase> {
  const { connectionString, logger, clock, random = Math.random } = options;
  const pool = new pg.Pool({
    connectionString,
    max: options.maxConnections ?? 15,
    connectionTimeoutMillis: 10_000,
    keepAlive: true,
    application_name: 'octomil',
    options: '-c search_path=public',
    types: { getTypeParser: typeParser as typeof pg.types.getTypeParser },
  });
  // An idle connection that breaks is replaced by the pool; unheard, the event would end the process.
  pool.on('error', (error) => logger.warn({ error }, 'an idle database connection broke'));
  const kysely = new Kysely<Tables>({
    dialect: new GuardedDialect(new PostgresDialect({ pool }), { oneConnection: false }),
  });
  try {
    await migrateToLatest(kysely);
  } catch (error) {
    await kysely.destroy();
    throw error;
  }
  const listener = new PostgresListener({ connectionString, logger, clock, random });
  let closing: Promise<void> | undefined;
  return {
    kind: 'postgres',
    connectionString,
    kysely,
    transact: (work) => runTransaction(kysely, work, { clock, random }),
    async notify(channel, payload, within = kysely) {
      checkNotification(payload);
      await sql`select pg_notify(${channel}, ${payload})`.execute(within);
    },
    listen(channel, receive) {
      refuseInsideTransaction('listen');
      return listener.listen(channel, receive);
    },
    async ping() {
      await sql`select 1`.execute(kysely);
    },
    close() {
      closing ??= (async () => {
        await listener.close();
        await kysely.destroy();
      })();
      return closing;
    },
  };
}

function typeParser(oid: number, format?: 'text' | 'binary'): (text: string) => unknown {
  if (oid === INT8_OID) return parseInt8;
  if (oid === NUMERIC_OID) return parseNumeric;
  return format === undefined ? pg.types.getTypeParser(oid) : pg.types.getTypeParser(oid, format as 'text');
}
