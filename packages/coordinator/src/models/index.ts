export { ArtifactObjects, artifactKey, lockObject } from './artifact-objects.js';
export type { VersionConversions } from './conversion-port.js';
export { type Model, ModelStore } from './model-store.js';
export { DOCUMENT_FORMAT, Registry, type RegistryOptions, WEIGHTS_FORMAT } from './registry.js';
export { createRegistryRoutes, type RegistryRoutesOptions } from './registry-routes.js';
export { type Version, VersionStore, type VersionWithArtifacts } from './version-store.js';
