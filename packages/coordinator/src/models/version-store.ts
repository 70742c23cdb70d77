import { randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import { type Kysely, type Selectable, sql } from 'kysely';
import type { Database } from '../database/database.js';
import type {
  ArtifactsTable,
  ConversionsTable,
  JsonObject,
  Tables,
  VersionStatus,
  VersionsTable,
} from '../database/tables.js';
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
  /** `key:<id>` or `session:<id>`. */
  readonly createdBy: string | null;
  readonly lineage: JsonObject;
  readonly metrics: JsonObject;
  readonly artifacts: readonly NewArtifact[];
}

export interface UploadedVersion {
  readonly modelId: string;
  /** null: the minor after the highest. */
  readonly version: string | null;
  readonly description: string;
  readonly createdBy: string;
  readonly metrics?: JsonObject;
  readonly artifacts: readonly NewArtifact[];
  /** Which upload this confirms: the same one twice is the same version. */
  readonly storageKey?: string;
}

export type Conversion = Pick<
  Selectable<ConversionsTable>,
  'version_id' | 'format' | 'state' | 'reason_code' | 'reason'
>;

export interface VersionWithArtifacts extends Version {
  /** In the order they came. */
  readonly artifacts: readonly Artifact[];
  readonly conversions: readonly Conversion[];
  /** The round that the checkpoint came from; null for uploads. */
  readonly round_id: string | null;
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
        created_by: version.createdBy,
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
   * Adds uploaded files: to a new draft, or to a draft that has no file of their formats yet. What is there never changes.
   * `work` runs in the same transaction, and its failure undoes all.
   *
   * @throws OctomilError `conflict` when the version is published or has a format already
   */
  addUpload(
    upload: UploadedVersion,
    work: (version: Version, transaction: Kysely<Tables>) => Promise<void>,
  ): Promise<Version> {
    const { modelId, storageKey, artifacts } = upload;
    return this.#database.transact(async (transaction) => {
      const existing = await lockVersions(transaction, modelId);
      // A confirmation that is repeated, because its answer was lost.
      const made = storageKey === undefined ? undefined : await versionOfUpload(transaction, modelId, storageKey);
      if (made !== undefined) return made;
      const uploads = storageKey === undefined ? [] : [storageKey];
      const same = existing.find((row) => row.version === upload.version);
      if (same === undefined) {
        const row = await this.create(
          {
            modelId,
            requestedVersion: upload.version,
            status: 'draft',
            description: upload.description,
            baseVersionId: null,
            checkpointId: null,
            sessionId: null,
            createdBy: upload.createdBy,
            lineage: { origin: 'upload', uploads },
            metrics: upload.metrics ?? {},
            artifacts,
          },
          transaction,
        );
        await work(row, transaction);
        return row;
      }
      const formats = await transaction
        .selectFrom('artifacts')
        .select('format')
        .where('version_id', '=', same.id)
        .execute();
      const open = same.status === 'draft' || same.status === 'converting';
      if (!open || formats.some(({ format }) => artifacts.some((artifact) => artifact.format === format))) {
        throw taken(same.version);
      }
      for (const artifact of artifacts) await insertArtifact(transaction, same.id, artifact);
      await endConversions(transaction, same.id, artifacts);
      const row = await transaction
        .updateTable('versions')
        .set({
          lineage: sql`jsonb_set(lineage, '{uploads}', coalesce(lineage->'uploads', '[]') || ${JSON.stringify(uploads)}::jsonb)`,
          metrics: sql`metrics || ${JSON.stringify(upload.metrics ?? {})}::jsonb`,
          ...(upload.description === '' ? {} : { description: upload.description }),
        })
        .where('id', '=', same.id)
        .returningAll()
        .executeTakeFirstOrThrow();
      await work(row, transaction);
      return row;
    });
  }

  /** The version that this upload became. */
  ofUpload(modelId: string, storageKey: string): Promise<Version | undefined> {
    return versionOfUpload(this.#database.kysely, modelId, storageKey);
  }

  /** @throws OctomilError `conflict` when there is this version and it takes no more files */
  async refuseClosed(modelId: string, version: string): Promise<void> {
    const closed = await this.#database.kysely
      .selectFrom('versions')
      .select('id')
      .where('model_id', '=', modelId)
      .where('version', '=', version)
      .where('status', 'in', ['published', 'deprecated'])
      .executeTakeFirst();
    if (closed !== undefined) throw taken(version);
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

  async count(modelId: string, status?: VersionStatus): Promise<number> {
    let query = this.#database.kysely.selectFrom('versions').where('model_id', '=', modelId);
    if (status !== undefined) query = query.where('status', '=', status);
    return (await query.select((e) => e.fn.countAll<number>().as('total')).executeTakeFirstOrThrow()).total;
  }

  async byId(versionId: string): Promise<{ version: VersionWithArtifacts; model: { name: string } } | undefined> {
    const row = await this.#database.kysely
      .selectFrom('versions as v')
      .innerJoin('models as m', 'm.id', 'v.model_id')
      .selectAll('v')
      .select('m.name as model_name')
      .where('v.id', '=', versionId)
      .executeTakeFirst();
    if (row === undefined) return undefined;
    const { model_name, ...plain } = row;
    const [version] = await this.#withArtifacts([plain]);
    return version === undefined ? undefined : { version, model: { name: model_name } };
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

  /**
   * Safe to repeat.
   *
   * @throws OctomilError `wrong_state` for a deprecated version, and for one that is converting, naming its formats
   */
  async publish(version: Version): Promise<void> {
    const published = await this.#database.kysely
      .updateTable('versions')
      .set({ status: 'published', published_at: sql<Date>`coalesce(published_at, now())` })
      .where('id', '=', version.id)
      .where('status', '=', 'draft')
      .returning('id')
      .executeTakeFirst();
    if (published !== undefined) return;
    const [now] = await this.#withArtifacts(
      await this.#database.kysely.selectFrom('versions').selectAll().where('id', '=', version.id).execute(),
    );
    if (now?.status === 'published') return;
    if (now?.status === 'converting') {
      const missing = now.conversions.filter(({ state }) => state !== 'ready');
      const formats = missing.map(
        ({ format, state, reason }) => `${format} is ${state}${reason === null ? '' : `: ${reason}`}`,
      );
      throw new OctomilError(
        'wrong_state',
        `version ${version.version} is converting (${formats.join('; ')}); publish it when its formats exist, or drop those that fail`,
        { details: { status: 'converting', formats: missing.map(({ format }) => format) } },
      );
    }
    throw new OctomilError('wrong_state', `version ${version.version} is deprecated; publish a newer one`, {
      details: { status: now?.status ?? 'deleted' },
    });
  }

  /** Safe to repeat. */
  async deprecate(version: Version): Promise<void> {
    await this.#database.kysely
      .updateTable('versions')
      .set({ status: 'deprecated' })
      .where('id', '=', version.id)
      .where('status', '!=', 'deprecated')
      .execute();
  }

  /** Adds to what is known, and replaces figures of the same name. */
  async addMetrics(version: Version, metrics: JsonObject): Promise<void> {
    await this.#database.kysely
      .updateTable('versions')
      .set({ metrics: sql`metrics || ${JSON.stringify(metrics)}::jsonb` })
      .where('id', '=', version.id)
      .execute();
  }

  async #withArtifacts(rows: readonly Version[]): Promise<VersionWithArtifacts[]> {
    if (rows.length === 0) return [];
    const ids = rows.map((row) => row.id);
    const checkpointIds = rows.flatMap(({ checkpoint_id }) => checkpoint_id ?? []);
    const { kysely } = this.#database;
    const [artifacts, conversions, checkpoints] = await Promise.all([
      kysely.selectFrom('artifacts').selectAll().where('version_id', 'in', ids).orderBy('created_at').execute(),
      kysely
        .selectFrom('conversions')
        .select(['version_id', 'format', 'state', 'reason_code', 'reason'])
        .where('version_id', 'in', ids)
        .orderBy('format')
        .execute(),
      checkpointIds.length === 0
        ? []
        : kysely.selectFrom('checkpoints').select(['id', 'round_id']).where('id', 'in', checkpointIds).execute(),
    ]);
    const artifactsOf = Map.groupBy(artifacts, (artifact) => artifact.version_id);
    const conversionsOf = Map.groupBy(conversions, (conversion) => conversion.version_id);
    const roundOf = new Map(checkpoints.map(({ id, round_id }) => [id, round_id]));
    return rows.map((row) => ({
      ...row,
      artifacts: artifactsOf.get(row.id) ?? [],
      conversions: conversionsOf.get(row.id) ?? [],
      round_id: roundOf.get(row.checkpoint_id ?? '') ?? null,
    }));
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

/** What was uploaded need not be made any more. */
async function endConversions(
  transaction: Kysely<Tables>,
  versionId: string,
  artifacts: readonly NewArtifact[],
): Promise<void> {
  const formats = artifacts.map(({ format }) => format);
  await transaction
    .deleteFrom('conversions')
    .where('version_id', '=', versionId)
    .where('format', 'in', formats)
    .execute();
  await sql`update versions set status = 'draft' where id = ${versionId} and status = 'converting'
    and not exists (select 1 from conversions where version_id = ${versionId} and state <> 'ready')`.execute(
    transaction,
  );
}

function versionOfUpload(kysely: Kysely<Tables>, modelId: string, storageKey: string): Promise<Version | undefined> {
  return kysely
    .selectFrom('versions')
    .selectAll()
    .where('model_id', '=', modelId)
    .where(sql<boolean>`lineage->'uploads' @> ${JSON.stringify([storageKey])}::jsonb`)
    .executeTakeFirst();
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
