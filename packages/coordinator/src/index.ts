export { Aggregator } from './aggregation/index.js';
export { type BackupManifest, type BackupSettings, backupCoordinator, restoreCoordinator } from './backup/index.js';
export { type CoordinatorConfig, readCoordinatorConfig, redactedCoordinatorConfig } from './config.js';
// For benchmarks of what depends on the number of devices.
export { type OpenDatabase, openDatabase } from './database/index.js';
export { DeviceRecords } from './devices/device-records.js';
export { AffectedDevices } from './rollouts/affected-devices.js';
export { type Coordinator, type CoordinatorOptions, startCoordinator } from './start-coordinator.js';
export { DeviceSelector } from './training/selection.js';
