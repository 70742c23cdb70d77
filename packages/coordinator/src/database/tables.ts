import type { ColumnType, Generated, JSONColumnType } from 'kysely';

/**
 * The rows. Rows are the truth and jobs are wake-ups: every transition is an update that names the state it expects.
 * Times are the database's `now()`; identifiers are UUIDs as text.
 */

type Timestamp = ColumnType<Date, Date | string | undefined, Date | string>;
type NullableTimestamp = ColumnType<Date | null, Date | string | null | undefined, Date | string | null>;
type Json<T extends object> = JSONColumnType<T, string, string>;
type NullableJson<T extends object> = ColumnType<T | null, string | null | undefined, string | null>;

export type JsonObject = Record<string, unknown>;

export interface OrganizationsTable {
  id: string;
  name: string;
  created_at: Timestamp;
}

export interface ApiKeysTable {
  id: string;
  organization_id: string;
  name: string;
  /** First characters, to tell keys apart in a list. */
  prefix: string;
  /** SHA-256 of the key, hexadecimal. Keys hold 256 random bits, so a slow hash would add nothing. */
  key_hash: string;
  /** Signs the addresses made for this key. Unlike the hash, nobody outside can compute it. */
  signing_key: Generated<string>;
  scopes: Json<string[]>;
  created_at: Timestamp;
  last_used_at: NullableTimestamp;
  revoked_at: NullableTimestamp;
}

export interface EnrollmentTokensTable {
  id: string;
  organization_id: string;
  token_hash: string;
  labels: Json<Record<string, string>>;
  /** The only device it enrols; null for any device that is new. */
  device_identifier: string | null;
  expires_at: Timestamp;
  used_at: NullableTimestamp;
  used_by_device_id: string | null;
  created_at: Timestamp;
}

export interface DevicesTable {
  id: string;
  organization_id: string;
  device_identifier: string;
  credential_hash: string | null;
  /** Uniform in [0, 1), for selection by ranges and for rollouts. */
  placement: number;
  /** What the site says of itself, overlaid by `enrolled_labels`. */
  labels: Json<Record<string, string>>;
  /** What the organization wrote on the token. */
  enrolled_labels: ColumnType<Record<string, string>, string | undefined, string>;
  capabilities: Json<JsonObject>;
  /** `SiteSummary` of the last hello: data sets (name, rounded row count, digest, problem) and policy rules. */
  site: Json<JsonObject>;
  agent_version: string | null;
  status: 'active' | 'revoked';
  /** `shared`: registered with the organization's key, as published clients do; a federation may refuse those. */
  identity: Generated<'enrolled' | 'shared'>;
  /** What a published client says of its machine (`platform`, `os_version`, `battery_pct` …). */
  facts: ColumnType<JsonObject, string | undefined, string>;
  /** Inventory that a published client reports; agents report rows of `device_models`. */
  installed: ColumnType<JsonObject, string | undefined, string>;
  /** Secret by which download addresses are signed for the device; another one once it is revoked. */
  download_key: Generated<string>;
  session_epoch: Generated<number>;
  /** Random per agent process; null while no session holds the device. */
  session_process_id: string | null;
  session_host: string | null;
  session_coordinator_id: string | null;
  /** When the session in hand was opened. */
  session_since: NullableTimestamp;
  lease_until: NullableTimestamp;
  last_seen_at: NullableTimestamp;
  created_at: Timestamp;
  revoked_at: NullableTimestamp;
}

export interface FederationsTable {
  id: string;
  organization_id: string;
  name: string;
  description: string;
  /** Whether devices that were only registered, under an organization's key, may take part. */
  shared_identities: Generated<boolean>;
  created_at: Timestamp;
}

export interface FederationMembersTable {
  federation_id: string;
  organization_id: string;
  status: 'invited' | 'active';
  invited_by: string | null;
  joined_at: NullableTimestamp;
  created_at: Timestamp;
}

/** A model of one member that the whole federation may read. */
export interface FederationModelsTable {
  federation_id: string;
  model_id: string;
  /** The organization that shared it: its owner. */
  shared_by: string;
  created_at: Timestamp;
}

