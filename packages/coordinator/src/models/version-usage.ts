import { type Kysely, sql } from 'kysely';
import type { Tables } from '../database/tables.js';

/** Something that would break if a version were gone. */
export interface VersionUse {
  readonly kind: 'rollout' | 'training_session' | 'device' | 'version';
  /** For people, such as `rollout 12 (active)`. */
  readonly description: string;
}

/**
 * Who uses these versions: rollouts that decide or will decide what devices run, and the version those would go back to;
 * devices that run one; training that goes on from one. Ended rollouts and trainings are a record, and no use.
 */
export async function usesOf(versionIds: readonly string[], kysely: Kysely<Tables>): Promise<VersionUse[]> {
  if (versionIds.length === 0) return [];
  const ids = sql`${[...versionIds]}::text[]`;
  const { rows: rollouts } = await sql<{ id: number; state: string }>`
    select id, state from rollouts
    where (version_id = any(${ids}) and (state in ('draft', 'active', 'paused', 'rolling_back')
        or (state = 'completed' and not covered)))
      or (previous_version_id = any(${ids}) and state in ('draft', 'active', 'paused', 'rolling_back'))
    order by id desc limit 10`.execute(kysely);
  const { rows: sessions } = await sql<{ id: string; state: string }>`
    select id, state from training_sessions
    where base_version_id = any(${ids}) and state in ('running', 'paused') order by created_at limit 10`.execute(
    kysely,
  );
  const { rows: devices } = await sql<{ version: string; count: number }>`
    select v.version, count(*)::int as count from device_models m
    join versions v on v.id = m.active_version_id join devices d on d.id = m.device_id
    where m.active_version_id = any(${ids}) and m.state <> 'removed' and d.status = 'active'
    group by v.version order by v.version`.execute(kysely);
  return [
    ...rollouts.map(({ id, state }) => ({ kind: 'rollout' as const, description: `rollout ${id} (${state})` })),
    ...sessions.map(({ id, state }) => ({
      kind: 'training_session' as const,
      description: `training session ${id} (${state})`,
    })),
    ...devices.map(({ version, count }) => ({
      kind: 'device' as const,
      description: `${count} ${count === 1 ? 'device that runs' : 'devices that run'} ${version}`,
    })),
  ];
}

/** Versions of the model that were trained from this one and are not among those to be deleted. */
export async function descendantsOf(versionId: string, kysely: Kysely<Tables>): Promise<VersionUse[]> {
  const rows = await kysely
    .selectFrom('versions')
    .select('version')
    .where('base_version_id', '=', versionId)
    .orderBy('sequence')
    .limit(10)
    .execute();
  return rows.map(({ version }) => ({ kind: 'version', description: `version ${version}, which was trained from it` }));
}
