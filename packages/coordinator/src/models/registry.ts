import { createHash } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import { type Architecture, encodeModelDocument, type ModelDocument, parseModelDocument } from '@octomil/shared/models';
import type { ObjectStore } from '@octomil/shared/storage';
import type { Kysely } from 'kysely';
import type { Database } from '../database/database.js';
import type { Tables } from '../database/tables.js';
import type { CreatedVersion, TrainingBase, TrainingRegistry, VersionRequest } from '../training/ports.js';
import { artifactKey, lockObject } from './artifact-objects.js';
import { ModelStore } from './model-store.js';
import { type Artifact, VersionStore, type VersionWithArtifacts } from './version-store.js';

export const WEIGHTS_FORMAT = 'safetensors';
export const DOCUMENT_FORMAT = 'model.json';
/** A model document is read whole. */
export const MAX_DOCUMENT_BYTES = 64 * 1024 * 1024;

export interface RegistryOptions {
  readonly database: Database;
  readonly objects: ObjectStore;
}

/** Models, their immutable versions, and what training needs of both. */
export class Registry implements TrainingRegistry {
  readonly models: ModelStore;
  readonly versions: VersionStore;
  readonly objects: ObjectStore;
  readonly #database: Database;

  constructor({ database, objects }: RegistryOptions) {
    this.#database = database;
    this.objects = objects;
    this.models = new ModelStore(database);
    this.versions = new VersionStore(database);
  }

  /**
   * Without a version: the newest published one that holds weights and a document.
   *
   * @throws OctomilError `invalid_input` when the named version lacks either
   */
  async baseFor(modelId: string, version: string | undefined): Promise<TrainingBase | undefined> {
    if (version === undefined) {
      const published = await this.versions.list(modelId, { status: 'published' });
      const usable = published.find((row) => artifactOf(row, WEIGHTS_FORMAT) && artifactOf(row, DOCUMENT_FORMAT));
      return usable === undefined ? undefined : this.#base(usable);
    }
    const named = await this.versions.find(modelId, version);
    return named === undefined ? undefined : this.#base(named);
  }

  async #base(version: VersionWithArtifacts): Promise<TrainingBase> {
    const weights = artifactOf(version, WEIGHTS_FORMAT);
    const document = artifactOf(version, DOCUMENT_FORMAT);
    if (weights === undefined || document === undefined) {
      throw new OctomilError(
        'invalid_input',
        `version ${version.version} cannot be a base: it holds ${version.artifacts.map(({ format }) => format).join(', ') || 'no files'}, and training needs ${WEIGHTS_FORMAT} and ${DOCUMENT_FORMAT}`,
      );
    }
    return {
      versionId: version.id,
      checkpointId: version.checkpoint_id,
      document: parseModelDocument(await this.objects.readAll(document.object_key, MAX_DOCUMENT_BYTES)),
      weights: { objectKey: weights.object_key, sha256: weights.sha256, sizeBytes: weights.size_bytes },
    };
  }

  /** Repeating it for the same training session answers the version that exists. */
  async createVersionFromCheckpoint(request: VersionRequest, transaction: Kysely<Tables>): Promise<CreatedVersion> {
    // The lock comes first: a second caller then sees what the first one made.
    await transaction.selectFrom('models').select('id').where('id', '=', request.modelId).forUpdate().execute();
    const existing = await transaction
      .selectFrom('versions')
      .select(['id', 'version', 'sequence'])
      .where('model_id', '=', request.modelId)
      .where('session_id', '=', request.sessionId)
      .executeTakeFirst();
    if (existing !== undefined) {
      return { versionId: existing.id, version: existing.version, sequence: existing.sequence };
    }
    const document = await this.#storeDocument(request.document, transaction);
    const { checkpoint } = request;
    const row = await this.versions.create(
      {
        modelId: request.modelId,
        requestedVersion: request.requestedVersion,
        status: request.publish ? 'published' : 'draft',
        description: '',
        baseVersionId: request.baseVersionId,
        checkpointId: checkpoint.id,
        sessionId: request.sessionId,
        createdBy: `session:${request.sessionId}`,
        lineage: request.lineage,
        metrics: request.metrics,
        artifacts: [
          {
            format: WEIGHTS_FORMAT,
            file_name: 'weights.safetensors',
            object_key: checkpoint.objectKey,
            sha256: checkpoint.sha256,
            size_bytes: checkpoint.sizeBytes,
          },
          { format: DOCUMENT_FORMAT, file_name: 'model.json', ...document },
        ],
      },
      transaction,
    );
    return { versionId: row.id, version: row.version, sequence: row.sequence };
  }

  async setArchitecture(modelId: string, architecture: Architecture, target: string | null): Promise<void> {
    await this.#database.kysely
      .updateTable('models')
      .set({ architecture: JSON.stringify(architecture), target })
      .where('id', '=', modelId)
      .where('architecture', 'is', null)
      .execute();
  }

  /** Under its digest, so that a repetition writes the same object. */
  async #storeDocument(
    document: ModelDocument,
    transaction: Kysely<Tables>,
  ): Promise<{ object_key: string; sha256: string; size_bytes: number }> {
    const bytes = encodeModelDocument(document);
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    const object_key = artifactKey(sha256);
    await lockObject(transaction, object_key);
    await this.objects.put(object_key, bytes);
    return { object_key, sha256, size_bytes: bytes.length };
  }
}

export function artifactOf(version: VersionWithArtifacts, format: string): Artifact | undefined {
  return version.artifacts.find((artifact) => artifact.format === format);
}