export interface ModelsTable {
  id: string;
  organization_id: string;
  name: string;
  framework: string | null;
  framework_version: string | null;
  use_case: string | null;
  description: string;
  is_baseline: Generated<boolean>;
  /** Architecture document, once known: from the caller or from the first training session. */
  architecture: NullableJson<JsonObject>;
  /** Such as `num>0`. */
  target: string | null;
  created_at: Timestamp;
  /** A deleted model that was trained: its row stays for the record of its trainings, its name is free again. */
  deleted_at: NullableTimestamp;
}

/** `converting`: formats that were asked for do not exist yet, so it cannot be published. */
export type VersionStatus = 'validating' | 'converting' | 'draft' | 'published' | 'deprecated';

export interface VersionsTable {
  id: string;
  model_id: string;
  /** 1, 2, 3 … within the model. */
  sequence: number;
  /** Semantic version. */
  version: string;
  status: VersionStatus;
  description: string;
  base_version_id: string | null;
  checkpoint_id: string | null;
  session_id: string | null;
  /** Base, strategy, participants' digests, rounds, backend, feature spec hash. */
  lineage: Json<JsonObject>;
  metrics: Json<JsonObject>;
  /** `key:<id>` or `session:<id>`; null for versions made before it was kept. */
  created_by: string | null;
  created_at: Timestamp;
  published_at: NullableTimestamp;
}

export type ConversionState = 'pending' | 'running' | 'ready' | 'failed';

/** One format that a version was asked for. Its bytes are the artifact of the same format, once `ready`. */
export interface ConversionsTable {
  version_id: string;
  format: string;
  state: ConversionState;
  attempt: Generated<number>;
  reason_code: string | null;
  reason: string | null;
  /** Which coordinator converts, and until when it may be believed to. */
  owner: string | null;
  owner_until: NullableTimestamp;
  created_at: Timestamp;
  updated_at: Timestamp;
}

export type RolloutState = 'draft' | 'active' | 'paused' | 'completed' | 'rolling_back' | 'rolled_back' | 'failed';

/**
 * A staged deployment. A device should run the version of the newest rollout of a model that is active, paused or
 * completed, whose selector it matches and in whose share it is: `(placement + placement_offset) mod 1 < share_ratio`.
 * Taking a rollout back is therefore one change of its state.
 */
export interface RolloutsTable {
  id: Generated<number>;
  organization_id: string;
  model_id: string;
  version_id: string;
  /** What most devices ran when it started: the reference of metric gates. Null when it was the first. */
  previous_version_id: string | null;
  state: RolloutState;
  /** 0 to 1, as all ratios here; REST speaks of percentages. */
  share_ratio: number;
  initial_ratio: number;
  target_ratio: number;
  increment_ratio: number;
  /** Null: it is advanced by hand. */
  advance_every_seconds: number | null;
  placement_offset: number;
  selector: Json<JsonObject>;
  gates: Json<JsonObject>;
  /** Goes up with every growth of the share. */
  stage: Generated<number>;
  stage_started_at: NullableTimestamp;
  next_stage_at: NullableTimestamp;
  /** A later rollout is completed at 100 % without a selector: this one can never decide again. */
  covered: Generated<boolean>;
  reason_code: string | null;
  reason: string | null;
  created_by: string;
  created_at: Timestamp;
  started_at: NullableTimestamp;
  finished_at: NullableTimestamp;
  updated_at: Timestamp;
}

export interface RolloutHistoryTable {
  id: Generated<number>;
  rollout_id: number;
  from_state: RolloutState | null;
  to_state: RolloutState;
  from_ratio: number | null;
  to_ratio: number;
  reason_code: string | null;
  reason: string | null;
  /** `key:<id>` or `coordinator`. */
  actor: string;
  created_at: Timestamp;
}

/** `waiting`: downloaded, but the device's own rules (battery, hours, disk) hold the activation back. */
export type DeviceModelState = 'pending' | 'downloading' | 'waiting' | 'active' | 'failed' | 'removed';

/** What a device last said of one model. What it should run is computed, never stored. */
export interface DeviceModelsTable {
  device_id: string;
  model_id: string;
  /** The rollout that asked for `version_id`. */
  rollout_id: number | null;
  /** What it is to run, as far as it knows. */
  version_id: string | null;
  active_version_id: string | null;
  previous_version_id: string | null;
  state: DeviceModelState;
  reason_code: string | null;
  reason: string | null;
  /** `DeviceModelHealth` of `version_id` since its activation. */
  health: ColumnType<JsonObject, string | undefined, string>;
  /** When `state` or `version_id` last changed. */
  changed_at: Timestamp;
  reported_at: Timestamp;
}

