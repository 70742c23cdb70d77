import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { DeviceFacts } from './desired.js';

/** One statement reads so many devices. */
const MAX_AT_ONCE = 1_000;

/** What decides about these devices, in one statement per thousand. Revoked devices are left out. */
export async function readDeviceFacts(
  database: Database,
  deviceIds: readonly string[],
): Promise<Map<string, DeviceFacts>> {
  const found = new Map<string, DeviceFacts>();
  for (let start = 0; start < deviceIds.length; start += MAX_AT_ONCE) {
    const ids = deviceIds.slice(start, start + MAX_AT_ONCE);
    const { rows } = await sql<{
      id: string;
      organization_id: string;
      placement: number;
      labels: Record<string, string>;
      capabilities: Record<string, unknown>;
      facts: Record<string, unknown>;
      groups: string[] | null;
    }>`
      select d.id, d.organization_id, d.placement, d.labels, d.capabilities, d.facts, member.groups
      from devices d left join (
        select gm.device_id, array_agg(dg.id) || array_agg(dg.name) as groups
        from device_group_members gm join device_groups dg on dg.id = gm.group_id
        where gm.device_id = any(${ids}::text[]) group by gm.device_id
      ) member on member.device_id = d.id
      where d.id = any(${ids}::text[]) and d.status = 'active'`.execute(database.kysely);
    for (const { organization_id, groups, ...row } of rows) {
      found.set(row.id, { ...row, organizationId: organization_id, groups: groups ?? [] });
    }
  }
  return found;
}
