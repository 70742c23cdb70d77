import { randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import { type RawBuilder, sql } from 'kysely';
import type { Database } from '../database/database.js';

/** As long as names that are given to `POST /federations`. */
const MAX_NAME_CHARACTERS = 200;

/** Who trains together. */
export interface SessionFederation {
  readonly id: string;
  readonly name: string;
  readonly memberIds: readonly string[];
  /** Not there yet: it is made with the session, so that a request that fails leaves none behind. */
  readonly isNew?: true;
}

/** The organizations of a federation: its owner, and whoever has joined. */
export function membersOf(federationId: string | RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`select owned.organization_id from federations owned where owned.id = ${federationId}
    union select joined.organization_id from federation_members joined
    where joined.federation_id = ${federationId} and joined.status = 'active'`;
}

/**
 * By identifier or name; owned, or joined.
 *
 * @param mayBeNew one that is not there is answered as it will be; see {@link madeFederation}
 * @throws OctomilError `not_found`; `invalid_input` for a name that is too long for a new one
 */
export async function findFederation(
  database: Database,
  organizationId: string,
  reference: string,
  mayBeNew = false,
): Promise<SessionFederation> {
  const { rows } = await sql<SessionFederation>`
    select f.id, f.name, array(${membersOf(sql.ref('f.id'))}) as "memberIds"
    from federations f
    where (f.id = ${reference} or f.name = ${reference}) and (f.organization_id = ${organizationId}
      or exists (select 1 from federation_members m where m.federation_id = f.id
        and m.organization_id = ${organizationId} and m.status = 'active'))
    order by (f.id = ${reference}) desc, (f.organization_id = ${organizationId}) desc limit 1`.execute(database.kysely);
  const federation = rows[0];
  if (federation !== undefined) return federation;
  const value = reference.slice(0, MAX_NAME_CHARACTERS);
  if (!mayBeNew) {
    throw new OctomilError(
      'not_found',
      `there is no federation "${value}"; create it first (octomil federation create)`,
      { details: { field: 'federation', value } },
    );
  }
  if (reference.length > MAX_NAME_CHARACTERS) {
    throw new OctomilError(
      'invalid_input',
      `the federation's name has ${reference.length} characters, more than ${MAX_NAME_CHARACTERS}`,
      { details: { field: 'federation', value } },
    );
  }
  return { id: randomUUID(), name: reference, memberIds: [organizationId], isNew: true };
}

/** The federation, made now if it is new; another request may have made it in the meantime. */
export async function madeFederation(
  database: Database,
  organizationId: string,
  federation: SessionFederation,
): Promise<SessionFederation> {
  if (federation.isNew !== true) return federation;
  const { id, name } = federation;
  await database.transact(async (transaction) => {
    const made = await transaction
      .insertInto('federations')
      .values({ id, organization_id: organizationId, name, description: '' })
      .onConflict((conflict) => conflict.doNothing())
      .returning('id')
      .executeTakeFirst();
    if (made === undefined) return;
    await transaction
      .insertInto('federation_members')
      .values({ federation_id: id, organization_id: organizationId, status: 'active', joined_at: sql`now()` })
      .execute();
  });
  return findFederation(database, organizationId, name);
}
