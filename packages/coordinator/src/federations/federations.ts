import { randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import { type Kysely, type Selectable, sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { FederationMembersTable, FederationsTable, Tables } from '../database/tables.js';
import { violatedUnique } from '../database/transact.js';

/** How an organization stands to a federation. An invited one knows that there is one, and nothing of what is in it. */
export type Membership = 'owner' | 'member' | 'invited';

export interface Federation extends Selectable<FederationsTable> {
  /** Of the organization that asked. */
  readonly membership: Membership;
}

export type FederationMember = Selectable<FederationMembersTable>;

/** A model that one member lets the others read. */
export interface SharedModel {
  readonly id: string;
  readonly name: string;
  readonly framework: string | null;
  readonly description: string;
  /** Its owner, who shared it. */
  readonly sharedBy: string;
  readonly sharedAt: Date;
}

/** Groups of organizations that train together; the one that made it owns it. */
export class Federations {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /**
   * Those the organization owns, oldest first, then those it has joined; `name` matches exactly. Invitations only when
   * asked for: published clients take the first of a name, and anybody may invite under any name.
   */
  async list(
    organizationId: string,
    { name, invited = false }: { readonly name?: string; readonly invited?: boolean } = {},
  ): Promise<Federation[]> {
    const { rows } = await sql<Federation>`
      select f.*, case when f.organization_id = ${organizationId} then 'owner' when m.status = 'active' then 'member'
        else 'invited' end as membership
      from federations f
      left join federation_members m on m.federation_id = f.id and m.organization_id = ${organizationId}
      where ${
        invited
          ? sql`m.status = 'invited' and f.organization_id <> ${organizationId}`
          : sql`(f.organization_id = ${organizationId} or m.status = 'active')`
      } ${name === undefined ? sql`` : sql`and f.name = ${name}`}
      order by (f.organization_id = ${organizationId}) desc, f.created_at, f.id`.execute(this.#database.kysely);
    return rows;
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
          .values({ federation_id: row.id, organization_id: organizationId, status: 'active', joined_at: sql`now()` })
          .execute();
        return { ...row, membership: 'owner' as const };
      });
    } catch (error) {
      if (violatedUnique(error) === undefined) throw error;
      const existing = (await this.list(organizationId, { name })).find(({ membership }) => membership === 'owner');
      throw new OctomilError('conflict', `there is a federation named "${name}" already`, {
        cause: error,
        ...(existing === undefined ? {} : { details: { federation_id: existing.id } }),
      });
    }
  }

  /** By id or exact name: owned before joined before invited. @throws OctomilError `not_found`, for outsiders as well */
  async get(organizationId: string, idOrName: string): Promise<Federation> {
    const { rows } = await sql<Federation>`
      select f.*, case when f.organization_id = ${organizationId} then 'owner' when m.status = 'active' then 'member'
        else 'invited' end as membership
      from federations f
      left join federation_members m on m.federation_id = f.id and m.organization_id = ${organizationId}
      where (f.id = ${idOrName} or f.name = ${idOrName})
        and (f.organization_id = ${organizationId} or m.status is not null)
      order by (f.id = ${idOrName}) desc, (f.organization_id = ${organizationId}) desc, m.status, f.created_at
      limit 1`.execute(this.#database.kysely);
    const [row] = rows;
    if (row !== undefined) return row;
    throw new OctomilError('not_found', `there is no federation "${idOrName.slice(0, 200)}"; create it first`);
  }

  /** As `get`, of one that the organization takes part in. @throws OctomilError `not_found`, `forbidden` before it joined */
  async joined(organizationId: string, idOrName: string): Promise<Federation> {
    const federation = await this.get(organizationId, idOrName);
    if (federation.membership !== 'invited') return federation;
    throw new OctomilError(
      'forbidden',
      `this organization is invited to federation "${federation.name}" and has not joined; POST /api/v1/federations/${federation.id}/join`,
    );
  }

  /** As `get`, of one that the organization owns. @throws OctomilError `not_found`, `forbidden` for members */
  async owned(organizationId: string, idOrName: string): Promise<Federation> {
    const federation = await this.get(organizationId, idOrName);
    if (federation.membership === 'owner') return federation;
    throw new OctomilError(
      'forbidden',
      `federation "${federation.name}" is another organization's; only its owner may do this`,
    );
  }

  /** Invitations that are open are the owner's matter. */
  members({ id, membership }: Pick<Federation, 'id' | 'membership'>): Promise<FederationMember[]> {
    let query = this.#database.kysely
      .selectFrom('federation_members')
      .selectAll()
      .where('federation_id', '=', id)
      .orderBy('created_at')
      .orderBy('organization_id');
    if (membership !== 'owner') query = query.where('status', '=', 'active');
    return query.execute();
  }

  /**
   * All of them or none; one that is in already stays as it is.
   *
   * @throws OctomilError `not_found` naming an organization that there is not
   */
  async invite(federation: Federation, organizationIds: readonly string[]): Promise<FederationMember[]> {
    const ids = [...new Set(organizationIds)];
    return this.#database.transact(async (transaction) => {
      const known = await transaction.selectFrom('organizations').select('id').where('id', 'in', ids).execute();
      const unknown = ids.find((id) => !known.some((row) => row.id === id));
      if (unknown !== undefined) {
        throw new OctomilError('not_found', `there is no organization ${JSON.stringify(unknown.slice(0, 100))}`, {
          details: { field: 'org_ids', value: unknown.slice(0, 100) },
        });
      }
      await transaction
        .insertInto('federation_members')
        .values(
          ids.map((id) => ({
            federation_id: federation.id,
            organization_id: id,
            status: 'invited' as const,
            invited_by: federation.organization_id,
          })),
        )
        .onConflict((conflict) => conflict.doNothing())
        .execute();
      return transaction
        .selectFrom('federation_members')
        .selectAll()
        .where('federation_id', '=', federation.id)
        .where('organization_id', 'in', ids)
        .orderBy('created_at')
        .orderBy('organization_id')
        .execute();
    });
  }

  /** Safe to repeat. @throws OctomilError `not_found` without an invitation */
  async join(organizationId: string, idOrName: string): Promise<FederationMember> {
    const { id } = await this.get(organizationId, idOrName);
    await this.#database.kysely
      .updateTable('federation_members')
      .set({ status: 'active', joined_at: sql`now()` })
      .where('federation_id', '=', id)
      .where('organization_id', '=', organizationId)
      .where('status', '=', 'invited')
      .execute();
    return this.#database.kysely
      .selectFrom('federation_members')
      .selectAll()
      .where('federation_id', '=', id)
      .where('organization_id', '=', organizationId)
      .executeTakeFirstOrThrow();
  }

  /**
   * Ends a membership or an invitation, and what the organization shared with it. No further round asks its devices; the
   * answers that they gave stay in what was made of them.
   *
   * @throws OctomilError `not_found`, `wrong_state` for the owner
   */
  async remove(federation: Federation, organizationId: string): Promise<void> {
    if (organizationId === federation.organization_id) {
      throw new OctomilError('wrong_state', `the owner of federation "${federation.name}" cannot leave it`);
    }
    await this.#database.transact(async (transaction) => {
      const removed = await transaction
        .deleteFrom('federation_members')
        .where('federation_id', '=', federation.id)
        .where('organization_id', '=', organizationId)
        .returning('organization_id')
        .executeTakeFirst();
      if (removed === undefined) {
        throw new OctomilError(
          'not_found',
          `organization ${organizationId.slice(0, 100)} is no member of federation "${federation.name}"`,
        );
      }
      await transaction
        .deleteFrom('federation_models')
        .where('federation_id', '=', federation.id)
        .where('shared_by', '=', organizationId)
        .execute();
    });
  }

  /**
   * Lets the other members read a model of the caller's own. Safe to repeat.
   *
   * @throws OctomilError `forbidden` for who is no member any more: nothing would end what it shares after it left
   */
  async share(federation: Federation, modelId: string, organizationId: string): Promise<void> {
    await this.#database.transact(async (transaction) => {
      // An owner cannot leave.
      if (organizationId !== federation.organization_id) await holdMembership(transaction, federation, organizationId);
      await transaction
        .insertInto('federation_models')
        .values({ federation_id: federation.id, model_id: modelId, shared_by: organizationId })
        .onConflict((conflict) => conflict.doNothing())
        .execute();
    });
  }

  /** @returns false when it was not shared there. */
  async unshare(federation: Federation, modelId: string): Promise<boolean> {
    const { numDeletedRows } = await this.#database.kysely
      .deleteFrom('federation_models')
      .where('federation_id', '=', federation.id)
      .where('model_id', '=', modelId)
      .executeTakeFirst();
    return numDeletedRows > 0n;
  }

  /** By name. */
  async models(federationId: string): Promise<SharedModel[]> {
    const { rows } = await sql<SharedModel>`
      select m.id, m.name, m.framework, m.description, s.shared_by as "sharedBy", s.created_at as "sharedAt"
      from federation_models s join models m on m.id = s.model_id
      where s.federation_id = ${federationId} and m.deleted_at is null order by m.name, m.id`.execute(
      this.#database.kysely,
    );
    return rows;
  }
}

/** A removal at the same time waits until the transaction ends, and sees what it did. @throws OctomilError `forbidden` */
async function holdMembership(
  transaction: Kysely<Tables>,
  { id, name }: Federation,
  organizationId: string,
): Promise<void> {
  const member = await transaction
    .selectFrom('federation_members')
    .select('status')
    .where('federation_id', '=', id)
    .where('organization_id', '=', organizationId)
    .where('status', '=', 'active')
    .forShare()
    .executeTakeFirst();
  if (member !== undefined) return;
  throw new OctomilError(
    'forbidden',
    `this organization is no member of federation "${name}" any more; join it again to share models`,
  );
}
