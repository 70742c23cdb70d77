import { randomUUID } from 'node:crypto';
import { type ErrorBody, OctomilError } from '@octomil/shared/errors';
import { type Kysely, type Selectable, sql } from 'kysely';
import { insertEntry } from '../audit/audit-log.js';
import type { Database } from '../database/database.js';
import type { ArtifactUploadsTable, JsonObject, Tables } from '../database/tables.js';
import { sqlState } from '../database/transact.js';
import { ArrivingRows } from '../transfers/arriving-rows.js';
import type { PartLayout } from '../transfers/part-layout.js';
import { addAwaited, awaitFile, removeEmpty, settleStatus } from './validating-versions.js';
import type { NewArtifact, Version, VersionStore } from './version-store.js';

/** What was asked when the upload was confirmed. */
export interface AskedVersion {
  readonly version: string | null;
  readonly format: string;
  readonly formats: readonly string[];
  readonly description: string;
  readonly createdBy: string;
  readonly metrics?: JsonObject;
  /** Hexadecimal, when the sender knows it. */
  readonly sha256?: string;
}

/** An upload to the registry whose parts may go past the coordinator. */
export interface ArtifactUpload {
  readonly id: string;
  readonly storageKey: string;
  readonly modelId: string;
  readonly versionId: string | null;
  readonly fileName: string;
  readonly layout: PartLayout;
  readonly state: 'open' | 'arrived' | 'completed' | 'abandoned';
  /** From when it arrived. */
  readonly asked: AskedVersion | undefined;
  /** Why it does not count. */
  readonly problem: OctomilError | undefined;
  readonly expiresAt: Date;
}

export type ClaimedArtifact = ArtifactUpload & { readonly attempts: number };

interface StoredHeader extends Record<string, unknown> {
  readonly fileName: string;
  readonly asked?: AskedVersion;
}

const FOREIGN_KEY_VIOLATION = '23503';

/** Rows of uploads to the registry that may go past the coordinator. Times are the database's. */
export class ArtifactUploadStore extends ArrivingRows {
  readonly #database: Database;
  readonly #versions: VersionStore;

  constructor(database: Database, versions: VersionStore) {
    super(database, 'artifact_uploads');
    this.#database = database;
    this.#versions = versions;
  }

  /** The one for this key, or a new one. */
  async begin(upload: Pick<ArtifactUpload, 'storageKey' | 'modelId' | 'fileName' | 'layout' | 'expiresAt'>) {
    const { storageKey, modelId, fileName, layout, expiresAt } = upload;
    await this.#database.kysely
      .insertInto('artifact_uploads')
      .values({
        id: randomUUID(),
        storage_key: storageKey,
        model_id: modelId,
        header: JSON.stringify({ fileName } satisfies StoredHeader),
        size_bytes: layout.sizeBytes,
        part_size_bytes: layout.partSizeBytes,
        part_count: layout.partCount,
        state: 'open',
        expires_at: expiresAt,
      })
      .onConflict((conflict) => conflict.column('storage_key').doNothing())
      .execute();
    const found = await this.find(storageKey);
    if (found === undefined) throw new OctomilError('internal', 'an upload vanished while it began; ask again');
    return found;
  }

  async find(storageKey: string): Promise<ArtifactUpload | undefined> {
    const row = await this.#database.kysely
      .selectFrom('artifact_uploads')
      .selectAll()
      .where('storage_key', '=', storageKey)
      .executeTakeFirst();
    return row === undefined ? undefined : uploadOf(row);
  }

  async claim(id: string, ownerId: string, leaseMs: number): Promise<ClaimedArtifact | undefined> {
    const attempts = await this.take(id, ownerId, leaseMs);
    if (attempts === undefined) return undefined;
    const row = await this.#database.kysely
      .selectFrom('artifact_uploads')
      .selectAll()
      .where('id', '=', id)
      .executeTakeFirst();
    return row === undefined ? undefined : { ...uploadOf(row), attempts };
  }

