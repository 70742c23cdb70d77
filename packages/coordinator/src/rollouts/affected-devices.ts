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
  /** False: more than were counted, and the rest follows from how evenly placements are spread. */
  readonly totalIsExact: boolean;
}

export interface PageRequest {
  readonly limit: number;
  readonly offset: number;
  readonly cursor?: string;
}

/** Devices counted one by one; beyond, the total is an estimate, good to about a hundredth. */
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
    return {
      devices: page,
      nextCursor: devices.length > limit && last !== undefined ? writeCursor(last) : null,
      ...(await this.count(rollout)),
    };
  }

  /** How many there are: exact up to ten thousand. */
  async count(rollout: Rollout): Promise<{ total: number; totalIsExact: boolean }> {
    let total = 0;
    let walkedWidth = 0;
    const ranges = shareRanges(rollout.placement_offset, rollout.share_ratio);
    for (const range of ranges) {
      const room = COUNTED - total;
      const { rows } = await sql<{ found: number; last: number | null }>`
        select count(*) as found, max(placement) as last from (
          ${this.#inRange(rollout, range, sql`d.placement`)} order by d.placement limit ${room + 1}
        ) counted`.execute(this.#database.kysely);
      const { found = 0, last = null } = rows[0] ?? {};
      if (found > room && last !== null) {
        walkedWidth += last - range.from;
        return { total: Math.round(((total + found) / walkedWidth) * rollout.share_ratio), totalIsExact: false };
      }
      total += found;
      walkedWidth += range.to - range.from;
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

  /** The page first, then what is said of its devices: the join never sees more than a page. */
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
        ${this.#inRange(rollout, range, columns)} ${onward}
        order by d.placement, d.id offset ${offset} limit ${limit}
      ) page
      left join device_models dm on dm.device_id = page.id and dm.model_id = ${rollout.model_id}
      left join versions v on v.id = dm.active_version_id
      order by page.placement, page.id`;
  }

  #inRange(rollout: Rollout, { from, to }: PlacementRange, columns: RawBuilder<unknown>): RawBuilder<unknown> {
    return sql`select ${columns} from devices d
      where d.organization_id = ${rollout.organization_id} and d.status = 'active'
        and d.placement >= ${from}::float8 and d.placement < ${to}::float8
        and ${selectorSql(parseSelector(rollout.selector))}`;
  }

  async #countIn(rollout: Rollout, range: PlacementRange, atMost: number): Promise<number> {
    const { rows } = await sql<{ found: number }>`
      select count(*) as found from (${this.#inRange(rollout, range, sql`1`)} limit ${atMost}) counted`.execute(
      this.#database.kysely,
    );
    return rows[0]?.found ?? 0;
  }
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
    if (typeof placement === 'number' && typeof id === 'string' && others.length === 0) {
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
