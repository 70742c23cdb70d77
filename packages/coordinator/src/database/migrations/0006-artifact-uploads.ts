import { type Kysely, sql } from 'kysely';

/** Files of versions that arrived past the coordinator, and who checks them. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(database);
}

const STATEMENTS = [
  `alter table versions drop constraint versions_status_check`,
  `alter table versions add constraint versions_status_check
     check (status in ('validating', 'converting', 'draft', 'published', 'deprecated'))`,
  // Without foreign keys: what lies in the bucket is to be removed also after its model was deleted.
  `create table artifact_uploads (
    id text primary key,
    storage_key text not null unique,
    model_id text not null,
    version_id text,
    format text,
    header jsonb not null,
    size_bytes bigint not null,
    part_size_bytes bigint not null,
    part_count integer not null,
    state text not null check (state in ('open', 'arrived', 'completed', 'abandoned')),
    expires_at timestamptz not null,
    created_at timestamptz not null default now(),
    claimed_by text,
    claimed_until timestamptz,
    attempts integer not null default 0,
    problem jsonb
  )`,
  `create index artifact_uploads_arrived on artifact_uploads (claimed_until) where state = 'arrived'`,
  `create index artifact_uploads_of_version on artifact_uploads (version_id) where state = 'arrived'`,
  `create index artifact_uploads_expiring on artifact_uploads (expires_at)`,
];
