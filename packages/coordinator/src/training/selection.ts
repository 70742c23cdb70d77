import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import { type CandidateDevice, type Demand, type Eligibility, judge } from './eligibility.js';
import { MAX_ASSIGNMENT_ATTEMPTS } from './round-machine.js';
import { membersOf } from './session-federation.js';

export interface SelectedDevice extends CandidateDevice {
  readonly eligibility: Extract<Eligibility, { verdict: 'eligible' }>;
}

export interface RefusedDevice {
  readonly deviceId: string;
  readonly name: string;
  readonly rule: string;
  readonly reason: string;
}

/** Why fewer devices can take part than are needed. One that was not chosen is worth a word only where none was. */
export function reasonsOf(refused: readonly RefusedDevice[]): string[] {
  const chosen = refused.filter(({ rule }) => rule !== 'selector');
  return (chosen.length > 0 ? chosen : refused).slice(0, 10).map(({ name, reason }) => `${name}: ${reason}`);
}

export interface Possible {
  readonly possible: number;
  readonly lookedAt: number;
  readonly refused: readonly RefusedDevice[];
}

/** Of which devices so few can take part, as a text. */
export function describePossible({ possible, lookedAt }: Possible, of = 'the enrolled devices'): string {
  const first = lookedAt >= MAX_LOOKED_AT ? `the first ${lookedAt} of ` : '';
  return `only ${possible} of ${first}${of} can take part`;
}

export interface SelectionRequest {
  readonly demand: Demand;
  /** Organizations whose devices may be asked. Default: whoever belongs to the federation of `demand` now. */
  readonly organizationIds?: readonly string[];
  readonly count: number;
  /** Where in [0, 1) of `placement` to begin; selection goes round from there. */
  readonly start: number;
  /** Devices that were asked in this round, and stay out. */
  readonly excludedRoundId?: string;
  /** With it, a device whose assignment of that round merely expired may be asked again, a few times. */
  readonly expiredAgain?: boolean;
  /** Devices to take only when no others are left. */
  readonly lastResort?: ReadonlySet<string>;
}

interface Row extends CandidateDevice {
  readonly placement: number;
}

/**
 * Devices looked at before giving up on finding more, about; bounds the work when nearly every site refuses. No round can
 * need more than are looked at.
 */
export const MAX_LOOKED_AT = 20_000;

/**
 * Chooses devices that are online and eligible by walking the index of `placement` from the round's random start: the
 * cost depends on how many are wanted, not on how many there are.
 */
export class DeviceSelector {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async select(request: SelectionRequest): Promise<SelectedDevice[]> {
    const chosen: SelectedDevice[] = [];
    const spare: SelectedDevice[] = [];
    for await (const device of this.#walk(request, true)) {
      const eligibility = judge(device, request.demand);
      if (eligibility.verdict !== 'eligible') continue;
      const list = request.lastResort?.has(device.id) === true ? spare : chosen;
      list.push({ ...device, eligibility });
      // Now rather than at the next device, which may be the first of another page.
      if (chosen.length >= request.count) break;
    }
    return [...chosen, ...spare].slice(0, request.count);
  }

  /**
   * Counts devices that could ever answer: not refused by what they declared, online or not. A device that was merely
   * registered counts once an agent of it has connected: apps register too, and answer no session. Stops at `enough`.
   *
   * @returns `lookedAt`: devices that were judged; when it gave up before the last, there may be more that can answer
   */
  async countPossible(request: Omit<SelectionRequest, 'count' | 'start'>, enough: number): Promise<Possible> {
    let possible = 0;
    let lookedAt = 0;
    const refused: RefusedDevice[] = [];
    for await (const device of this.#walk({ ...request, count: Math.max(enough, 100), start: 0 }, false)) {
      lookedAt += 1;
      const eligibility = judge(device, request.demand);
      if (eligibility.verdict !== 'refused') possible += 1;
      else if (refused.length < 100) {
        refused.push({ deviceId: device.id, name: device.name, rule: eligibility.rule, reason: eligibility.reason });
      }
      if (possible >= enough) break;
    }
    return { possible, lookedAt, refused };
  }

  async *#walk(request: SelectionRequest, online: boolean): AsyncGenerator<Row> {
    const pageSize = Math.min(1_000, Math.max(32, request.count * 2));
    let looked = 0;
    const ranges = [
      { from: request.start, to: 2 },
      { from: 0, to: request.start },
    ].filter(({ from, to }) => from < to);
    for (const { from, to } of ranges) {
      let after: { placement: number; id: string } | undefined;
      for (;;) {
        const page = await this.#page(request, online, from, to, after, pageSize);
        for (const device of page) yield device;
        looked += page.length;
        const last = page.at(-1);
        if (last === undefined || page.length < pageSize || looked >= MAX_LOOKED_AT) break;
        after = { placement: last.placement, id: last.id };
      }
    }
  }

  async #page(
    request: SelectionRequest,
    online: boolean,
    from: number,
    to: number,
    after: { placement: number; id: string } | undefined,
    limit: number,
  ): Promise<Row[]> {
    const { organizationIds, excludedRoundId, demand } = request;
    const again =
      request.expiredAgain === true
        ? sql` and (a.state <> 'expired' or a.attempt >= ${MAX_ASSIGNMENT_ATTEMPTS})`
        : sql``;
    // Per organization, so that each part is a walk of an index in the order of placements that ends at the limit.
    const { rows } = await sql<Row>`
      select found.* from (${organizationIds === undefined ? membersOf(demand.federation.id) : sql`select unnest(${organizationIds}::text[])`}) as asked(organization_id) cross join lateral (
        select d.id, d.device_identifier as name, d.labels, d.capabilities, d.site, d.placement
        from devices d
        where d.organization_id = asked.organization_id and d.status = 'active'
          and (d.identity = 'enrolled' or (d.site <> '{}' and coalesce((
            -- One that is made with the session is not there yet, and takes what a new one takes.
            select f.shared_identities from federations f where f.id = ${demand.federation.id}), true)))
          and d.placement >= ${from}::float8 and d.placement < ${to}::float8
          ${after === undefined ? sql`` : sql`and (d.placement, d.id) > (${after.placement}::float8, ${after.id})`}
          ${online ? sql`and d.session_process_id is not null and d.lease_until > now()` : sql``}
          ${online && Object.keys(demand.selector).length > 0 ? sql`and d.labels @> ${JSON.stringify(demand.selector)}::jsonb` : sql``}
          ${
            excludedRoundId === undefined
              ? sql``
              : sql`and not exists (select 1 from assignments a where a.round_id = ${excludedRoundId} and a.device_id = d.id${again})`
          }
        order by d.placement, d.id limit ${limit}::integer
      ) found
      order by found.placement, found.id limit ${limit}::integer`.execute(this.#database.kysely);
    return rows;
  }
}
