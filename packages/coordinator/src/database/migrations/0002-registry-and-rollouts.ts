import { type Kysely, sql } from 'kysely';

/** Conversions, rollouts, what devices should and do run, device tokens and groups, shared models, audit, repeats. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(database);
}

const STATEMENTS = [
  `alter table versions drop constraint versions_status_check`,
  `alter table versions add constraint versions_status_check
     check (status in ('converting', 'draft', 'published', 'deprecated'))`,
  `alter table versions add column created_by text`,
  `create index artifacts_by_object on artifacts (object_key)`,
  `alter table models add column deleted_at timestamptz`,
  `drop index models_by_name`,
  `create unique index models_by_name on models (organization_id, lower(name)) where deleted_at is null`,
  `create index models_newest on models (organization_id, created_at desc, id) where deleted_at is null`,
  `create table conversions (
    version_id text not null references versions(id) on delete cascade,
    format text not null,
    state text not null check (state in ('pending', 'running', 'ready', 'failed')),
    attempt integer not null default 0,
    reason_code text,
    reason text,
    owner text,
    owner_until timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (version_id, format)
  )`,
  `create index conversions_to_do on conversions (state) where state in ('pending', 'running')`,

  `create table rollouts (
    id bigint generated always as identity primary key,
    organization_id text not null references organizations(id),
    model_id text not null references models(id),
    version_id text not null references versions(id),
    previous_version_id text references versions(id),
    state text not null check (state in ('draft', 'active', 'paused', 'completed', 'rolling_back', 'rolled_back',
      'failed')),
    share_ratio double precision not null check (share_ratio >= 0 and share_ratio <= 1),
    initial_ratio double precision not null check (initial_ratio >= 0 and initial_ratio <= 1),
    target_ratio double precision not null check (target_ratio > 0 and target_ratio <= 1),
    increment_ratio double precision not null check (increment_ratio > 0 and increment_ratio <= 1),
    advance_every_seconds double precision,
    placement_offset double precision not null,
    selector jsonb not null default '{}',
    gates jsonb not null default '{}',
    stage integer not null default 0,
    stage_started_at timestamptz,
    next_stage_at timestamptz,
    covered boolean not null default false,
    reason_code text,
    reason text,
    created_by text not null,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,
    updated_at timestamptz not null default now()
  )`,
  `create unique index rollouts_one_active on rollouts (model_id) where state in ('active', 'paused', 'rolling_back')`,
  `create index rollouts_of_model on rollouts (model_id, id desc)`,
  `create index rollouts_in_force on rollouts (organization_id, model_id, id desc)
     where state in ('active', 'paused', 'completed') and not covered`,
  `create index rollouts_due on rollouts (next_stage_at) where state = 'active'`,
  `create table rollout_history (
    id bigint generated always as identity primary key,
    rollout_id bigint not null references rollouts(id) on delete cascade,
    from_state text,
    to_state text not null,
    from_ratio double precision,
    to_ratio double precision not null,
    reason_code text,
    reason text,
    actor text not null,
    created_at timestamptz not null default now()
  )`,
  `create index rollout_history_of_rollout on rollout_history (rollout_id, id)`,

  `create table device_models (
    device_id text not null references devices(id),
    model_id text not null references models(id),
    rollout_id bigint references rollouts(id) on delete set null,
    version_id text references versions(id),
    active_version_id text references versions(id),
    previous_version_id text references versions(id),
    state text not null check (state in ('pending', 'downloading', 'waiting', 'active', 'failed', 'removed')),
    reason_code text,
    reason text,
    health jsonb not null default '{}',
    changed_at timestamptz not null default now(),
    reported_at timestamptz not null default now(),
    primary key (device_id, model_id)
  )`,
  `create index device_models_of_rollout on device_models (rollout_id, state) where rollout_id is not null`,
  `create index device_models_by_version on device_models (active_version_id) where active_version_id is not null`,

  `create table device_groups (
    id text primary key,
    organization_id text not null references organizations(id),
    name text not null,
    description text not null default '',
    created_at timestamptz not null default now(),
    unique (organization_id, name)
  )`,
  `create table device_group_members (
    group_id text not null references device_groups(id) on delete cascade,
    device_id text not null references devices(id),
    added_at timestamptz not null default now(),
    primary key (group_id, device_id)
  )`,
  `create index device_group_members_of_device on device_group_members (device_id)`,
  `alter table devices add column identity text not null default 'enrolled' check (identity in ('enrolled', 'shared'))`,
  `alter table devices add column facts jsonb not null default '{}'`,
  `alter table devices add column installed jsonb not null default '{}'`,
  `alter table api_keys add column signing_key text not null
     default gen_random_uuid()::text || gen_random_uuid()::text`,
  `alter table devices add column download_key text not null
     default gen_random_uuid()::text || gen_random_uuid()::text`,
  `create index devices_newest on devices (organization_id, created_at desc, id)`,
  `create table device_tokens (
    id text primary key,
    device_id text not null references devices(id),
    chain_id text not null,
    access_hash text not null unique,
    refresh_hash text not null unique,
    scopes jsonb not null,
    access_ttl_seconds integer not null,
    access_expires_at timestamptz not null,
    refresh_expires_at timestamptz not null,
    replaced_by text,
    reason text,
    created_at timestamptz not null default now(),
    revoked_at timestamptz
  )`,
  `create index device_tokens_of_device on device_tokens (device_id)`,
  `create index devices_by_identifier on devices (organization_id, device_identifier text_pattern_ops)`,
  `create index devices_by_label on devices using gin (labels jsonb_path_ops)`,
  `create index devices_in_session on devices (organization_id, created_at desc, id)
     where session_process_id is not null`,
  `create index devices_in_session_by_placement on devices (organization_id, placement, id)
     where status = 'active' and session_process_id is not null`,
  `create index devices_revoked on devices (organization_id, created_at desc, id) where status = 'revoked'`,

  `alter table federation_members add column invited_by text`,
  `alter table federation_members add column joined_at timestamptz`,
  `create index federations_of_member on federation_members (organization_id, status)`,
  `create table federation_models (
    federation_id text not null references federations(id),
    model_id text not null references models(id),
    shared_by text not null,
    created_at timestamptz not null default now(),
    primary key (federation_id, model_id)
  )`,
  `create index federation_models_of_model on federation_models (model_id)`,

  `create table audit_entries (
    id bigint generated always as identity primary key,
    organization_id text not null references organizations(id),
    actor text not null,
    action text not null,
    resource text not null,
    details jsonb not null default '{}',
    remote_address text,
    request_id text,
    created_at timestamptz not null default now()
  )`,
  `create index audit_entries_newest on audit_entries (organization_id, id desc)`,
  `create index audit_entries_of_resource on audit_entries (organization_id, resource text_pattern_ops, id desc)`,

  `alter table federations add column shared_identities boolean not null default true`,
  `alter table rounds add column open_for text`,
  `create unique index rounds_open_for on rounds (open_for) where state = 'collecting'`,
  `create table personalized_models (
    device_id text not null references devices(id),
    model_id text not null,
    object_key text not null,
    sha256 text not null,
    size_bytes bigint not null,
    version text not null,
    metrics jsonb not null default '{}',
    updated_at timestamptz not null default now(),
    primary key (device_id, model_id)
  )`,

  `create table idempotency_keys (
    organization_id text not null references organizations(id),
    caller text not null,
    key text not null,
    route text not null,
    request_hash text not null,
    status integer,
    body text,
    locked_until timestamptz not null,
    created_at timestamptz not null default now(),
    primary key (organization_id, caller, key)
  )`,
  `create index idempotency_keys_by_age on idempotency_keys (created_at)`,
];
