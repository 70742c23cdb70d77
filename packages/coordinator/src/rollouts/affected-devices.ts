import { OctomilError } from '@octomil/shared/errors';
import { type RawBuilder, sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { DeviceModelState } from '../database/tables.js';
import { parseSelector, selectorSql } from '../devices/device-selector.js';
import type { Rollout } from './rollout-store.js';
import { type PlacementRange, shareRanges } from './share.js';

export interface AffectedDevice {
  readonly id: string;
  readonly name: string;
  readonly online: boolean;
  readonly placement: number;
  /** What the device last said of the rollout's model; null before it said anything. */
  readonly state: DeviceModelState | null;
  readonly active_version_id: string | null;
  readonly active_version: string | null;
  readonly reason_code: string | null;
  readonly reason: string | null;
  readonly reported_at: Date | null;
  /** Whether what it said is about this rollout's version. */
  readonly current: boolean;
}

export interface AffectedPage {
  readonly devices: readonly AffectedDevice[];
  /** Where the next page begins; null at the end. */
  readonly nextCursor: string | null;
  readonly total: number;
  /** False: more than were looked at, and the rest follows from how evenly placements are spread. */
  readonly totalIsExact: boolean;
}

export interface PageRequest {
  readonly limit: number;
  readonly offset: number;
  readonly cursor?: string;
}

/** Devices looked at one by one; beyond, the total is an estimate. Here the index of placements is all that is read. */
const LOOKED_AT = 50_000;
/** The same where each device's labels are read too. */
const LOOKED_INTO = 5_000;
/** Devices that a selector names itself are found without a walk, and counted up to this. */
const COUNTED = 10_000;

/** Devices in a rollout's present share that its selector matches: a walk of the index of placements. */
export class AffectedDevices {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** In the order of placements, from where the rollout begins. @throws OctomilError `invalid_input` for a foreign cursor */
  async page(rollout: Rollout, { limit, offset, cursor }: PageRequest): Promise<AffectedPage> {
    const ranges = shareRanges(rollout.placement_offset, rollout.share_ratio);
    const after = cursor === undefined ? undefined : readCursor(cursor, ranges);
    const devices: AffectedDevice[] = [];
    let skip = after === undefined ? offset : 0;
    for (const [index, range] of ranges.entries()) {
      if (devices.length > limit || index < (after?.range ?? 0)) continue;
      const start = index === after?.range ? after : undefined;
      const found = await this.#walk(rollout, range, start, skip, limit + 1 - devices.length);
      // Nothing in this range and more to skip: as many as it has are behind us.
      if (found.length === 0 && skip > 0) skip -= await this.#countIn(rollout, range, skip);
      else skip = 0;
      devices.push(...found);
    }
    const page = devices.slice(0, limit);
    const last = page.at(-1);
    const whole = cursor === undefined && offset === 0 && devices.length <= limit;
    return {
      devices: page,
      nextCursor: devices.length > limit && last !== undefined ? writeCursor(last) : null,
      ...(whole ? { total: page.length, totalIsExact: true } : await this.count(rollout)),
    };
  }

  /** How many there are: exact for small shares, otherwise from how evenly placements are spread. */
  async count(rollout: Rollout): Promise<{ total: number; totalIsExact: boolean }> {
    const selector = parseSelector(rollout.selector);
    if (selector.devices !== undefined || selector.groups !== undefined) return this.#countNamed(rollout);
    const most = Object.keys(selector).length === 0 ? LOOKED_AT : LOOKED_INTO;
    let total = 0;
    let lookedAt = 0;
    let width = 0;
    for (const range of shareRanges(rollout.placement_offset, rollout.share_ratio)) {
      const room = most - lookedAt;
      const matches = selectorSql(selector);
      const { rows } = await sql<{ matching: number; seen: number; last: number | null }>`
        select count(*) filter (where matches) as matching, count(*) as seen, max(placement) as last from (
          select d.placement, ${matches} as matches from devices d where ${inRange(rollout, range)}
          order by d.placement limit ${room}
        ) walked`.execute(this.#database.kysely);
      const { matching = 0, seen = 0, last = null } = rows[0] ?? {};
      total += matching;
      lookedAt += seen;
      if (seen === room && last !== null) {
        width += last - range.from;
        return { total: Math.round((total / width) * rollout.share_ratio), totalIsExact: false };
      }
      width += range.to - range.from;
    }
    return { total, totalIsExact: true };
  }

  /** The plan of one page's statement, for tests. */
  async explain(rollout: Rollout, limit: number): Promise<string> {
    const [range] = shareRanges(rollout.placement_offset, rollout.share_ratio);
    if (range === undefined) return '';
    const { rows } = await sql<{
      'QUERY PLAN': string;
    }>`explain (costs off) ${this.#pageSql(rollout, range, undefined, 0, limit)}`.execute(this.#database.kysely);
    return rows.map((row) => row['QUERY PLAN']).join('\n');
  }

  async #walk(
    rollout: Rollout,
    range: PlacementRange,
    after: Cursor | undefined,
    offset: number,
    limit: number,
  ): Promise<AffectedDevice[]> {
    const { rows } = await sql<AffectedDevice>`${this.#pageSql(rollout, range, after, offset, limit)}`.execute(
      this.#database.kysely,
    );
    return rows;
  }

  /** The page first, then one look-up for each of its devices (`limit` keeps the planner from turning it round). */
  #pageSql(
    rollout: Rollout,
    range: PlacementRange,
    after: Cursor | undefined,
    offset: number,
    limit: number,
  ): RawBuilder<unknown> {
    const columns = sql`d.id, d.device_identifier, d.placement, coalesce(d.lease_until > now(), false) as online`;
    const onward =
      after === undefined ? sql`` : sql`and (d.placement, d.id) > (${after.placement}::float8, ${after.id})`;
    return sql`
      select page.id, page.device_identifier as name, page.online, page.placement, dm.state, dm.active_version_id,
        v.version as active_version, dm.reason_code, dm.reason, dm.reported_at,
        coalesce(dm.rollout_id = ${rollout.id} and dm.version_id = ${rollout.version_id}, false) as current
      from (
        select ${columns} from devices d
        where ${inRange(rollout, range)} and ${selectorSql(parseSelector(rollout.selector))} ${onward}
        order by d.placement, d.id offset ${offset} limit ${limit}
      ) page
      left join lateral (
        select * from device_models said where said.device_id = page.id and said.model_id = ${rollout.model_id} limit 1
      ) dm on true
      left join versions v on v.id = dm.active_version_id
      order by page.placement, page.id`;
  }

  async #countNamed(rollout: Rollout): Promise<{ total: number; totalIsExact: boolean }> {
    let total = 0;
    for (const range of shareRanges(rollout.placement_offset, rollout.share_ratio)) {
      total += await this.#countIn(rollout, range, COUNTED + 1 - total);
    }
    return { total: Math.min(total, COUNTED), totalIsExact: total <= COUNTED };
  }

  async #countIn(rollout: Rollout, range: PlacementRange, atMost: number): Promise<number> {
    const { rows } = await sql<{ found: number }>`
      select count(*) as found from (
        select 1 from devices d where ${inRange(rollout, range)} and ${selectorSql(parseSelector(rollout.selector))}
        limit ${atMost}
      ) counted`.execute(this.#database.kysely);
    return rows[0]?.found ?? 0;
  }
}

