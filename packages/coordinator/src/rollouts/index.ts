export type { DesiredArtifact, DesiredDeviceModel, DesiredModels } from './desired.js';
export type { DesiredListener } from './held-devices.js';
export { type ObservedDeviceModel, parseObserved, type RawObservedModel } from './observed.js';
export {
  createRolloutService,
  type DesiredPort,
  type DownloadPort,
  type RolloutService,
  type RolloutServiceOptions,
  type RolloutSettings,
} from './rollout-service.js';
export { type RolloutRoutesOptions, registerRolloutRoutes } from './routes.js';
