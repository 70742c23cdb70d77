export { type DeviceIdentity, revoked } from './credential-check.js';
export type { DesiredModelFacts, DesiredSource, ReportedModel } from './desired-source.js';
export { type DeviceApiOptions, registerDeviceApi } from './device-api.js';
export type { DeviceRecord, DeviceRecords } from './device-records.js';
export {
  type CapabilityValue,
  type DeviceSelector,
  matchesSelector,
  parseSelector,
  type SelectableDevice,
  selectorSql,
} from './device-selector.js';
export { createDeviceService, type DeviceService, type DeviceServiceOptions } from './device-service.js';
export type { Enrollment, EnrollmentRequest } from './enrollment.js';
export type { HeldEpoch } from './presence.js';
export { type DeviceRoutesOptions, registerDeviceRoutes } from './routes.js';
export { type DevicePush, type HeldSession, SessionHub } from './session-hub.js';
export type { StoredCapabilities, StoredDataSet, StoredPolicyRule, StoredSite } from './site-summary.js';