function inRange(rollout: Rollout, { from, to }: PlacementRange): RawBuilder<unknown> {
  return sql`d.organization_id = ${rollout.organization_id} and d.status = 'active'
    and d.placement >= ${from}::float8 and d.placement < ${to}::float8`;
}

interface Cursor {
  readonly range: number;
  readonly placement: number;
  readonly id: string;
}

function rangeOf(placement: number, ranges: readonly PlacementRange[]): number {
  return ranges.findIndex(({ from, to }) => placement >= from && placement < to);
}

function writeCursor({ placement, id }: AffectedDevice): string {
  return Buffer.from(JSON.stringify([placement, id])).toString('base64url');
}

function readCursor(cursor: string, ranges: readonly PlacementRange[]): Cursor {
  try {
    const [placement, id, ...others] = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8')) as unknown[];
    // PostgreSQL has no place for NUL.
    if (typeof placement === 'number' && typeof id === 'string' && !id.includes('\0') && others.length === 0) {
      const range = rangeOf(placement, ranges);
      if (range >= 0) return { range, placement, id };
    }
  } catch {
    // Told below, with what to do.
  }
  throw new OctomilError('invalid_input', 'cursor is not one that this list gave; leave it out to begin anew', {
    details: { field: 'cursor' },
  });
}
