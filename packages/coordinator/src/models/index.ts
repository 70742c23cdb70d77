export { registerModelRoutes } from './model-routes.js';
export { type Model, ModelStore } from './model-store.js';
export { DOCUMENT_FORMAT, Registry, type RegistryOptions, WEIGHTS_FORMAT } from './registry.js';
export { registerVersionRoutes, type VersionRoutesOptions } from './version-routes.js';
export { type Version, VersionStore, type VersionWithArtifacts } from './version-store.js';
export { VersionUploads, type VersionUploadsOptions } from './version-upload.js';
