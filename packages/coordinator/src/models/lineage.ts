import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { JsonObject } from '../database/tables.js';

/** More ancestors than any chain has, in case of a damaged one. */
const MAX_DEPTH = 1000;

interface Link {
  readonly id: string;
  readonly version: string;
  readonly sequence: number;
  readonly status: string;
  readonly base_version_id: string | null;
  readonly session_id: string | null;
  readonly created_by: string | null;
  readonly created_at: Date;
  readonly lineage: JsonObject;
  readonly federation_id: string | null;
  readonly strategy: string | null;
  readonly checkpoint_id: string | null;
  readonly checkpoint_sha256: string | null;
  readonly round_id: string | null;
  readonly rounds: number;
  readonly participants: number;
  readonly digests: Readonly<Record<string, string>>;
}

/** How a version came to be, as JSON: itself first, then what it was trained from, back to the first. */
export async function lineageJson(database: Database, versionId: string): Promise<Record<string, unknown>[]> {
  const { rows } = await sql<Link>`
    with recursive chain as (
      select v.*, 0 as depth from versions v where v.id = ${versionId}
      union all
      select v.*, chain.depth + 1 from versions v join chain on v.id = chain.base_version_id
        where chain.depth < ${MAX_DEPTH}::int
    )
    select chain.id, chain.version, chain.sequence, chain.status, chain.base_version_id, chain.session_id,
      chain.created_by, chain.created_at, chain.lineage, chain.checkpoint_id,
      s.federation_id, chain.lineage->>'strategy' as strategy, c.sha256 as checkpoint_sha256, c.round_id,
      (select count(distinct r.number)::int from rounds r
        where r.session_id = chain.session_id and r.kind = 'train' and r.state = 'completed') as rounds,
      (select count(distinct u.device_id)::int from updates u join rounds r on r.id = u.round_id
        where r.session_id = chain.session_id and r.kind = 'train' and u.state = 'accepted') as participants,
      coalesce((select jsonb_object_agg(a.format, a.sha256) from artifacts a where a.version_id = chain.id), '{}')
        as digests
    from chain
    left join training_sessions s on s.id = chain.session_id
    left join checkpoints c on c.id = chain.checkpoint_id
    order by chain.depth`.execute(database.kysely);
  return rows.map((row) => ({
    version_id: row.id,
    version: row.version,
    sequence: row.sequence,
    status: row.status,
    origin: row.session_id === null ? 'upload' : 'training',
    base_version_id: row.base_version_id,
    session_id: row.session_id,
    federation_id: row.federation_id,
    strategy: row.strategy,
    rounds: row.rounds,
    participants: row.participants,
    checkpoint_id: row.checkpoint_id,
    checkpoint_sha256: row.checkpoint_sha256,
    round_id: row.round_id,
    digests: row.digests,
    details: row.lineage,
    created_by: row.created_by,
    created_at: row.created_at.toISOString(),
  }));
}
