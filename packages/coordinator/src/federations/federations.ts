import { randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import type { Selectable } from 'kysely';
import type { Database } from '../database/database.js';
import type { FederationMembersTable, FederationsTable } from '../database/tables.js';
import { violatedUnique } from '../database/transact.js';

export type Federation = Selectable<FederationsTable>;
export type FederationMember = Selectable<FederationMembersTable>;

/** Groups of organizations that train together; the one that made it owns it. */
export class Federations {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Those the organization owns, oldest first; `name` matches exactly. */
  list(organizationId: string, name?: string): Promise<Federation[]> {
    let query = this.#database.kysely
      .selectFrom('federations')
      .selectAll()
      .where('organization_id', '=', organizationId)
      .orderBy('created_at')
      .orderBy('id');
    if (name !== undefined) query = query.where('name', '=', name);
    return query.execute();
  }

  /** The owner becomes its first member. @throws OctomilError `conflict` with the existing id */
  async create(organizationId: string, name: string, description: string): Promise<Federation> {
    try {
      return await this.#database.transact(async (transaction) => {
        const row = await transaction
          .insertInto('federations')
          .values({ id: randomUUID(), organization_id: organizationId, name, description })
          .returningAll()
          .executeTakeFirstOrThrow();
        await transaction
          .insertInto('federation_members')
          .values({ federation_id: row.id, organization_id: organizationId, status: 'active' })
          .execute();
        return row;
      });
    } catch (error) {
      if (violatedUnique(error) === undefined) throw error;
      const [existing] = await this.list(organizationId, name);
      throw new OctomilError('conflict', `there is a federation named "${name}" already`, {
        cause: error,
        ...(existing === undefined ? {} : { details: { federation_id: existing.id } }),
      });
    }
  }

  /** By id or exact name. @throws OctomilError `not_found` */
  async get(organizationId: string, idOrName: string): Promise<Federation> {
    const row = await this.#database.kysely
      .selectFrom('federations')
      .selectAll()
      .where('organization_id', '=', organizationId)
      .where((e) => e.or([e('id', '=', idOrName), e('name', '=', idOrName)]))
      .executeTakeFirst();
    if (row === undefined) throw new OctomilError('not_found', `there is no federation "${idOrName}"; create it first`);
    return row;
  }

  members(federationId: string): Promise<FederationMember[]> {
    return this.#database.kysely
      .selectFrom('federation_members')
      .selectAll()
      .where('federation_id', '=', federationId)
      .orderBy('created_at')
      .execute();
  }
}
