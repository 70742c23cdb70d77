import { OctomilError } from '@octomil/shared/errors';
import pg from 'pg';

export interface Accounting {
  readonly roundsChecked: number;
  readonly acceptedUpdates: number;
  readonly lostUpdates: number;
  readonly doubleCounted: number;
}

/**
 * Compares, for every completed training round, the accepted updates with the participants that its checkpoint names.
 *
 * @throws OctomilError `internal` when an accepted update is missing from its checkpoint or counted twice
 */
export async function checkAccounting(databaseUrl: string): Promise<Accounting> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    const { rows } = await client.query<{ accepted: string[]; counted: string[] }>(
      `select
         (select coalesce(json_agg(u.device_id || ' ' || u.sha256 order by u.device_id), '[]')
            from updates u where u.round_id = r.id and u.state = 'accepted') as accepted,
         (select coalesce(json_agg((p->>'device_id') || ' ' || (p->>'update_sha256') order by p->>'device_id'), '[]')
            from json_array_elements((c.lineage->'participants')::json) p) as counted
       from rounds r join checkpoints c on c.round_id = r.id
       where r.kind = 'train' and r.state = 'completed'`,
    );
    let acceptedUpdates = 0;
    let lostUpdates = 0;
    let doubleCounted = 0;
    for (const { accepted, counted } of rows) {
      acceptedUpdates += accepted.length;
      lostUpdates += accepted.filter((update) => !counted.includes(update)).length;
      doubleCounted += counted.length - new Set(counted.map((update) => update.split(' ')[0])).size;
    }
    const accounting = { roundsChecked: rows.length, acceptedUpdates, lostUpdates, doubleCounted };
    if (lostUpdates > 0 || doubleCounted > 0) {
      throw new OctomilError('internal', `${lostUpdates} updates lost, ${doubleCounted} counted twice`, {
        details: accounting,
      });
    }
    return accounting;
  } finally {
    await client.end();
  }
}
