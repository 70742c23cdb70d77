import { randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import { type Kysely, type Selectable, sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { ArtifactsTable, JsonObject, Tables, VersionStatus, VersionsTable } from '../database/tables.js';
import { nextVersion, parseVersion, parseVersionName } from './version-number.js';

export type Version = Selectable<VersionsTable>;
export type Artifact = Selectable<ArtifactsTable>;
export type NewArtifact = Omit<Artifact, 'version_id' | 'created_at'>;

export interface NewVersion {
  readonly modelId: string;
  /** null: the minor after the highest. */
  readonly requestedVersion: string | null;
  readonly status: 'draft' | 'published';
  readonly description: string;
  readonly baseVersionId: string | null;
  readonly checkpointId: string | null;
  readonly sessionId: string | null;
  readonly lineage: JsonObject;
  readonly metrics: JsonObject;
  readonly artifacts: readonly NewArtifact[];
}

export interface VersionWithArtifacts extends Version {
  readonly artifacts: readonly Artifact[];
}

export class VersionStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /**
   * Numbers and stores a version within the caller's transaction. The model's row is locked until it ends, so that
   * sequences have no holes and no doubles.
   *
   * @throws OctomilError `conflict` when the requested version exists, `invalid_input` when it is no semantic version
   */
  async create(version: NewVersion, transaction: Kysely<Tables>): Promise<Version> {
    const requested = version.requestedVersion === null ? null : parseVersion(version.requestedVersion);
    const existing = await lockVersions(transaction, version.modelId);
    if (requested !== null && existing.some((row) => row.version === requested)) throw taken(requested);
    const row = await transaction
      .insertInto('versions')
      .values({
        id: randomUUID(),
        model_id: version.modelId,
        sequence: Math.max(0, ...existing.map(({ sequence }) => sequence)) + 1,
        version: requested ?? nextVersion(existing.map((row) => row.version)),
        status: version.status,
        description: version.description,
        base_version_id: version.baseVersionId,
        checkpoint_id: version.checkpointId,
        session_id: version.sessionId,
        lineage: JSON.stringify(version.lineage),
        metrics: JSON.stringify(version.metrics),
        published_at: version.status === 'published' ? sql<Date>`now()` : null,
      })
      .returningAll()
      .executeTakeFirstOrThrow();
    for (const artifact of version.artifacts) await insertArtifact(transaction, row.id, artifact);
    return row;
  }

  /**
   * Adds an uploaded file: to a new draft, or to a draft that has no file of this format yet. What is there never changes.
   *
   * @throws OctomilError `conflict` when the version is published or has the format already
   */
  addUpload(modelId: string, version: string, description: string, artifact: NewArtifact): Promise<Version> {
    return this.#database.transact(async (transaction) => {
      const existing = (await lockVersions(transaction, modelId)).find((row) => row.version === version);
      if (existing === undefined) {
        return this.create(
          {
            modelId,
            requestedVersion: version,
            status: 'draft',
            description,
            baseVersionId: null,
            checkpointId: null,
            sessionId: null,
            lineage: { origin: 'upload' },
            metrics: {},
            artifacts: [artifact],
          },
          transaction,
        );
      }
      const formats = await transaction
        .selectFrom('artifacts')
        .select('format')
        .where('version_id', '=', existing.id)
        .execute();
      if (existing.status !== 'draft' || formats.some(({ format }) => format === artifact.format)) throw taken(version);
      await insertArtifact(transaction, existing.id, artifact);
      return transaction.selectFrom('versions').selectAll().where('id', '=', existing.id).executeTakeFirstOrThrow();
    });
  }

  /** Newest first. */
  async list(
    modelId: string,
    filter: { status?: VersionStatus; limit?: number; offset?: number } = {},
  ): Promise<VersionWithArtifacts[]> {
    let query = this.#database.kysely
      .selectFrom('versions')
      .selectAll()
      .where('model_id', '=', modelId)
      .orderBy('sequence', 'desc')
      .offset(filter.offset ?? 0);
    if (filter.status !== undefined) query = query.where('status', '=', filter.status);
    if (filter.limit !== undefined) query = query.limit(filter.limit);
    return this.#withArtifacts(await query.execute());
  }

  /** The newest version of each of these models, drafts included. */
  async newestOf(modelIds: readonly string[]): Promise<Map<string, VersionWithArtifacts>> {
    if (modelIds.length === 0) return new Map();
    const rows = await this.#database.kysely
      .selectFrom('versions')
      .selectAll()
      .distinctOn('model_id')
      .where('model_id', 'in', modelIds)
      .orderBy('model_id')
      .orderBy('sequence', 'desc')
      .execute();
    return new Map((await this.#withArtifacts(rows)).map((row) => [row.model_id, row]));
  }

  /** By semantic version, sequence number, or `latest`: the newest that is published. */
  async find(modelId: string, name: string): Promise<VersionWithArtifacts | undefined> {
    const wanted = parseVersionName(name);
    let query = this.#database.kysely.selectFrom('versions').selectAll().where('model_id', '=', modelId);
    if (wanted === 'latest') query = query.where('status', '=', 'published').orderBy('sequence', 'desc').limit(1);
    else if ('sequence' in wanted) query = query.where('sequence', '=', wanted.sequence);
    else query = query.where('version', '=', wanted.version);
    const [found] = await this.#withArtifacts(await query.execute());
    return found;
  }

  /** @throws OctomilError `version_not_found` */
  async get(modelId: string, name: string): Promise<VersionWithArtifacts> {
    const found = await this.find(modelId, name);
    if (found !== undefined) return found;
    const message =
      name === 'latest'
        ? 'the model has no published version; publish one, or name a draft'
        : `the model has no version ${name}`;
    throw new OctomilError('version_not_found', message);
  }

  /** Safe to repeat. @throws OctomilError `wrong_state` when a deprecated version is to be published again */
  async setStatus(version: Version, status: 'published' | 'deprecated'): Promise<void> {
    if (status === 'published' && version.status === 'deprecated') {
      throw new OctomilError('wrong_state', `version ${version.version} is deprecated; publish a newer one`);
    }
    await this.#database.kysely
      .updateTable('versions')
      .set({ status, ...(status === 'published' ? { published_at: sql<Date>`coalesce(published_at, now())` } : {}) })
      .where('id', '=', version.id)
      .where('status', '!=', status)
      .execute();
  }

  async #withArtifacts(rows: readonly Version[]): Promise<VersionWithArtifacts[]> {
    if (rows.length === 0) return [];
    const artifacts = await this.#database.kysely
      .selectFrom('artifacts')
      .selectAll()
      .where(
        'version_id',
        'in',
        rows.map((row) => row.id),
      )
      .orderBy('format')
      .execute();
    const byVersion = Map.groupBy(artifacts, (artifact) => artifact.version_id);
    return rows.map((row) => ({ ...row, artifacts: byVersion.get(row.id) ?? [] }));
  }
}

async function lockVersions(
  transaction: Kysely<Tables>,
  modelId: string,
): Promise<Pick<Version, 'id' | 'version' | 'sequence' | 'status'>[]> {
  const model = await transaction.selectFrom('models').select('id').where('id', '=', modelId).forUpdate().execute();
  if (model.length === 0) throw new OctomilError('model_not_found', `there is no model ${modelId}`);
  return transaction
    .selectFrom('versions')
    .select(['id', 'version', 'sequence', 'status'])
    .where('model_id', '=', modelId)
    .execute();
}

async function insertArtifact(transaction: Kysely<Tables>, versionId: string, artifact: NewArtifact): Promise<void> {
  await transaction
    .insertInto('artifacts')
    .values({ ...artifact, version_id: versionId })
    .execute();
}

function taken(version: string): OctomilError {
  return new OctomilError('conflict', `version ${version} exists, and versions do not change; choose another number`, {
    details: { version },
  });
}
