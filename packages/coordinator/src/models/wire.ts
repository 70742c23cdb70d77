import { parseTargetRule } from '@octomil/shared/features';
import type { JsonObject } from '../database/tables.js';
import type { Model } from './model-store.js';
import { artifactOf, DOCUMENT_FORMAT, WEIGHTS_FORMAT } from './registry.js';
import type { Artifact, VersionWithArtifacts } from './version-store.js';

/** A second file that belongs to the first, such as ONNX's external data. */
export const COMPANION_FORMAT = 'onnx_data';

/** The file that stands for a version: its weights, or what was uploaded first; never what was converted from it. */
export function mainArtifact(version: VersionWithArtifacts): Artifact | undefined {
  const converted = new Set(version.conversions.map(({ format }) => format));
  const originals = version.artifacts.filter(({ format }) => !converted.has(format));
  const first = originals.find(({ format }) => format !== COMPANION_FORMAT && format !== DOCUMENT_FORMAT);
  return artifactOf(version, WEIGHTS_FORMAT) ?? first ?? originals[0] ?? version.artifacts[0];
}

/** A model as the documents show it, with the figures of its newest version. */
export function modelJson(model: Model, newest: VersionWithArtifacts | undefined): Record<string, unknown> {
  return {
    id: model.id,
    name: model.name,
    org_id: model.organization_id,
    framework: model.framework,
    framework_version: model.framework_version,
    use_case: model.use_case,
    description: model.description,
    is_baseline: model.is_baseline,
    architecture: architectureJson(model),
    target: model.target,
    round_id: newest?.round_id ?? null,
    ...fileJson(newest === undefined ? undefined : mainArtifact(newest)),
    accuracy: figure(newest?.metrics, 'accuracy'),
    loss: figure(newest?.metrics, 'loss'),
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
    semantic_version: version.version,
    sequence: version.sequence,
    status: version.status,
    description: version.description,
    base_version_id: version.base_version_id,
    checkpoint_id: version.checkpoint_id,
    session_id: version.session_id,
    round_id: version.round_id,
    lineage: version.lineage,
    metrics: version.metrics,
    format: artifact?.format ?? null,
    ...fileJson(artifact),
    artifacts,
    formats: Object.fromEntries(artifacts.map(({ format, ...info }) => [format, info])),
    checksums: Object.fromEntries(artifacts.map(({ format, sha256 }) => [format, sha256])),
    conversions: version.conversions.map(({ version_id: _, ...conversion }) => conversion),
    created_by: version.created_by,
    created_at: version.created_at.toISOString(),
    uploaded_at: version.created_at.toISOString(),
    published_at: version.published_at?.toISOString() ?? null,
  };
}

/** As the documented pages show a version: `version` is its number. The semantic one stands beside it. */
export function numberedVersionJson(version: VersionWithArtifacts): Record<string, unknown> {
  return { ...versionJson(version), version: version.sequence };
}

function fileJson(artifact: Artifact | undefined): Record<string, unknown> {
  return {
    model_path: artifact?.object_key ?? null,
    model_size_bytes: artifact?.size_bytes ?? null,
    model_hash: artifact === undefined ? null : `sha256:${artifact.sha256}`,
  };
}

function figure(metrics: JsonObject | undefined, name: string): number | null {
  const value = metrics?.[name];
  return typeof value === 'number' ? value : null;
}

/** Our own architecture, and beside it the three fields that published clients read; an object even when nothing is known. */
function architectureJson({ architecture, target }: Model): Record<string, unknown> {
  const output = architecture?.['output'] as { kind?: unknown; classes?: unknown } | undefined;
  const kind = output?.kind;
  return {
    ...architecture,
    ...(target === null ? {} : { target_col: targetColumn(target) }),
    ...(typeof kind === 'string'
      ? { output_type: kind, output_dim: kind === 'multiclass' ? (output?.classes ?? null) : 1 }
      : {}),
  };
}

function targetColumn(target: string): string {
  try {
    return parseTargetRule(target).column;
  } catch {
    return target;
  }
}
