import { type Kysely, sql } from 'kysely';

/** How generations went, and each organization's routing policy. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(database);
}

const STATEMENTS = [
  `create table inference_events (
    organization_id text not null references organizations(id),
    session_id text not null,
    event_type text not null
      check (event_type in ('generation_started', 'generation_completed', 'generation_failed')),
    model_id text not null,
    version text not null,
    version_id text,
    device_id text not null,
    modality text not null,
    metrics jsonb not null,
    error_code text,
    occurred_at timestamptz not null,
    created_at timestamptz not null default now(),
    primary key (organization_id, session_id, event_type)
  )`,
  `create index inference_events_by_age on inference_events (created_at)`,
  `create table inference_aggregates (
    organization_id text not null references organizations(id),
    model_id text not null,
    version text not null,
    device_id text not null,
    hour timestamptz not null,
    version_id text,
    started bigint not null,
    completed bigint not null,
    failed bigint not null,
    chunks bigint not null,
    prompt_tokens bigint not null,
    completion_tokens bigint not null,
    duration_ms double precision not null,
    ttfc_ms double precision not null,
    ttfc_count bigint not null,
    duration_buckets jsonb not null,
    ttfc_buckets jsonb not null,
    primary key (organization_id, model_id, version, device_id, hour)
  )`,
  `create index inference_aggregates_of_version on inference_aggregates (version_id, hour) where version_id is not null`,
  `create index inference_aggregates_by_age on inference_aggregates (hour)`,
  `create table routing_policies (
    organization_id text primary key references organizations(id),
    version integer not null default 1,
    policy jsonb not null,
    updated_at timestamptz not null default now()
  )`,
];
