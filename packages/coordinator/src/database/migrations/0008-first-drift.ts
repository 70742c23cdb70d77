import { type Kysely, sql } from 'kysely';

/** What each site first told of its drift: to look for it among all updates would take longer with every round. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(database);
}

const STATEMENTS = [
  `create table first_drift (
    organization_id text not null references organizations(id),
    federation_id text not null references federations(id),
    feature_spec_hash text not null,
    data_set text not null,
    device_id text not null references devices(id),
    round_id text not null references rounds(id),
    columns jsonb not null,
    created_at timestamptz not null default now(),
    primary key (feature_spec_hash, federation_id, organization_id, data_set, device_id)
  )`,
];
