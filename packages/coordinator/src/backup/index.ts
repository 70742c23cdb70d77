export { type BackupOptions, createBackup } from './create-backup.js';
export type { Manifest as BackupManifest } from './manifest.js';
export { type RestoreOptions, restoreBackup } from './restore-backup.js';
export { type BackupSettings, backupCoordinator, restoreCoordinator } from './run-backup.js';