export interface DeviceGroupsTable {
  id: string;
  organization_id: string;
  name: string;
  description: string;
  created_at: Timestamp;
}

export interface DeviceGroupMembersTable {
  group_id: string;
  device_id: string;
  added_at: Timestamp;
}

/** Short-lived access token and the refresh token that buys the next pair. Hashes only. */
export interface DeviceTokensTable {
  id: string;
  device_id: string;
  /** The same for all pairs that one bootstrap led to. */
  chain_id: string;
  access_hash: string;
  refresh_hash: string;
  scopes: Json<string[]>;
  access_ttl_seconds: number;
  access_expires_at: Timestamp;
  refresh_expires_at: Timestamp;
  /** The pair that its refresh bought; a second use of the same refresh token revokes the whole chain. */
  replaced_by: string | null;
  reason: string | null;
  created_at: Timestamp;
  revoked_at: NullableTimestamp;
}

/** Who changed what, from where. Never updated, never deleted by the product. */
export interface AuditEntriesTable {
  id: Generated<number>;
  organization_id: string;
  /** `key:<id>`, `device:<id>` or `coordinator`. */
  actor: string;
  /** Such as `POST /api/v1/models` or `rollout.rolled_back`. */
  action: string;
  /** Such as `models/<id>`. */
  resource: string;
  details: ColumnType<JsonObject, string | undefined, string>;
  remote_address: string | null;
  request_id: string | null;
  created_at: Timestamp;
}

/** Weights that a device keeps to itself here, one for each model. */
export interface PersonalizedModelsTable {
  device_id: string;
  /** Empty where the device did not say. */
  model_id: string;
  object_key: string;
  sha256: string;
  size_bytes: number;
  /** Version of the model that it was made from. */
  version: string;
  metrics: Json<JsonObject>;
  updated_at: Timestamp;
}

/** The answer to a POST under its `Idempotency-Key`; without `status` it is still being worked on. */
export interface IdempotencyKeysTable {
  organization_id: string;
  caller: string;
  key: string;
  route: string;
  request_hash: string;
  status: number | null;
  body: string | null;
  locked_until: Timestamp;
  created_at: Timestamp;
}

export interface ArtifactsTable {
  version_id: string;
  /** `safetensors`, `model.json`, or the format of an uploaded file. */
  format: string;
  file_name: string;
  object_key: string;
  sha256: string;
  size_bytes: number;
  created_at: Timestamp;
}

export interface FeatureSpecsTable {
  hash: string;
  organization_id: string;
  /** Canonical JSON text: the hash is over these very bytes. */
  document: string;
  created_at: Timestamp;
}

export type ProposalState = 'proposed' | 'confirmed' | 'superseded' | 'rejected';

/** A feature spec that waits for a person, or that a person has confirmed: at most one for a federation, model and target. */
export interface FeatureProposalsTable {
  id: string;
  organization_id: string;
  federation_id: string;
  model_id: string;
  /** In which the sites described their columns. */
  session_id: string;
  /** As `formatTargetRule` writes it. */
  target: string;
  state: ColumnType<ProposalState, ProposalState | undefined, ProposalState>;
  /** What was asked for beside the target (`ProposalRequest`). */
  request: Json<JsonObject>;
  /** What each site told (`SiteEntry`), so that an edited spec can be held against it. */
  sites: Json<JsonObject[]>;
  warnings: Json<string[]>;
  /** Of `document`; differs from `proposed_hash` where a person has edited it. */
  spec_hash: string;
  /** Canonical JSON text of the spec, as in `feature_specs`. */
  document: string;
  proposed_hash: string;
  created_by: string;
  created_at: Timestamp;
  confirmed_by: string | null;
  confirmed_at: NullableTimestamp;
  /** Who rejected it, or confirmed the one in its place. */
  ended_by: string | null;
  ended_at: NullableTimestamp;
  reason: string | null;
}

export type SessionState = 'running' | 'paused' | 'completed' | 'failed' | 'cancelled';

export interface TrainingSessionsTable {
  id: string;
  organization_id: string;
  federation_id: string;
  model_id: string;
  state: SessionState;
  /** `assigned`: agents are selected. `open`: published clients upload unasked. */
  admission: 'assigned' | 'open';
  /** Everything that was asked for, with defaults filled in (`SessionConfig`). */
  config: Json<JsonObject>;
  base_version_id: string | null;
  new_version: string | null;
  result_version_id: string | null;
  feature_spec_hash: string | null;
  /** Why it is in its state, for people and programs. */
  reason_code: string | null;
  reason: string | null;
  created_by: string;
  created_at: Timestamp;
  updated_at: Timestamp;
  finished_at: NullableTimestamp;
}

