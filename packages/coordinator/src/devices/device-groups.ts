import { randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import { type RawBuilder, sql } from 'kysely';
import type { Database } from '../database/database.js';
import { violatedUnique } from '../database/transact.js';
import { MAX_COUNTED, noDevice } from './device-records.js';

export interface DeviceGroup {
  readonly id: string;
  readonly organizationId: string;
  readonly name: string;
  readonly description: string;
  readonly createdAt: Date;
  /** Counted up to `MAX_COUNTED` + 1. */
  readonly deviceCount: number;
}

export interface GroupFields {
  readonly name: string;
  readonly description: string;
}

const COLUMNS: RawBuilder<unknown> = sql`g.id, g.organization_id as "organizationId", g.name, g.description,
  g.created_at as "createdAt", (select count(*) from (select 1 from device_group_members m where m.group_id = g.id
    limit ${sql.lit(MAX_COUNTED + 1)}) as counted) as "deviceCount"`;

/** Named sets of an organization's devices, for rollouts and lists. A device may be in many. */
export class DeviceGroups {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** By name. */
  async list(organizationId: string, page: { limit: number; offset: number }): Promise<DeviceGroup[]> {
    const { rows } = await sql<DeviceGroup>`
      select ${COLUMNS} from device_groups g where g.organization_id = ${organizationId}
      order by g.name limit ${page.limit}::integer offset ${page.offset}::integer`.execute(this.#database.kysely);
    return rows;
  }

  /** By id or name. @throws `not_found` */
  async get(organizationId: string, group: string): Promise<DeviceGroup> {
    const { rows } = await sql<DeviceGroup>`
      select ${COLUMNS} from device_groups g
      where g.organization_id = ${organizationId} and (g.id = ${group} or g.name = ${group})
      order by (g.id = ${group}) desc limit 1`.execute(this.#database.kysely);
    const [row] = rows;
    if (row !== undefined) return row;
    throw new OctomilError(
      'not_found',
      `there is no device group ${JSON.stringify(group.slice(0, 200))} in this organization`,
    );
  }

  /** @throws `conflict` when the name is taken */
  async create(organizationId: string, fields: GroupFields): Promise<DeviceGroup> {
    const id = randomUUID();
    await this.#named(fields.name, () =>
      this.#database.kysely
        .insertInto('device_groups')
        .values({ id, organization_id: organizationId, ...fields })
        .execute(),
    );
    return this.get(organizationId, id);
  }

  /** @throws `not_found`, `conflict` when the name is taken, `wrong_state` when a rollout knows it by its old name */
  async update(organizationId: string, group: string, fields: Partial<GroupFields>): Promise<DeviceGroup> {
    const found = await this.get(organizationId, group);
    const given = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
    if (Object.keys(given).length === 0) return found;
    if (fields.name !== undefined && fields.name !== found.name)
      await this.#requireUnused(found, [found.name], 'rename');
    await this.#named(fields.name ?? found.name, () =>
      this.#database.kysely.updateTable('device_groups').set(given).where('id', '=', found.id).execute(),
    );
    return this.get(organizationId, found.id);
  }

  /** @throws `not_found`, `wrong_state` while a rollout that may still decide names it */
  async delete(organizationId: string, group: string): Promise<DeviceGroup> {
    const found = await this.get(organizationId, group);
    await this.#requireUnused(found, [found.id, found.name], 'delete');
    await this.#database.kysely.deleteFrom('device_groups').where('id', '=', found.id).execute();
    return found;
  }

  /**
   * All of them or none. Those that are in it already stay.
   *
   * @param devices ids or identifiers
   * @returns ids of the devices that were not in it before
   * @throws `device_not_registered` naming the first that there is not
   */
  async add(group: DeviceGroup, devices: readonly string[]): Promise<string[]> {
    const ids = await this.#deviceIds(group.organizationId, devices);
    const { rows } = await sql<{ device_id: string }>`
      insert into device_group_members (group_id, device_id)
      select ${group.id}, device_id from unnest(${ids}::text[]) as device_id
      on conflict do nothing returning device_id`.execute(this.#database.kysely);
    return rows.map(({ device_id: id }) => id);
  }

  /** @returns ids of the devices that were in it. @throws `device_not_registered` */
  async remove(group: DeviceGroup, devices: readonly string[]): Promise<string[]> {
    const ids = await this.#deviceIds(group.organizationId, devices);
    const { rows } = await sql<{ device_id: string }>`
      delete from device_group_members where group_id = ${group.id} and device_id = any(${ids}::text[])
      returning device_id`.execute(this.#database.kysely);
    return rows.map(({ device_id: id }) => id);
  }

  async #deviceIds(organizationId: string, devices: readonly string[]): Promise<string[]> {
    const wanted = [...new Set(devices)];
    const { rows } = await sql<{ word: string; id: string | null }>`
      select word, coalesce(
        (select d.id from devices d where d.organization_id = ${organizationId} and d.id = word),
        (select d.id from devices d where d.organization_id = ${organizationId} and d.device_identifier = word)) as id
      from unnest(${wanted}::text[]) as word`.execute(this.#database.kysely);
    return [
      ...new Set(
        rows.map(({ word, id }) => {
          if (id === null) throw noDevice(word);
          return id;
        }),
      ),
    ];
  }

  async #named<T>(name: string, write: () => Promise<T>): Promise<T> {
    try {
      return await write();
    } catch (error) {
      if (violatedUnique(error) === undefined) throw error;
      throw new OctomilError('conflict', `there is a device group named "${name}" already`, { cause: error });
    }
  }

  async #requireUnused(group: DeviceGroup, words: readonly string[], change: 'rename' | 'delete'): Promise<void> {
    const { rows } = await sql<{ id: number; state: string }>`
      select r.id, r.state from rollouts r
      where r.organization_id = ${group.organizationId} and not r.covered
        and r.state in ('draft', 'active', 'paused', 'completed', 'rolling_back')
        and r.selector -> 'groups' ?| ${words}::text[]
      order by r.id desc limit 1`.execute(this.#database.kysely);
    const [rollout] = rows;
    if (rollout === undefined) return;
    throw new OctomilError(
      'wrong_state',
      `rollout ${rollout.id} is ${rollout.state} and means group "${group.name}": its devices would get another version; roll it back, delete it or complete a later one before you ${change} the group`,
      { details: { rollout_id: rollout.id, state: rollout.state } },
    );
  }
}
