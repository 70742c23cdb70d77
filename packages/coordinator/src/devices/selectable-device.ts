import { type Kysely, sql } from 'kysely';
import type { JsonObject, Tables } from '../database/tables.js';
import type { SelectableDevice } from './device-selector.js';

export interface PlacedDevice extends SelectableDevice {
  readonly organizationId: string;
  /** Uniform in [0, 1). */
  readonly placement: number;
  readonly status: 'active' | 'revoked';
}

/** What decides which rollouts mean these devices, by id; unknown ids are left out. One statement. */
export async function readSelectableDevices(
  kysely: Kysely<Tables>,
  deviceIds: readonly string[],
): Promise<Map<string, PlacedDevice>> {
  const { rows } = await sql<{
    id: string;
    organization_id: string;
    placement: number;
    status: 'active' | 'revoked';
    labels: JsonObject;
    capabilities: JsonObject;
    facts: JsonObject;
    group_words: string[];
  }>`
    select d.id, d.organization_id, d.placement, d.status, d.labels, d.capabilities, d.facts,
      array(select word from device_group_members gm join device_groups dg on dg.id = gm.group_id
        cross join lateral (values (dg.id), (dg.name)) words(word)
        where gm.device_id = d.id and dg.organization_id = d.organization_id) as group_words
    from devices d where d.id = any(${deviceIds}::text[])`.execute(kysely);
  return new Map(
    rows.map((row) => [
      row.id,
      {
        id: row.id,
        organizationId: row.organization_id,
        placement: row.placement,
        status: row.status,
        labels: row.labels,
        capabilities: row.capabilities,
        facts: row.facts,
        groups: row.group_words,
      },
    ]),
  );
}
