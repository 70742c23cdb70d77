import { randomUUID } from 'node:crypto';
import { describe } from '@jest/globals';
import { silentLogger, systemClock } from '@octomil/shared/runtime';
import pg from 'pg';
import type { OpenDatabase } from '../database/open-database.js';
import { openPostgres } from '../database/postgres.js';
import { openJobs } from '../jobs/open-jobs.js';
import { openTestDatabase, templateKey } from './test-database.js';

// What tests know of the stores outside this process is here and nowhere else: `.ci/run` repeats on PostgreSQL and
// Redis the tests that import this file, and no others.

const serverUrl = process.env['TEST_DATABASE_URL'];
const redisUrl = process.env['TEST_REDIS_URL'];

/** Opens a database that is empty, migrated and the caller's own. It is gone when it is closed. */
export type OpenTestDatabase = () => Promise<OpenDatabase>;

export const HAS_POSTGRES = serverUrl !== undefined;

/** PostgreSQL where there is a server for tests, otherwise the embedded database. */
export const openRunDatabase: OpenTestDatabase = HAS_POSTGRES ? openMigratedPostgres : openTestDatabase;

/** Declares a suite for every database. In each run one of them is tested and the other skipped by name. */
export function describeOnDatabases(title: string, declare: (open: OpenTestDatabase) => void): void {
  const noPGlite = HAS_POSTGRES ? 'TEST_DATABASE_URL is set: another run is about PGlite' : undefined;
  describeUnless(noPGlite, `${title} on PGlite`, () => declare(openTestDatabase));
  describeOnPostgres(`${title} on PostgreSQL`, declare);
}

/** Declares a suite for PostgreSQL alone. */
export function describeOnPostgres(title: string, declare: (open: OpenTestDatabase) => void): void {
  const noServer = HAS_POSTGRES ? undefined : 'TEST_DATABASE_URL is not set';
  describeUnless(noServer, title, () => declare(openMigratedPostgres));
}

export function describeOnRedis(title: string, declare: (url: string) => void): void {
  const noRedis = redisUrl === undefined ? 'TEST_REDIS_URL is not set' : undefined;
  describeUnless(noRedis, `${title} on Redis`, () => declare(redisUrl ?? ''));
}

function describeUnless(skip: string | undefined, title: string, declare: () => void): void {
  if (skip === undefined) describe(title, declare);
  else describe.skip(`${title} (skipped: ${skip})`, declare);
}

export interface CreatedPostgres {
  readonly name: string;
  readonly url: string;
  drop(): Promise<void>;
}

/** A new database on the server of TEST_DATABASE_URL: a copy of `template`, by default with nothing in it, not even a schema. */
export async function createPostgres(template = 'template1'): Promise<CreatedPostgres> {
  const name = `test_${randomUUID().replaceAll('-', '')}`;
  await onServer((client) => client.query(`create database ${name} template ${template}`));
  const url = new URL(serverUrl ?? '');
  url.pathname = `/${name}`;
  return {
    name,
    url: url.href,
    drop: () => onServer((client) => client.query(`drop database if exists ${name} with (force)`)),
  };
}

async function openMigratedPostgres(): Promise<OpenDatabase> {
  template ??= migratedTemplate();
  const { url, drop } = await createPostgres(await template);
  const database = await openPostgres({ connectionString: url, logger: silentLogger, clock: systemClock });
  return {
    ...database,
    async close() {
      await database.close();
      await drop();
    },
  };
}

let template: Promise<string> | undefined;

/** Migrating takes a second, a copy a tenth of it: the first to ask migrates, and its database stays on the server. */
async function migratedTemplate(): Promise<string> {
  const name = `octomil_template_${await templateKey()}`;
  await onServer(async (client) => {
    // Other test processes wait here until this connection ends.
    await client.query('select pg_advisory_lock(hashtext($1))', [name]);
    const found = await client.query('select from pg_database where datname = $1', [name]);
    if (found.rowCount !== 0) return;
    const made = await createPostgres();
    const database = await openPostgres({ connectionString: made.url, logger: silentLogger, clock: systemClock });
    const jobs = await openJobs({ database, logger: silentLogger });
    await jobs.close();
    await database.close();
    await client.query(`alter database ${made.name} rename to ${name}`);
  });
  return name;
}

async function onServer(work: (client: pg.Client) => Promise<unknown>): Promise<void> {
  const client = new pg.Client({ connectionString: serverUrl });
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}
