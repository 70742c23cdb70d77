import { type RawBuilder, type SqlBool, sql } from 'kysely';

/**
 * Whether a row `r` of `rollouts` tells a row `d` of `devices` what to run, by its share (as `inShare`) and by what its
 * selector says of labels, groups and ids. Capabilities are left out: the device says them itself.
 */
export const REACHES: RawBuilder<SqlBool> = sql<SqlBool>`(
  case
    when r.share_ratio <= 0 then false
    when r.share_ratio >= 1 then true
    else d.placement >= case when r.placement_offset = 0 then 0 else 1 - r.placement_offset end
        and d.placement < case when r.placement_offset = 0 then 0 else 1 - r.placement_offset end + r.share_ratio
      or d.placement < least(1 - r.placement_offset + r.share_ratio - 1, 1 - r.placement_offset) and r.placement_offset > 0
  end
  and (r.selector = '{}'::jsonb
    or d.labels @> coalesce(r.selector -> 'labels', '{}'::jsonb)
      and (r.selector -> 'devices' is null or r.selector -> 'devices' ? d.id)
      and (r.selector -> 'groups' is null or exists (
        select 1 from device_group_members gm join device_groups dg on dg.id = gm.group_id
        where gm.device_id = d.id and (r.selector -> 'groups' ? dg.id or r.selector -> 'groups' ? dg.name)))))`;
