import { OctomilError } from '@octomil/shared/errors';
import { type Kysely, sql } from 'kysely';
import type { JsonObject, Tables } from '../database/tables.js';
import {
  endConversions,
  insertArtifact,
  lockVersions,
  type NewArtifact,
  OPEN_STATUSES,
  taken,
  type Version,
  type VersionStore,
} from './version-store.js';

/** A file that a version will have once its bytes were checked. */
export interface AwaitedFile {
  readonly modelId: string;
  /** null: the minor after the highest. */
  readonly version: string | null;
  readonly format: string;
  readonly description: string;
  readonly createdBy: string;
  readonly metrics?: JsonObject;
}

/**
 * The version that awaits a file, `validating` until then: a new one, or a draft that has no file of this format.
 *
 * @throws OctomilError `conflict` when the version is published, has the format already or awaits one of it
 */
export async function awaitFile(
  transaction: Kysely<Tables>,
  versions: VersionStore,
  file: AwaitedFile,
): Promise<Version> {
  const existing = await lockVersions(transaction, file.modelId);
  const same = existing.find((row) => row.version === file.version);
  if (same === undefined) {
    return versions.create(
      {
        modelId: file.modelId,
        requestedVersion: file.version,
        status: 'validating',
        description: file.description,
        baseVersionId: null,
        checkpointId: null,
        sessionId: null,
        createdBy: file.createdBy,
        lineage: { origin: 'upload', uploads: [] },
        metrics: file.metrics ?? {},
        artifacts: [],
      },
      transaction,
    );
  }
  if (!OPEN_STATUSES.has(same.status)) throw taken(same.version);
  await refuseFormat(transaction, same, file.format);
  return transaction
    .updateTable('versions')
    .set({ status: 'validating' })
    .where('id', '=', same.id)
    .returningAll()
    .executeTakeFirstOrThrow();
}

/**
 * Adds the file that a version awaited. Its upload is no longer `arrived` by then.
 *
 * @throws OctomilError `version_not_found`, `conflict` when the version was closed or got the format meanwhile
 */
export async function addAwaited(
  transaction: Kysely<Tables>,
  modelId: string,
  versionId: string,
  file: { readonly artifact: NewArtifact; readonly storageKey: string } & Pick<AwaitedFile, 'description' | 'metrics'>,
): Promise<Version> {
  const existing = await lockVersions(transaction, modelId);
  const version = existing.find(({ id }) => id === versionId);
  if (version === undefined) throw new OctomilError('version_not_found', 'the version that awaited it was deleted');
  if (!OPEN_STATUSES.has(version.status)) throw taken(version.version);
  await refuseFormat(transaction, version, file.artifact.format);
  await insertArtifact(transaction, versionId, file.artifact);
  await endConversions(transaction, versionId, [file.artifact]);
  await settleStatus(transaction, versionId);
  return transaction
    .updateTable('versions')
    .set({
      lineage: sql`jsonb_set(lineage, '{uploads}', coalesce(lineage->'uploads', '[]') || ${JSON.stringify([file.storageKey])}::jsonb)`,
      metrics: sql`metrics || ${JSON.stringify(file.metrics ?? {})}::jsonb`,
      ...(file.description === '' ? {} : { description: file.description }),
    })
    .where('id', '=', versionId)
    .returningAll()
    .executeTakeFirstOrThrow();
}

/** Takes away a version that has nothing but a file that was refused. @returns whether it did */
export async function removeEmpty(transaction: Kysely<Tables>, versionId: string): Promise<boolean> {
  const { rows } = await sql`
    delete from versions where id = ${versionId} and status = 'validating' and session_id is null
      and lineage->'uploads' = '[]'::jsonb
      and not exists (select 1 from artifacts where version_id = versions.id)
      and not exists (select 1 from artifact_uploads u where u.version_id = versions.id and u.state = 'arrived')
    returning id`.execute(transaction);
  return rows.length > 0;
}

/** `validating` while files are being checked, else `converting` while formats are being made, else a draft. */
export async function settleStatus(transaction: Kysely<Tables>, versionId: string): Promise<void> {
  await sql`
    update versions set status = case
      when exists (select 1 from artifact_uploads where version_id = ${versionId} and state = 'arrived') then 'validating'
      when exists (select 1 from conversions where version_id = ${versionId} and state <> 'ready') then 'converting'
      else 'draft' end
    where id = ${versionId} and status in ('validating', 'converting', 'draft')`.execute(transaction);
}

async function refuseFormat(
  transaction: Kysely<Tables>,
  version: Pick<Version, 'id' | 'version'>,
  format: string,
): Promise<void> {
  const { rows } = await sql`
    select 1 from artifacts where version_id = ${version.id} and format = ${format}
    union all
    select 1 from artifact_uploads where version_id = ${version.id} and format = ${format} and state = 'arrived'
    limit 1`.execute(transaction);
  if (rows.length > 0) throw taken(version.version);
}
