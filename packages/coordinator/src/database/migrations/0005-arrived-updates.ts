import { type Kysely, sql } from 'kysely';

/** Updates that arrived past the coordinator, and who checks them. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(database);
}

const STATEMENTS = [
  `alter table upload_tickets drop constraint upload_tickets_state_check`,
  `alter table upload_tickets add constraint upload_tickets_state_check
     check (state in ('open', 'arrived', 'completed', 'abandoned'))`,
  `alter table upload_tickets add column claimed_by text`,
  `alter table upload_tickets add column claimed_until timestamptz`,
  `alter table upload_tickets add column attempts integer not null default 0`,
  `alter table upload_tickets add column problem jsonb`,
  `create index upload_tickets_arrived on upload_tickets (claimed_until) where state = 'arrived'`,
  `create index upload_tickets_in_bucket on upload_tickets (id) where (header -> 'direct') is not null`,
];
