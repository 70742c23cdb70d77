import type { Model } from './model-store.js';
import { artifactOf, WEIGHTS_FORMAT } from './registry.js';
import type { Artifact, VersionWithArtifacts } from './version-store.js';

/** The file that stands for a version: its weights, or whatever was uploaded. */
export function mainArtifact(version: VersionWithArtifacts): Artifact | undefined {
  return artifactOf(version, WEIGHTS_FORMAT) ?? version.artifacts[0];
}

/** A model as the documents show it, with the figures of its newest version. */
export function modelJson(model: Model, newest: VersionWithArtifacts | undefined): Record<string, unknown> {
  const artifact = newest === undefined ? undefined : mainArtifact(newest);
  return {
    id: model.id,
    name: model.name,
    framework: model.framework,
    framework_version: model.framework_version,
    use_case: model.use_case,
    description: model.description,
    is_baseline: model.is_baseline,
    architecture: model.architecture,
    target: model.target,
    round_id: null,
    model_path: artifact?.object_key ?? null,
    model_size_bytes: artifact?.size_bytes ?? null,
    model_hash: artifact === undefined ? null : `sha256:${artifact.sha256}`,
    accuracy: newest?.metrics['accuracy'] ?? null,
    loss: newest?.metrics['loss'] ?? null,
    latest_version: newest?.version ?? null,
    created_at: model.created_at.toISOString(),
  };
}

export function versionJson(version: VersionWithArtifacts): Record<string, unknown> {
  const artifact = mainArtifact(version);
  const artifacts = version.artifacts.map(({ format, file_name, sha256, size_bytes }) => ({
    format,
    file_name,
    sha256,
    size_bytes,
  }));
  return {
    id: version.id,
    model_id: version.model_id,
    version: version.version,
    sequence: version.sequence,
    status: version.status,
    description: version.description,
    base_version_id: version.base_version_id,
    checkpoint_id: version.checkpoint_id,
    session_id: version.session_id,
    lineage: version.lineage,
    metrics: version.metrics,
    format: artifact?.format ?? null,
    model_path: artifact?.object_key ?? null,
    model_size_bytes: artifact?.size_bytes ?? null,
    model_hash: artifact === undefined ? null : `sha256:${artifact.sha256}`,
    artifacts,
    formats: Object.fromEntries(artifacts.map(({ format, ...info }) => [format, info])),
    created_at: version.created_at.toISOString(),
    uploaded_at: version.created_at.toISOString(),
    published_at: version.published_at?.toISOString() ?? null,
  };
}
