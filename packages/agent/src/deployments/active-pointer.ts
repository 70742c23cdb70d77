import type { Artifact } from './desired-version.js';

/** A version as it lies on disk. */
export interface DeployedVersion {
  readonly versionId: string;
  readonly version: string;
  /** 0: no rollout decided. */
  readonly rolloutId: number;
  /** ISO 8601, by this machine's clock. */
  readonly activatedAt: string;
  /** `path` is relative to the folder of `active.json`, with `/` between folder and file. */
  readonly artifacts: readonly (Artifact & { readonly path: string })[];
}

/** `active.json`: which version of a model runs here. It is replaced as a whole, so a reader sees one or the other. */
export interface ActivePointer {
  readonly formatVersion: 1;
  readonly modelId: string;
  readonly modelName: string;
  readonly active: DeployedVersion;
  /** Kept whole for an instant way back. */
  readonly previous: DeployedVersion | null;
}

/** Undefined for anything but a pointer of this model: a damaged one is as good as none. */
export function parsePointer(text: string, modelId: string): ActivePointer | undefined {
  let parsed: Partial<ActivePointer> | null;
  try {
    parsed = JSON.parse(text) as Partial<ActivePointer> | null;
  } catch {
    return undefined;
  }
  if (parsed?.formatVersion !== 1 || parsed.modelId !== modelId || !isVersion(parsed.active)) return undefined;
  const previous = isVersion(parsed.previous) ? parsed.previous : null;
  return { formatVersion: 1, modelId, modelName: String(parsed.modelName), active: parsed.active, previous };
}

function isVersion(value: unknown): value is DeployedVersion {
  const version = value as Partial<DeployedVersion> | null | undefined;
  return (
    typeof version?.versionId === 'string' &&
    Array.isArray(version.artifacts) &&
    version.artifacts.every((one: unknown) => typeof (one as { path?: unknown } | null)?.path === 'string')
  );
}
