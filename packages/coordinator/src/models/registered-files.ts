import { OctomilError } from '@octomil/shared/errors';
import type { ObjectStore } from '@octomil/shared/storage';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { JsonObject } from '../database/tables.js';
import type { KeyPrincipal } from '../http/principal.js';
import { UPLOADS } from './artifact-objects.js';
import type { Model } from './model-store.js';
import type { Version } from './version-store.js';
import type { VersionUploads } from './version-upload.js';
import { wrongDigest } from './wrong-digest.js';

export interface RegistrationRequest {
  readonly version: string | null;
  readonly storagePath: string;
  readonly format: string;
  readonly description: string;
  readonly sha256?: string;
  readonly sizeBytes?: number;
  readonly metrics?: JsonObject;
}

interface KnownFile {
  readonly sha256: string;
  readonly size_bytes: number;
}

/** Versions made of files that the store holds already. */
export class RegisteredFiles {
  readonly #database: Database;
  readonly #objects: ObjectStore;
  readonly #uploads: VersionUploads;

  constructor(database: Database, objects: ObjectStore, uploads: VersionUploads) {
    this.#database = database;
    this.#objects = objects;
    this.#uploads = uploads;
  }

  /**
   * Only an upload for this model, or a file that one of the organization's versions or checkpoints is made of: a digest
   * that somebody else's file has is no key to it.
   *
   * @throws OctomilError `invalid_input` for an address elsewhere, `not_found`, `checksum_mismatch`, `conflict`
   */
  async add(key: KeyPrincipal, model: Model, request: RegistrationRequest): Promise<Version> {
    const { storagePath, format, version, description, sha256, metrics } = request;
    if (/^[a-z0-9+.-]+:/i.test(storagePath) || storagePath.startsWith('/')) {
      throw new OctomilError(
        'invalid_input',
        'storage_path must be a key of this coordinator’s own store, such as a storage_key or model_path it answered; upload the file for anything else',
      );
    }
    const fields = {
      version,
      description,
      formats: [],
      createdBy: `key:${key.keyId}`,
      ...(metrics === undefined ? {} : { metrics }),
    };
    if (storagePath.startsWith(`${UPLOADS}${model.id}/`)) {
      return this.#uploads.confirm(model.id, {
        ...fields,
        storageKey: storagePath,
        sizeBytes: request.sizeBytes ?? (await this.#objects.stat(storagePath))?.sizeBytes ?? 0,
        format,
        ...(sha256 === undefined ? {} : { sha256 }),
      });
    }
    const known = await this.#find(key.organizationId, storagePath);
    if (known === undefined) {
      throw new OctomilError('not_found', `there is no file ${storagePath} of this organization in the store`);
    }
    if (sha256 !== undefined && sha256 !== known.sha256) throw wrongDigest(known.sha256, sha256);
    if (request.sizeBytes !== undefined && request.sizeBytes !== known.size_bytes) {
      throw new OctomilError(
        'invalid_input',
        `size_bytes is ${request.sizeBytes}, and the file has ${known.size_bytes}`,
      );
    }
    if ((await this.#objects.stat(storagePath)) === undefined) {
      throw new OctomilError('not_found', `the file ${storagePath} is missing in the store; restore it, or upload it`);
    }
    return this.#uploads.register(model.id, fields, {
      objectKey: storagePath,
      fileName: `model.${format}`,
      format,
      sha256: known.sha256,
      sizeBytes: known.size_bytes,
    });
  }

  async #find(organizationId: string, objectKey: string): Promise<KnownFile | undefined> {
    const { rows } = await sql<KnownFile>`
      select a.sha256, a.size_bytes from artifacts a
        join versions v on v.id = a.version_id join models m on m.id = v.model_id
        where a.object_key = ${objectKey} and m.organization_id = ${organizationId}
      union all
      select sha256, size_bytes from checkpoints where object_key = ${objectKey} and organization_id = ${organizationId}
      limit 1`.execute(this.#database.kysely);
    return rows[0];
  }
}
