import type { ColumnType, Generated } from 'kysely';
import type { Json, JsonObject, NullableTimestamp, Timestamp } from './column-types.js';

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

/** What a site first told of its drift from a feature spec: later reports are compared with it. */
export interface FirstDriftTable {
  organization_id: string;
  federation_id: string;
  feature_spec_hash: string;
  /** As sessions name it; empty where they name none. */
  data_set: string;
  device_id: string;
  /** Of which it is the report: none is compared with itself. */
  round_id: string;
  /** As kept of a round (`DriftReport`). */
  columns: Json<JsonObject[]>;
  created_at: Timestamp;
}
