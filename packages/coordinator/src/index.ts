export { Aggregator } from './aggregation/index.js';
export { type BackupManifest, type BackupSettings, backupCoordinator, restoreCoordinator } from './backup/index.js';
export { type CoordinatorConfig, readCoordinatorConfig, redactedCoordinatorConfig } from './config.js';
export { type Coordinator, type CoordinatorOptions, startCoordinator } from './start-coordinator.js';
