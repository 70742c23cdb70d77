import { OctomilError } from '@octomil/shared/errors';
import type { JsonObject } from '../database/tables.js';
import type { Model } from './model-store.js';
import type { VersionWithArtifacts } from './version-store.js';

/**
 * A version as an organization may read it: of its own models as it is; of a model that a federation shares with it only
 * when it was published, and without what names the owner's sites (lineage, their metrics, who made it).
 *
 * @returns undefined for a version that it may not read
 */
export function versionFor(
  organizationId: string,
  model: Pick<Model, 'organization_id'>,
  version: VersionWithArtifacts,
): VersionWithArtifacts | undefined {
  if (model.organization_id === organizationId) return version;
  const wasPublished =
    version.status === 'published' || (version.status === 'deprecated' && version.published_at !== null);
  if (!wasPublished) return undefined;
  return { ...version, lineage: {}, metrics: overallOnly(version.metrics), created_by: null };
}

/** As `versionFor`. @throws OctomilError `version_not_found` */
export function requireReadable(
  organizationId: string,
  model: Pick<Model, 'organization_id'>,
  version: VersionWithArtifacts,
): VersionWithArtifacts {
  const readable = versionFor(organizationId, model, version);
  if (readable !== undefined) return readable;
  throw new OctomilError(
    'version_not_found',
    `version ${version.version} is not published, so that only its owner sees it`,
  );
}

/** Figures alone: texts and objects may name sites. */
function overallOnly(metrics: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(metrics).filter(([, value]) => typeof value === 'number'));
}
