export { type ClientErrorFields, OctomilClientError } from './client-error.js';
export { type ClientOptions, DEFAULT_API_BASE, type Timing } from './client-options.js';
export {
  type DryRunReport,
  type DryRunSite,
  Federation,
  type FederationOptions,
  type WatchOptions,
} from './federation.js';
export {
  type EnsureModelOptions,
  type Model,
  ModelRegistry,
  type ModelVersion,
  type PulledModel,
  type UploadOptions,
} from './model-registry.js';
export { type EnrollmentTokenOptions, type Listed, Organization } from './organization.js';
export { type EventStreamOptions, TRAINING_EVENT_TYPES, type TrainingEvent } from './session-events.js';
export type { HoldoutOptions, LocalTrainingOptions, TrainingOptions } from './training-options.js';
export { openRun, type ResultOptions, TrainingRun } from './training-run.js';
export type {
  Metrics,
  RoundMetrics,
  SessionStatus,
  TrainingResult,
  TrainingRound,
  TrainingSession,
} from './training-session.js';
