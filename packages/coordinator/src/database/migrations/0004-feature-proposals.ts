import { type Kysely, sql } from 'kysely';

/** Feature specs that people look at before training uses them. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(database);
}

const STATEMENTS = [
  `create table feature_proposals (
    id text primary key,
    organization_id text not null references organizations(id),
    federation_id text not null references federations(id),
    model_id text not null references models(id),
    session_id text not null references training_sessions(id),
    target text not null,
    state text not null default 'proposed' check (state in ('proposed', 'confirmed', 'superseded', 'rejected')),
    request jsonb not null,
    sites jsonb not null,
    warnings jsonb not null default '[]',
    spec_hash text not null,
    document text not null,
    proposed_hash text not null,
    created_by text not null,
    created_at timestamptz not null default now(),
    confirmed_by text,
    confirmed_at timestamptz,
    ended_by text,
    ended_at timestamptz,
    reason text
  )`,
  `create unique index feature_proposals_confirmed on feature_proposals (federation_id, model_id, target)
     where state = 'confirmed'`,
  `create index feature_proposals_newest on feature_proposals (organization_id, created_at desc, id)`,
  `create index feature_proposals_of_federation on feature_proposals (federation_id, created_at desc, id)`,
];
