import { OctomilError } from '@octomil/shared/errors';
import { type Kysely, sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { Tables } from '../database/tables.js';
import { sqlState } from '../database/transact.js';
import type { ArtifactObjects } from './artifact-objects.js';
import type { Model } from './model-store.js';
import type { Version } from './version-store.js';
import { descendantsOf, usesOf, type VersionUse } from './version-usage.js';

const FOREIGN_KEY_VIOLATION = '23503';

/** Takes versions and models away, when nothing needs them. */
export class Removal {
  readonly #database: Database;
  readonly #artifacts: ArtifactObjects;

  constructor(database: Database, artifacts: ArtifactObjects) {
    this.#database = database;
    this.#artifacts = artifacts;
  }

  /**
   * Removes a draft or deprecated version with its files and its ended rollouts.
   *
   * @throws OctomilError `wrong_state` for a published version, and for one in use, naming by what
   */
  async deleteVersion(version: Version): Promise<void> {
    const what = `version ${version.version}`;
    const keys = await this.#transact(what, async (transaction) => {
      const row = await transaction
        .selectFrom('versions')
        .select('status')
        .where('id', '=', version.id)
        .forUpdate()
        .executeTakeFirst();
      if (row === undefined) return [];
      if (row.status === 'published') {
        throw new OctomilError('wrong_state', `${what} is published; deprecate it before it is deleted`, {
          details: { status: row.status },
        });
      }
      refuse(what, [...(await usesOf([version.id], transaction)), ...(await descendantsOf(version.id, transaction))]);
      return removeVersions([version.id], transaction);
    });
    await this.#artifacts.deleteUnreferenced(keys);
  }

  /**
   * Removes a model with its versions and files. A model that was trained leaves its row, out of reach, for the record of
   * its trainings; its name is free again.
   *
   * @throws OctomilError `wrong_state` when training goes on or a version is in use, naming by what
   */
  async deleteModel(model: Model): Promise<void> {
    const what = `model "${model.name}"`;
    const keys = await this.#transact(what, async (transaction) => {
      await transaction.selectFrom('models').select('id').where('id', '=', model.id).forUpdate().execute();
      const versions = await transaction.selectFrom('versions').select('id').where('model_id', '=', model.id).execute();
      const ids = versions.map(({ id }) => id);
      const sessions = await transaction
        .selectFrom('training_sessions')
        .select(['id', 'state'])
        .where('model_id', '=', model.id)
        .execute();
      const running = sessions.filter(({ state }) => state === 'running' || state === 'paused');
      refuse(what, [
        ...running.map(({ id, state }) => ({
          kind: 'training_session' as const,
          description: `training session ${id} (${state})`,
        })),
        ...(await usesOf(ids, transaction)),
      ]);
      const removed = await removeVersions(ids, transaction);
      await transaction.deleteFrom('federation_models').where('model_id', '=', model.id).execute();
      await sql`delete from device_models where model_id = ${model.id}`.execute(transaction);
      if (sessions.length === 0) await transaction.deleteFrom('models').where('id', '=', model.id).execute();
      else {
        await sql`update models set deleted_at = now() where id = ${model.id}`.execute(transaction);
      }
      return removed;
    });
    await this.#artifacts.deleteUnreferenced(keys);
  }

  async #transact<T>(what: string, work: (transaction: Kysely<Tables>) => Promise<T>): Promise<T> {
    try {
      return await this.#database.transact(work);
    } catch (error) {
      if (sqlState(error) !== FOREIGN_KEY_VIOLATION) throw error;
      throw new OctomilError('wrong_state', `${what} was put to use just now; look again before deleting it`, {
        cause: error,
      });
    }
  }
}

function refuse(what: string, uses: readonly VersionUse[]): void {
  if (uses.length === 0) return;
  const [first] = uses;
  throw new OctomilError(
    'wrong_state',
    `${what} is in use by ${uses.map(({ description }) => description).join(', ')}; end that first`,
    { details: { in_use_by: uses.map(({ kind, description }) => ({ kind, description })), kind: first?.kind ?? null } },
  );
}

/** @returns the objects that may be unreferenced once this commits */
async function removeVersions(versionIds: readonly string[], transaction: Kysely<Tables>): Promise<string[]> {
  if (versionIds.length === 0) return [];
  const ids = sql`${[...versionIds]}::text[]`;
  for (const statement of [
    sql`delete from rollouts where version_id = any(${ids})`,
    sql`update rollouts set previous_version_id = null where previous_version_id = any(${ids})`,
    sql`update device_models set
        version_id = case when version_id = any(${ids}) then null else version_id end,
        active_version_id = case when active_version_id = any(${ids}) then null else active_version_id end,
        previous_version_id = case when previous_version_id = any(${ids}) then null else previous_version_id end
      where version_id = any(${ids}) or active_version_id = any(${ids}) or previous_version_id = any(${ids})`,
    sql`update training_sessions set
        base_version_id = case when base_version_id = any(${ids}) then null else base_version_id end,
        result_version_id = case when result_version_id = any(${ids}) then null else result_version_id end
      where base_version_id = any(${ids}) or result_version_id = any(${ids})`,
    sql`update versions set base_version_id = null where base_version_id = any(${ids})`,
  ]) {
    await statement.execute(transaction);
  }
  const artifacts = await transaction
    .deleteFrom('artifacts')
    .where('version_id', 'in', versionIds)
    .returning('object_key')
    .execute();
  await transaction.deleteFrom('versions').where('id', 'in', versionIds).execute();
  return artifacts.map(({ object_key }) => object_key);
}
