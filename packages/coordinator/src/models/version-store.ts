import { randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import { type AliasedRawBuilder, type Kysely, type Selectable, sql } from 'kysely';
import type { Database } from '../database/database.js';
import { GatheredReads } from '../database/gathered-reads.js';
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

/** Of versions that take more files. */
export const OPEN_STATUSES: ReadonlySet<VersionStatus> = new Set(['draft', 'converting', 'validating']);

export interface NewVersion {
  readonly modelId: string;
  /** null: the minor after the highest. */
  readonly requestedVersion: string | null;
  readonly status: 'validating' | 'draft' | 'published';
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
  readonly #byName: GatheredReads<NamedVersion, VersionWithArtifacts>;
  readonly #allOf: GatheredReads<string, VersionWithArtifacts[]>;

  constructor(database: Database) {
    this.#database = database;
    this.#byName = new GatheredReads(nameOf, async (named) => {
      const models = named.map(({ modelId }) => modelId);
      const names = named.map(({ version }) => version);
      const rows = await database.kysely
        .selectFrom('versions')
        .selectAll()
        .select(partsOf('versions'))
        .where(sql<boolean>`(model_id, version) in (select * from unnest(${models}::text[], ${names}::text[]))`)
        .execute();
      return new Map(rows.map(withParts).map((row) => [nameOf({ modelId: row.model_id, version: row.version }), row]));
    });
    this.#allOf = new GatheredReads(
      (modelId) => modelId,
      async (modelIds) => {
        const rows = await database.kysely
          .selectFrom('versions')
          .selectAll()
          .select(partsOf('versions'))
          .where(sql<boolean>`model_id = any(${modelIds}::text[])`)
          .orderBy('sequence', 'desc')
          .execute();
        return Map.groupBy(rows.map(withParts), (row) => row.model_id);
      },
    );
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
      if (
        !OPEN_STATUSES.has(same.status) ||
        formats.some(({ format }) => artifacts.some((artifact) => artifact.format === format))
      ) {
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
    if (filter.status === undefined && filter.limit === undefined && (filter.offset ?? 0) === 0) {
      return (await this.#allOf.get(modelId)) ?? [];
    }
    let query = this.#database.kysely
      .selectFrom('versions')
      .selectAll()
      .select(partsOf('versions'))
      .where('model_id', '=', modelId)
      .orderBy('sequence', 'desc')
      .offset(filter.offset ?? 0);
    if (filter.status !== undefined) query = query.where('status', '=', filter.status);
    if (filter.limit !== undefined) query = query.limit(filter.limit);
    return (await query.execute()).map(withParts);
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
      .select(partsOf('v'))
      .select('m.name as model_name')
      .where('v.id', '=', versionId)
      .executeTakeFirst();
    if (row === undefined) return undefined;
    const { model_name, ...plain } = row;
    return { version: withParts(plain), model: { name: model_name } };
  }

  /** The newest version of each of these models, drafts included. */
  async newestOf(modelIds: readonly string[]): Promise<Map<string, VersionWithArtifacts>> {
    if (modelIds.length === 0) return new Map();
    const rows = await this.#database.kysely
      .selectFrom('versions')
      .selectAll()
      .select(partsOf('versions'))
      .distinctOn('model_id')
      .where('model_id', 'in', modelIds)
      .orderBy('model_id')
      .orderBy('sequence', 'desc')
      .execute();
    return new Map(rows.map((row) => [row.model_id, withParts(row)]));
  }

  /** By semantic version, sequence number, or `latest`: the newest that is published. */
  async find(modelId: string, name: string): Promise<VersionWithArtifacts | undefined> {
    const wanted = parseVersionName(name);
    if (wanted !== 'latest' && 'version' in wanted) return this.#byName.get({ modelId, version: wanted.version });
    const query = this.#database.kysely
      .selectFrom('versions')
      .selectAll()
      .select(partsOf('versions'))
      .where('model_id', '=', modelId);
    const row = await (wanted === 'latest'
      ? query.where('status', '=', 'published').orderBy('sequence', 'desc').limit(1)
      : query.where('sequence', '=', wanted.sequence)
    ).executeTakeFirst();
    return row === undefined ? undefined : withParts(row);
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
   * @throws OctomilError `wrong_state` for a deprecated version, one that is validating, and one that is converting, naming
   * its formats
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
    const now = (await this.byId(version.id))?.version;
    if (now?.status === 'published') return;
    if (now?.status === 'validating') {
      throw new OctomilError(
        'wrong_state',
        `version ${version.version} is validating: a file of it that went straight to the bucket is being checked; publish it when it is a draft`,
        { details: { status: 'validating' } },
      );
    }
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
  async deprecate(version: Version, handle = this.#database.kysely): Promise<void> {
    await handle
      .updateTable('versions')
      .set({ status: 'deprecated' })
      .where('id', '=', version.id)
      .where('status', '!=', 'deprecated')
      .execute();
  }

  /** Adds to what is known, and replaces figures of the same name. */
  async addMetrics(
    version: VersionWithArtifacts,
    metrics: JsonObject,
    handle = this.#database.kysely,
  ): Promise<VersionWithArtifacts> {
    const row = await handle
      .updateTable('versions')
      .set({ metrics: sql`metrics || ${JSON.stringify(metrics)}::jsonb` })
      .where('id', '=', version.id)
      .returningAll()
      .returning(partsOf('versions'))
      .executeTakeFirst();
    return row === undefined ? version : withParts(row);
  }
}

interface NamedVersion {
  readonly modelId: string;
  readonly version: string;
}

function nameOf({ modelId, version }: NamedVersion): string {
  return `${modelId} ${version}`;
}

/** What belongs to a version, as JSON in its row: one statement instead of one for each kind. */
interface Parts {
  readonly artifacts: readonly (Omit<Artifact, 'created_at'> & { readonly created_at: string })[];
  readonly conversions: readonly Conversion[];
  readonly round_id: string | null;
}

/** @param table what the statement calls `versions` */
function partsOf(table: 'versions' | 'v') {
  const id = sql.ref(`${table}.id`);
  return [
    sql<Parts['artifacts']>`(select coalesce(jsonb_agg(a order by a.created_at), '[]')
      from artifacts a where a.version_id = ${id})`.as('artifacts'),
    sql<
      Parts['conversions']
    >`(select coalesce(jsonb_agg(jsonb_build_object('version_id', c.version_id, 'format', c.format,
        'state', c.state, 'reason_code', c.reason_code, 'reason', c.reason) order by c.format), '[]')
      from conversions c where c.version_id = ${id})`.as('conversions'),
    sql<string | null>`(select k.round_id from checkpoints k where k.id = ${sql.ref(`${table}.checkpoint_id`)})`.as(
      'round_id',
    ),
  ] as const satisfies readonly AliasedRawBuilder<unknown, keyof Parts>[];
}

function withParts(row: Version & Parts): VersionWithArtifacts {
  return { ...row, artifacts: row.artifacts.map((file) => ({ ...file, created_at: new Date(file.created_at) })) };
}

export async function lockVersions(
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
export async function endConversions(
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

export async function insertArtifact(
  transaction: Kysely<Tables>,
  versionId: string,
  artifact: NewArtifact,
): Promise<void> {
  await transaction
    .insertInto('artifacts')
    .values({ ...artifact, version_id: versionId })
    .execute();
}

export function taken(version: string): OctomilError {
  return new OctomilError('conflict', `version ${version} exists, and versions do not change; choose another number`, {
    details: { version },
  });
}