export type RoundKind = 'describe' | 'train' | 'evaluate';

export type RoundState =
  | 'scheduled'
  | 'selecting'
  | 'collecting'
  | 'aggregating'
  | 'completed'
  | 'insufficient_updates'
  | 'failed'
  | 'cancelled';

export interface RoundsTable {
  id: string;
  session_id: string;
  kind: RoundKind;
  /** Describe 0; training 1 to N; evaluation of the result N + 1. */
  number: number;
  /** 1 for the first try; a retry of a round is a new row. */
  attempt: number;
  state: RoundState;
  /** Seed of the selection and of the agents' local training. */
  seed: number;
  base_checkpoint_id: string | null;
  checkpoint_id: string | null;
  min_updates: number;
  /** How many devices were asked at first: `ceil(min_updates × over_selection)`. */
  target_devices: number;
  /** Accepted answers so far. Counted on the row itself, so that exactly one of them sees the quorum reached. */
  accepted_updates: Generated<number>;
  /** Which automatic retry this is: 0 for a first try, also after a resume. */
  retries: Generated<number>;
  deadline_at: NullableTimestamp;
  reason_code: string | null;
  reason: string | null;
  /** Loss, accuracy, AUC and count, per site and overall. */
  metrics: Json<JsonObject>;
  /** Model and base that uploads of open admission are for; one collecting round for each. Null: agents are asked. */
  open_for: ColumnType<string | null, string | null | undefined, string | null>;
  /** Which coordinator aggregates, and until when it may be believed to. */
  owner: string | null;
  owner_until: NullableTimestamp;
  created_at: Timestamp;
  started_at: NullableTimestamp;
  finished_at: NullableTimestamp;
}

export type AssignmentState = 'open' | 'accepted' | 'done' | 'refused' | 'failed' | 'expired' | 'cancelled';

export interface AssignmentsTable {
  id: string;
  round_id: string;
  device_id: string;
  /** Goes up when the same device is asked again in the same round; older attempts are answered `superseded`. */
  attempt: number;
  /** open: not yet acknowledged; accepted: the agent works on it; the others are final. */
  state: AssignmentState;
  /** Without progress until then, the assignment expires and somebody else is asked. */
  lease_until: Timestamp;
  phase: string | null;
  completed: Generated<number>;
  total: Generated<number>;
  reason_code: string | null;
  reason: string | null;
  created_at: Timestamp;
  updated_at: Timestamp;
}

export interface UpdatesTable {
  id: string;
  round_id: string;
  device_id: string;
  assignment_id: string;
  state: 'received' | 'accepted' | 'rejected';
  format: 'delta' | 'weights';
  /** Holds ticket or assignment, and digest: an accepted update cannot be swapped. Null for reports. */
  object_key: string | null;
  sha256: string;
  size_bytes: number;
  sample_count: number;
  /** What counts in the mean: the sample count after capping. */
  weight: number;
  /** Training metrics and evaluation; the whole report for describe and evaluate rounds. */
  metrics: Json<JsonObject>;
  reason_code: string | null;
  reason: string | null;
  created_at: Timestamp;
}

export interface UploadTicketsTable {
  id: string;
  assignment_id: string;
  device_id: string;
  token_hash: string;
  header: Json<JsonObject>;
  size_bytes: number;
  sha256: string;
  part_size_bytes: number;
  part_count: number;
  /** `arrived`: in the bucket, and looked at by a job. */
  state: 'open' | 'arrived' | 'completed' | 'abandoned';
  expires_at: Timestamp;
  created_at: Timestamp;
  claimed_by: string | null;
  claimed_until: Timestamp | null;
  attempts: Generated<number>;
  /** Why it does not count. */
  problem: Json<JsonObject> | null;
}

