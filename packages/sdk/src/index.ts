export { type AuditEntry, type AuditFilter, AuditLog, type AuditPage } from './audit-log.js';
export * from './batch.js';
export { Client } from './client.js';
export { type ClientErrorFields, OctomilClientError } from './client-error.js';
export { type AuthTokenProvider, type ClientOptions, DEFAULT_API_BASE, type Timing } from './client-options.js';
export type { Device, OfDevice } from './devices/device.js';
export { type DeviceListOptions, Devices } from './devices/devices.js';
export { type DeviceGroup, Groups, type OfGroup } from './devices/groups.js';
export {
  type DriftReport,
  type FeatureHint,
  type FeatureHints,
  type FeatureProposal,
  type FeatureSpecJson,
  type LeftOutColumn,
  PROPOSAL_STATES,
  type ProposalState,
  type ProposalSummary,
  type ProposedColumn,
  type RoundDrift,
  type SiteDriftReport,
} from './features/feature-proposal.js';
export { Features, type ProposalFilter, type ProposeOptions } from './features/features.js';
export {
  type DeployOptions,
  type DryRunReport,
  type DryRunSite,
  Federation,
  type FederationMember,
  type FederationOptions,
  type WatchOptions,
} from './federation.js';
export * from './inference/index.js';
export { FederatedClient, type FederatedClientOptions, type RegisterOptions } from './local/federated-client.js';
export type {
  ClientUpdateResult,
  JoinRoundOptions,
  LocalRound,
  LocalTrainFn,
  LocalTrainResult,
  PersonalModel,
  RemoteTrainOptions,
  TrainDataOptions,
} from './local/options.js';
export type { RoundRules } from './local/round-rules.js';
export type { StateDict, Weights, WeightsLike } from './local/weights.js';
export { type EnsureModelOptions, ModelRegistry } from './model-registry.js';
export type { Conversions, ReadyOptions } from './models/conversions.js';
export type {
  Conversion,
  Model,
  ModelFields,
  ModelFilter,
  ModelVersion,
  OfVersion,
  Paging,
  VersionStatus,
} from './models/model.js';
export type { PulledFile, PulledModel, PullOptions, PullToPathOptions } from './models/pull.js';
export type { BlobUploadOptions, NewVersion, UploadOptions, UploadTicket } from './models/push.js';
export * from './octoai/index.js';
export { type EnrollmentTokenOptions, type Listed, Organization } from './organization.js';
export {
  type AffectedDevice,
  type DeviceSelector,
  type HealthGates,
  isFinished,
  ROLLOUT_STATUSES,
  type Rollout,
  type RolloutChange,
  type RolloutDevices,
  type RolloutSettings,
  type RolloutStatus,
} from './rollouts/rollout.js';
export {
  type AffectedDevicesPage,
  type OfModel,
  type OfRollout,
  RolloutsApi,
  type RolloutWatchOptions,
} from './rollouts/rollouts-api.js';
export * from './routing.js';
export { type EventStreamOptions, TRAINING_EVENT_TYPES, type TrainingEvent } from './session-events.js';
export type {
  HoldoutOptions,
  LocalTrainingOptions,
  PersonalizationOptions,
  TrainingOptions,
} from './training-options.js';
export { openRun, type ResultOptions, TrainingRun } from './training-run.js';
export type {
  Metrics,
  RoundMetrics,
  SessionStatus,
  TrainingResult,
  TrainingRound,
  TrainingSession,
} from './training-session.js';
