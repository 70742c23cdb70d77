import { randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import type { Selectable } from 'kysely';
import type { Database } from '../database/database.js';
import type { OrganizationsTable } from '../database/tables.js';
import { createKey } from './api-keys.js';
import { DEFAULT_ORGANIZATION } from './bootstrap.js';

export type Organization = Selectable<OrganizationsTable>;

/**
 * The organizations of one coordinator. Whoever runs it has the first one, `default`, and its admin keys make the others:
 * there is no account above organizations.
 */
export class Organizations {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /**
   * Makes an organization and its first key, which may do everything in it and is shown once.
   *
   * @throws OctomilError `conflict` with the id of the organization that has the name
   */
  create(name: string): Promise<{ organization: Organization; key: string }> {
    return this.#database.transact(async (transaction) => {
      const organization = await transaction
        .insertInto('organizations')
        .values({ id: randomUUID(), name })
        .onConflict((conflict) => conflict.column('name').doNothing())
        .returningAll()
        .executeTakeFirst();
      if (organization === undefined) {
        const existing = await transaction
          .selectFrom('organizations')
          .select('id')
          .where('name', '=', name)
          .executeTakeFirst();
        throw new OctomilError('conflict', `there is an organization named "${name}" already`, {
          details: { org_id: existing?.id ?? null },
        });
      }
      const { key } = await createKey(transaction, organization.id, 'first', ['admin']);
      return { organization, key };
    });
  }

  list(): Promise<Organization[]> {
    return this.#database.kysely.selectFrom('organizations').selectAll().orderBy('created_at').orderBy('id').execute();
  }

  /** @throws OctomilError `not_found` */
  async get(id: string): Promise<Organization> {
    const found = await this.#database.kysely
      .selectFrom('organizations')
      .selectAll()
      .where('id', '=', id)
      .executeTakeFirst();
    if (found === undefined) throw new OctomilError('not_found', `there is no organization ${id}`);
    return found;
  }

  /** Whether it is the one whose admins run this coordinator. */
  async isOperator(id: string): Promise<boolean> {
    return (await this.get(id)).name === DEFAULT_ORGANIZATION;
  }
}
