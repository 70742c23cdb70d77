import { OctomilError } from '@octomil/shared/errors';
import { type Kysely, sql } from 'kysely';
import { type Migration, Migrator } from 'kysely/migration';
import * as foundation from './migrations/0001-foundation.js';
import * as registryAndRollouts from './migrations/0002-registry-and-rollouts.js';
import * as inference from './migrations/0003-inference.js';
import * as featureProposals from './migrations/0004-feature-proposals.js';
import * as arrivedUpdates from './migrations/0005-arrived-updates.js';
import * as artifactUploads from './migrations/0006-artifact-uploads.js';
import * as rolloutFigures from './migrations/0007-rollout-figures.js';
import * as firstDrift from './migrations/0008-first-drift.js';
import * as conversionsAgain from './migrations/0009-conversions-again.js';
import * as progressEvents from './migrations/0010-progress-events.js';
import { withTransactionScope } from './transaction-guard.js';

/** Every migration, in order. Listed here rather than found in a folder, so that a bundle or a moved file cannot lose one. */
export const MIGRATIONS: Readonly<Record<string, Migration>> = {
  '0001-foundation': foundation,
  '0002-registry-and-rollouts': registryAndRollouts,
  '0003-inference': inference,
  '0004-feature-proposals': featureProposals,
  '0005-arrived-updates': arrivedUpdates,
  '0006-artifact-uploads': artifactUploads,
  '0007-rollout-figures': rolloutFigures,
  '0008-first-drift': firstDrift,
  '0009-conversions-again': conversionsAgain,
  '0010-progress-events': progressEvents,
};

/**
 * Brings the schema up to this build's, under Kysely's migration lock. Forward only.
 *
 * @throws OctomilError `schema_newer` when the database has migrations that this build does not know
 */
export async function migrateToLatest<T>(
  kysely: Kysely<T>,
  migrations: Readonly<Record<string, Migration>> = MIGRATIONS,
): Promise<string[]> {
  const applied = await refuseNewerSchema(kysely, migrations);
  // The usual case, for one statement in place of Kysely's reading of every table: a restart is quick.
  if (Object.keys(migrations).every((name) => applied.has(name))) return [];
  const migrator = new Migrator({ db: kysely, provider: { getMigrations: async () => ({ ...migrations }) } });
  const { error, results } = await withTransactionScope(() => migrator.migrateToLatest());
  if (error !== undefined) {
    // Somebody newer may have migrated between the check and the lock.
    await refuseNewerSchema(kysely, migrations);
    throw error;
  }
  return (results ?? []).map((result) => result.migrationName);
}

/** @returns the names of the migrations that were applied */
async function refuseNewerSchema<T>(
  kysely: Kysely<T>,
  migrations: Readonly<Record<string, Migration>>,
): Promise<Set<string>> {
  const found = await sql<{ present: boolean }>`
    select to_regclass('kysely_migration') is not null as present`.execute(kysely);
  if (found.rows[0]?.present !== true) return new Set();
  const applied = await sql<{ name: string }>`select name from kysely_migration order by name`.execute(kysely);
  const unknown = applied.rows.map((row) => row.name).filter((name) => !Object.hasOwn(migrations, name));
  if (unknown.length > 0) {
    throw new OctomilError(
      'schema_newer',
      `the database was migrated by a newer Octomil (${unknown.join(', ')}); run that version, or restore a backup`,
      { details: { unknown_migrations: unknown } },
    );
  }
  return new Set(applied.rows.map((row) => row.name));
}