  /**
   * All bytes lie in the bucket: somebody will check them, whatever becomes of this process, and a version awaits them.
   *
   * @throws OctomilError `conflict` when the version takes no such file
   */
  arrive(upload: ArtifactUpload, asked: AskedVersion): Promise<string> {
    return this.#database.transact(async (transaction) => {
      // A confirmation that is repeated, or one beside it.
      const row = await transaction
        .selectFrom('artifact_uploads')
        .select(['state', 'version_id'])
        .where('id', '=', upload.id)
        .forUpdate()
        .executeTakeFirst();
      if (row?.state !== 'open') return row?.version_id ?? '';
      const version = await awaitFile(transaction, this.#versions, { ...asked, modelId: upload.modelId });
      await transaction
        .updateTable('artifact_uploads')
        .set({
          state: 'arrived',
          version_id: version.id,
          format: asked.format,
          header: sql`header::jsonb || ${JSON.stringify({ asked })}::jsonb`,
        })
        .where('id', '=', upload.id)
        .execute();
      return version.id;
    });
  }

  /**
   * What was checked counts: the version has the file. `work` runs in the same transaction, and its failure undoes all.
   *
   * @throws OctomilError `superseded` when another process has it, `version_not_found`, `conflict`
   */
  count(
    upload: ArtifactUpload,
    ownerId: string,
    artifact: NewArtifact,
    work: (version: Version, transaction: Kysely<Tables>) => Promise<void>,
  ): Promise<void> {
    return this.#database.transact(async (transaction) => {
      const { asked, versionId, modelId, storageKey } = upload;
      const mine = await transaction
        .updateTable('artifact_uploads')
        .set({ state: 'completed', claimed_by: null, claimed_until: null, problem: null })
        .where('id', '=', upload.id)
        .where('state', '=', 'arrived')
        .where('claimed_by', '=', ownerId)
        .returning('id')
        .executeTakeFirst();
      if (mine === undefined || asked === undefined || versionId === null) {
        throw new OctomilError('superseded', 'another process checks this upload');
      }
      const version = await addAwaited(transaction, modelId, versionId, { ...asked, artifact, storageKey });
      await work(version, transaction);
      await this.#record(transaction, upload, 'version.file_validated', { sha256: artifact.sha256 });
    });
  }

  /** It does not count, and a version that awaited nothing else goes. @returns false where another process has it */
  async refuse(upload: ArtifactUpload, ownerId: string, problem: OctomilError): Promise<boolean> {
    const settle = (mayRemove: boolean): Promise<boolean> =>
      this.#database.transact(async (transaction) => {
        const mine = await transaction
          .updateTable('artifact_uploads')
          .set({
            state: 'abandoned',
            claimed_by: null,
            claimed_until: null,
            problem: JSON.stringify(problem.toBody()),
          })
          .where('id', '=', upload.id)
          .where('state', '=', 'arrived')
          .where('claimed_by', '=', ownerId)
          .returning('id')
          .executeTakeFirst();
        if (mine === undefined) return false;
        await this.#record(transaction, upload, 'version.file_refused', { code: problem.code });
        const { versionId } = upload;
        if (versionId !== null && !(mayRemove && (await removeEmpty(transaction, versionId)))) {
          await settleStatus(transaction, versionId);
        }
        return true;
      });
    try {
      return await settle(true);
    } catch (error) {
      // Somebody has put the empty version to some use meanwhile: it stays, as a draft.
      if (sqlState(error) !== FOREIGN_KEY_VIOLATION) throw error;
      return settle(false);
    }
  }

  /** It came another way, or never. Safe to repeat. */
  async abandon(id: string, problem?: OctomilError): Promise<void> {
    await this.#database.kysely
      .updateTable('artifact_uploads')
      .set({ state: 'abandoned', problem: problem === undefined ? null : JSON.stringify(problem.toBody()) })
      .where('id', '=', id)
      .where('state', '=', 'open')
      .execute();
  }

  /** Gives up what has expired, and forgets what is long over and has nothing in the bucket. */
  async expire(): Promise<void> {
    await sql`update artifact_uploads set state = 'abandoned' where state = 'open' and expires_at < now()`.execute(
      this.#database.kysely,
    );
    await sql`delete from artifact_uploads where state in ('completed', 'abandoned')
      and expires_at < now() - interval '2 days' and (header -> 'direct') is null`.execute(this.#database.kysely);
  }

  async #record(
    transaction: Kysely<Tables>,
    upload: ArtifactUpload,
    action: string,
    details: Record<string, unknown>,
  ): Promise<void> {
    const model = await transaction
      .selectFrom('models')
      .select('organization_id')
      .where('id', '=', upload.modelId)
      .executeTakeFirst();
    if (model === undefined) return;
    const version = await transaction
      .selectFrom('versions')
      .select('version')
      .where('id', '=', upload.versionId ?? '')
      .executeTakeFirst();
    await insertEntry({
      organizationId: model.organization_id,
      actor: 'coordinator',
      action,
      resource: `models/${upload.modelId}${version === undefined ? '' : `/versions/${version.version}`}`,
      details: { format: upload.asked?.format ?? null, ...details },
    }).execute(transaction);
  }
}

function uploadOf(row: Selectable<ArtifactUploadsTable>): ArtifactUpload {
  const { fileName, asked } = row.header as unknown as StoredHeader;
  return {
    id: row.id,
    storageKey: row.storage_key,
    modelId: row.model_id,
    versionId: row.version_id,
    fileName,
    layout: { sizeBytes: row.size_bytes, partSizeBytes: row.part_size_bytes, partCount: row.part_count },
    state: row.state,
    asked,
    problem: row.problem === null ? undefined : OctomilError.fromBody(row.problem as unknown as ErrorBody),
    expiresAt: row.expires_at,
  };
}
