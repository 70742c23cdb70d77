import { randomUUID } from 'node:crypto';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import pg from 'pg';
import type { Database } from '../../database/database.js';
import { openPostgres } from '../../database/postgres.js';
import { openTestDatabase } from '../../testing/index.js';

export interface TestDatabase {
  readonly database: Database;
  close(): Promise<void>;
}

export interface TestDatabaseKind {
  readonly name: string;
  /** Why it cannot be had here. */
  readonly skip: string | undefined;
  open(): Promise<TestDatabase>;
}

const url = process.env['TEST_DATABASE_URL'];

/** The databases that every test of the engine runs on. Each opened one is empty and its own. */
export const TEST_DATABASES: readonly TestDatabaseKind[] = [
  {
    name: 'PGlite',
    skip: undefined,
    open: async () => {
      const database = await openTestDatabase();
      return { database, close: () => database.close() };
    },
  },
  { name: 'PostgreSQL', skip: url === undefined ? 'TEST_DATABASE_URL is not set' : undefined, open: openOwnPostgres },
];

async function openOwnPostgres(): Promise<TestDatabase> {
  const name = `training_${randomUUID().replaceAll('-', '')}`;
  const address = new URL(url ?? '');
  await administer(`create database ${name}`);
  address.pathname = `/${name}`;
  const database = await openPostgres({ connectionString: address.href, logger: silentLogger, clock: systemClock });
  return {
    database,
    close: async () => {
      await database.close();
      await administer(`drop database ${name} with (force)`);
    },
  };
}

async function administer(statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}
