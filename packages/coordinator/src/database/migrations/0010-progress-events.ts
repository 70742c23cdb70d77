import { type Kysely, sql } from 'kysely';

/** Finds the events that retention deletes among all those that it keeps. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(database);
}

const STATEMENTS = [
  `create index session_events_of_progress on session_events (session_id)
    where type = 'assignment' and data ->> 'state' = 'accepted'`,
];
