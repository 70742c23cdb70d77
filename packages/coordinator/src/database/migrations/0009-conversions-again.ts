import { type Kysely, sql } from 'kysely';

/** Conversions that met a passing failure, as of the object store, are tried again later. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(database);
}

const STATEMENTS = [
  `alter table conversions
    add column passing_failures integer not null default 0,
    add column not_before timestamptz`,
];