export interface ArtifactUploadsTable {
  id: string;
  storage_key: string;
  model_id: string;
  /** Of the version that it is or will be a file of; null until it arrived. */
  version_id: string | null;
  format: string | null;
  /** Its file name, who may send it, and what was asked when it was confirmed. */
  header: Json<JsonObject>;
  size_bytes: number;
  part_size_bytes: number;
  part_count: number;
  /** `arrived`: in the bucket, and looked at by a job. */
  state: 'open' | 'arrived' | 'completed' | 'abandoned';
  expires_at: Timestamp;
  created_at: Timestamp;
  claimed_by: string | null;
  claimed_until: Timestamp | null;
  attempts: Generated<number>;
  /** Why it does not count. */
  problem: Json<JsonObject> | null;
}

export interface CheckpointsTable {
  id: string;
  organization_id: string;
  session_id: string | null;
  round_id: string | null;
  base_checkpoint_id: string | null;
  object_key: string;
  sha256: string;
  size_bytes: number;
  strategy: string | null;
  strategy_state_key: string | null;
  strategy_state_sha256: string | null;
  lineage: Json<JsonObject>;
  created_at: Timestamp;
}

export interface SessionEventsTable {
  /** The `id` of the server-sent event. */
  id: Generated<number>;
  session_id: string;
  type: string;
  data: Json<JsonObject>;
  created_at: Timestamp;
}

/** What a site answered to a describe assignment, kept per data digest and target so that it is asked once. */
export interface SiteStatisticsTable {
  device_id: string;
  data_set: string;
  digest: string;
  /** Hash of target, markers and options: another question is another answer. */
  question_hash: string;
  statistics: Json<JsonObject>;
  created_at: Timestamp;
}

/** What was said of one generation; an event of a type counts once for each session. Never prompts or answers. */
export interface InferenceEventsTable {
  organization_id: string;
  session_id: string;
  event_type: 'generation_started' | 'generation_completed' | 'generation_failed';
  /** Of the registry, where it has the model; else the name that was said. */
  model_id: string;
  /** Semantic version, where the registry has it; else as it was said. */
  version: string;
  version_id: string | null;
  /** Of a registered device, else as it was said; empty where nobody said it. */
  device_id: string;
  modality: string;
  metrics: Json<JsonObject>;
  error_code: string | null;
  occurred_at: Timestamp;
  created_at: Timestamp;
}

/** Events added up by model, version, device and hour. */
export interface InferenceAggregatesTable {
  organization_id: string;
  model_id: string;
  version: string;
  device_id: string;
  hour: Timestamp;
  version_id: string | null;
  started: number;
  completed: number;
  failed: number;
  chunks: number;
  prompt_tokens: number;
  completion_tokens: number;
  /** Sum over the completed. */
  duration_ms: number;
  ttfc_ms: number;
  ttfc_count: number;
  /** Counts by bucket of the histogram, without the empty ones. */
  duration_buckets: Json<Record<string, number>>;
  ttfc_buckets: Json<Record<string, number>>;
}

export interface RoutingPoliciesTable {
  organization_id: string;
  /** Goes up with every change. */
  version: Generated<number>;
  policy: Json<JsonObject>;
  updated_at: Timestamp;
}

export interface Tables {
  organizations: OrganizationsTable;
  api_keys: ApiKeysTable;
  enrollment_tokens: EnrollmentTokensTable;
  devices: DevicesTable;
  federations: FederationsTable;
  federation_members: FederationMembersTable;
  models: ModelsTable;
  versions: VersionsTable;
  artifacts: ArtifactsTable;
  feature_specs: FeatureSpecsTable;
  feature_proposals: FeatureProposalsTable;
  training_sessions: TrainingSessionsTable;
  rounds: RoundsTable;
  assignments: AssignmentsTable;
  updates: UpdatesTable;
  upload_tickets: UploadTicketsTable;
  artifact_uploads: ArtifactUploadsTable;
  checkpoints: CheckpointsTable;
  session_events: SessionEventsTable;
  site_statistics: SiteStatisticsTable;
  federation_models: FederationModelsTable;
  conversions: ConversionsTable;
  rollouts: RolloutsTable;
  rollout_history: RolloutHistoryTable;
  device_models: DeviceModelsTable;
  device_groups: DeviceGroupsTable;
  device_group_members: DeviceGroupMembersTable;
  device_tokens: DeviceTokensTable;
  audit_entries: AuditEntriesTable;
  idempotency_keys: IdempotencyKeysTable;
  personalized_models: PersonalizedModelsTable;
  inference_events: InferenceEventsTable;
  inference_aggregates: InferenceAggregatesTable;
  routing_policies: RoutingPoliciesTable;
}
