import { randomUUID } from 'node:crypto';
import type { Database } from '../database/database.js';
import { createKey } from './api-keys.js';

export const DEFAULT_ORGANIZATION = 'default';

/**
 * Makes the organization `default` and its first key, once per database, however many coordinators start together.
 *
 * @param keep stores the key before it counts; it is shown nowhere else
 */
export async function bootstrapOrganization(
  database: Database,
  keep: (key: string) => Promise<void>,
): Promise<{ organizationId: string; bootstrapApiKey?: string }> {
  return database.transact(async (transaction) => {
    const made = await transaction
      .insertInto('organizations')
      .values({ id: randomUUID(), name: DEFAULT_ORGANIZATION })
      .onConflict((conflict) => conflict.column('name').doNothing())
      .returning('id')
      .executeTakeFirst();
    if (made === undefined) {
      const existing = await transaction
        .selectFrom('organizations')
        .select('id')
        .where('name', '=', DEFAULT_ORGANIZATION)
        .executeTakeFirstOrThrow();
      return { organizationId: existing.id };
    }
    const { key } = await createKey(transaction, made.id, 'bootstrap', ['admin']);
    await keep(key);
    return { organizationId: made.id, bootstrapApiKey: key };
  });
}
