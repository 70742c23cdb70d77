import { OctomilError } from '@octomil/shared/errors';
import type { ObjectStore } from '@octomil/shared/storage';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { JsonObject } from '../database/tables.js';
import { sha256Of } from './object-keys.js';
import type { OpenDevice } from './open-store.js';

/** Of one device: more is no use of it, and would fill the disk. */
const MAX_MODELS = 64;

/** Weights that devices keep to themselves at the coordinator, one file for each model; nobody else reads them. */
export class PersonalizedModels {
  readonly #database: Database;
  readonly #objects: ObjectStore;

  constructor({ database, objects }: { database: Database; objects: ObjectStore }) {
    this.#database = database;
    this.#objects = objects;
  }

  /** Replaces what was there. @throws `insufficient_storage` for one model more than a device may keep */
  async put(
    device: OpenDevice,
    model: string,
    given: { readonly bytes: Uint8Array; readonly version: string; readonly metrics: JsonObject },
  ): Promise<JsonObject> {
    const { rows: others } = await sql<{ count: number }>`
      select count(*)::int as count from personalized_models where device_id = ${device.id} and model_id <> ${model}`.execute(
      this.#database.kysely,
    );
    if ((others[0]?.count ?? 0) >= MAX_MODELS) {
      throw new OctomilError(
        'insufficient_storage',
        `device "${device.name}" keeps ${MAX_MODELS} models here, and may keep no more; replace one of them`,
        { details: { limit: MAX_MODELS } },
      );
    }
    const sha256 = sha256Of(given.bytes);
    const objectKey = `personalized/${device.id}/${sha256}`;
    await this.#objects.put(objectKey, given.bytes);
    const { rows } = await sql<{ before: string | null }>`
      with old as (select object_key from personalized_models where device_id = ${device.id} and model_id = ${model})
      insert into personalized_models (device_id, model_id, object_key, sha256, size_bytes, version, metrics, updated_at)
      values (${device.id}, ${model}, ${objectKey}, ${sha256}, ${given.bytes.length}::bigint, ${given.version},
        ${JSON.stringify(given.metrics)}::jsonb, now())
      on conflict (device_id, model_id) do update set object_key = excluded.object_key, sha256 = excluded.sha256,
        size_bytes = excluded.size_bytes, version = excluded.version, metrics = excluded.metrics, updated_at = now()
      returning (select object_key from old) as before`.execute(this.#database.kysely);
    const before = rows[0]?.before;
    if (before != null && before !== objectKey) await this.#deleteUnused(device.id, before);
    return { device_id: device.id, model_id: model, version: given.version, sha256, size_bytes: given.bytes.length };
  }

  /** @param model undefined: the one that was stored last @throws `not_found` */
  async get(device: OpenDevice, model: string | undefined, maxBytes: number): Promise<JsonObject> {
    const { rows } = await sql<Row>`
      select model_id as "modelId", object_key as "objectKey", sha256, version, metrics, updated_at as "updatedAt"
      from personalized_models where device_id = ${device.id}
        ${model === undefined ? sql`` : sql`and model_id = ${model}`}
      order by updated_at desc limit 1`.execute(this.#database.kysely);
    const row = rows[0];
    if (row === undefined) {
      throw new OctomilError(
        'not_found',
        `device "${device.name}" has stored no personalized model; store one by POST`,
      );
    }
    const bytes = await this.#objects.readAll(row.objectKey, maxBytes);
    return {
      device_id: device.id,
      model_id: row.modelId,
      version: row.version,
      weights_data: Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('base64'),
      sha256: row.sha256,
      metrics: row.metrics,
      updated_at: row.updatedAt.toISOString(),
    };
  }

  /** Another model of the device may be the same bytes; nobody else's object is under its key. */
  async #deleteUnused(deviceId: string, objectKey: string): Promise<void> {
    const used = await this.#database.kysely
      .selectFrom('personalized_models')
      .select('device_id')
      .where('device_id', '=', deviceId)
      .where('object_key', '=', objectKey)
      .executeTakeFirst();
    if (used === undefined) await this.#objects.delete(objectKey);
  }
}

interface Row {
  modelId: string;
  objectKey: string;
  sha256: string;
  version: string;
  metrics: JsonObject;
  updatedAt: Date;
}
