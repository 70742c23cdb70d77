import type { InferenceAggregatesTable, InferenceEventsTable, RoutingPoliciesTable } from './inference-tables.js';
import type {
  ArtifactsTable,
  ArtifactUploadsTable,
  ConversionsTable,
  ModelsTable,
  PersonalizedModelsTable,
  VersionsTable,
} from './model-tables.js';
import type {
  ApiKeysTable,
  AuditEntriesTable,
  DeviceGroupMembersTable,
  DeviceGroupsTable,
  DevicesTable,
  DeviceTokensTable,
  EnrollmentTokensTable,
  FederationMembersTable,
  FederationModelsTable,
  FederationsTable,
  IdempotencyKeysTable,
  OrganizationsTable,
} from './organization-tables.js';
import type { DeviceModelsTable, RolloutHistoryTable, RolloutsTable } from './rollout-tables.js';
import type {
  AssignmentsTable,
  CheckpointsTable,
  FeatureProposalsTable,
  FeatureSpecsTable,
  FirstDriftTable,
  RoundsTable,
  SessionEventsTable,
  SiteStatisticsTable,
  TrainingSessionsTable,
  UpdatesTable,
  UploadTicketsTable,
} from './training-tables.js';

export type { JsonObject } from './column-types.js';
export type * from './inference-tables.js';
export type * from './model-tables.js';
export type * from './organization-tables.js';
export type * from './rollout-tables.js';
export type * from './training-tables.js';

/**
 * The rows. Rows are the truth and jobs are wake-ups: every transition is an update that names the state it expects.
 * Times are the database's `now()`; identifiers are UUIDs as text.
 */
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
  first_drift: FirstDriftTable;
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
