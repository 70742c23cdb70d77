export {
  ASSIGNMENTS_CHANNEL,
  type AssignmentKey,
  type AssignmentPort,
  EVENTS_CHANNEL,
  PRESENCE_CHANNEL,
  type UpdateBytes,
  type UpdateHeaderFields,
  type Verdict,
} from './assignment-port.js';
export { awaitSession } from './await-session.js';
export { whenClosed } from './connection.js';
export {
  createTrainingEngine,
  type TrainingEngine,
  type TrainingEngineOptions,
  type TrainingSettings,
} from './engine.js';
export { type AgreementRequest, agreeOnFeatures, fitOutput } from './feature-agreement.js';
export { type OpenRoutesOptions, registerOpenRoutes } from './open-routes.js';
export type {
  ClientFormats,
  ConfirmedSpec,
  ConfirmedSpecs,
  CreatedVersion,
  StoredFile,
  TrainingAggregator,
  TrainingBase,
  TrainingRegistry,
  VersionRequest,
} from './ports.js';
export { registerTrainingRoutes } from './routes.js';
export { parseSessionConfig, SESSION_DEFAULTS, SessionBody, type SessionConfig } from './session-config.js';
