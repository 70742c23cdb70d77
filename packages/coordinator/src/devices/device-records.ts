import { randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import { type Kysely, type RawBuilder, type SqlBool, sql } from 'kysely';
import type { Database } from '../database/database.js';
import { GatheredReads } from '../database/gathered-reads.js';
import type { JsonObject, Tables } from '../database/tables.js';
import { revoked } from './credential-check.js';
import { checkDeviceIdentifier, checkLabels } from './enrollment.js';
import type { StoredCapabilities, StoredSite } from './site-summary.js';

export interface DeviceRecord {
  readonly id: string;
  readonly organizationId: string;
  readonly identifier: string;
  /** `online`: a session holds it and its lease lives. */
  readonly status: 'online' | 'offline' | 'revoked';
  /** `shared`: registered under the organization's key. */
  readonly identity: 'enrolled' | 'shared';
  readonly labels: Readonly<Record<string, string>>;
  readonly agentVersion: string | null;
  readonly host: string | null;
  readonly epoch: number;
  readonly capabilities: Partial<StoredCapabilities>;
  readonly site: Partial<StoredSite>;
  /** What a published client says of its machine. */
  readonly facts: Readonly<JsonObject>;
  readonly lastSeenAt: Date | null;
  readonly createdAt: Date;
  readonly revokedAt: Date | null;
}

export interface RegisteredDevice extends DeviceRecord {
  /** Nobody had registered or enrolled it before. */
  readonly isNew: boolean;
}

export interface DeviceQuery {
  readonly status?: DeviceRecord['status'];
  /** Labels that must have these values. */
  readonly labels?: Readonly<Record<string, string>>;
  /** Id of a group. */
  readonly groupId?: string;
  /** How the identifier begins. */
  readonly search?: string;
  /** Id of the last device of the page before: as fast on the last page as on the first. */
  readonly cursor?: string;
  readonly limit: number;
  /** At most {@link MAX_OFFSET}: the rows before it are walked over. */
  readonly offset: number;
}

export interface DevicePage {
  readonly devices: readonly DeviceRecord[];
  /** Exact up to {@link MAX_COUNTED}; beyond, that many, with `totalIsExact` false. */
  readonly total: number;
  readonly totalIsExact: boolean;
  /** Null on the last page. */
  readonly nextCursor: string | null;
}

/** Counting a million rows takes longer than anybody waits for a page. */
export const MAX_COUNTED = 10_000;
export const MAX_OFFSET = 10_000;

const ONLINE = sql<SqlBool>`(d.status = 'active' and d.session_process_id is not null and d.lease_until > now())`;

/** Names the partial indexes' conditions word for word. */
function conditions(organizationId: string, query: Omit<DeviceQuery, 'limit' | 'offset'>): RawBuilder<SqlBool> {
  const { status, labels, groupId, search } = query;
  const all = [sql<SqlBool>`d.organization_id = ${organizationId}`];
  if (status === 'revoked') all.push(sql`d.status = 'revoked'`);
  if (status === 'online') all.push(ONLINE);
  if (status === 'offline') all.push(sql`d.status = 'active' and ${ONLINE} is not true`);
  if (labels !== undefined) all.push(sql`d.labels @> ${JSON.stringify(labels)}::text::jsonb`);
  if (groupId !== undefined) {
    all.push(sql`d.id in (select gm.device_id from device_group_members gm where gm.group_id = ${groupId})`);
  }
  if (search !== undefined) all.push(sql`d.device_identifier like ${`${search.replace(/[\\%_]/g, '\\$&')}%`}`);
  return sql.join(all, sql` and `);
}

/** Devices as people and the published clients see them. Every question names the organization that asks. */
export class DeviceRecords {
  readonly #database: Database;
  readonly #random: () => number;
  readonly #detailsById: GatheredReads<string, DeviceDetails>;

  constructor(database: Database, random: () => number) {
    this.#database = database;
    this.#random = random;
    this.#detailsById = new GatheredReads(
      (id) => id,
      async (ids) => {
        const { rows } = await sql<Row & Belongings>`
          select d.*, ${ONLINE} as online, ${GROUPS} as groups, ${MODELS} as models
          from devices d where d.id = any(${ids}::text[])`.execute(database.kysely);
        return new Map(rows.map((row) => [row.id, toDetails(row)]));
      },
    );
  }

  /** Newest first. @throws `invalid_input` for a cursor that no page answered */
  async list(organizationId: string, query: DeviceQuery): Promise<DevicePage> {
    const { cursor, limit, offset } = query;
    const { kysely } = this.#database;
    const where = conditions(organizationId, query);
    let after = sql``;
    if (cursor !== undefined) {
      const known = await kysely
        .selectFrom('devices')
        .select('id')
        .where('id', '=', cursor)
        .where('organization_id', '=', organizationId)
        .executeTakeFirst();
      if (known === undefined) {
        throw new OctomilError('invalid_input', 'cursor is none that a page of devices answered; begin without one', {
          details: { field: 'cursor' },
        });
      }
      // Microseconds stay in the database: a Date would lose them, and the page a device.
      const createdAt = sql`(select c.created_at from devices c where c.id = ${cursor})`;
      after = sql`and d.created_at <= ${createdAt} and (d.created_at < ${createdAt} or d.id > ${cursor})`;
    }
    // One more tells whether there is a next page.
    const { rows } = await sql<Row>`
      select d.*, ${ONLINE} as online from devices d where ${where} ${after}
      order by d.created_at desc, d.id limit ${limit + 1}::integer offset ${offset}::integer`.execute(kysely);
    const counted = await sql<{ total: number }>`
      select count(*) as total from (select 1 from devices d where ${where} limit ${MAX_COUNTED + 1}::integer) as counted`.execute(
      kysely,
    );
    const total = counted.rows[0]?.total ?? 0;
    const devices = rows.slice(0, limit).map(toRecord);
    return {
      devices,
      total: Math.min(total, MAX_COUNTED),
      totalIsExact: total <= MAX_COUNTED,
      nextCursor: rows.length > limit ? (devices.at(-1)?.id ?? null) : null,
    };
  }

  /** By id or by identifier. @throws `device_not_registered`, for another organization's device as well */
  async find(organizationId: string, device: string): Promise<DeviceRecord> {
    const { rows } = await sql<Row>`
      select d.*, ${ONLINE} as online from devices d
      where ${isDevice(organizationId, device)}`.execute(this.#database.kysely);
    const [row] = rows;
    if (row === undefined) throw noDevice(device);
    return toRecord(row);
  }

  /** As `find`. @throws `device_not_registered`, `device_revoked` */
  async findActive(organizationId: string, device: string): Promise<DeviceRecord> {
    const record = await this.find(organizationId, device);
    if (record.status === 'revoked') throw revoked(record.id);
    return record;
  }

  /** Keeps the inventory that a published client reports. */
  async noteInstalled(deviceId: string, inventory: JsonObject): Promise<void> {
    await this.#database.kysely
      .updateTable('devices')
      .set({ installed: JSON.stringify(inventory), last_seen_at: sql`now()` })
      .where('id', '=', deviceId)
      .execute();
  }

  /** By which download addresses of a device are signed; `undefined` once it is revoked. */
  async downloadSecret(deviceId: string): Promise<string | undefined> {
    const row = await this.#database.kysely
      .selectFrom('devices')
      .select('download_key')
      .where('id', '=', deviceId)
      .where('status', '=', 'active')
      .executeTakeFirst();
    return row?.download_key;
  }

  /**
   * Registers a device of a published client, or finds it by its identifier. It gets no credential of its own: its
   * identity is that of whoever holds the organization's key. What an enrolled device says of itself is not replaced.
   *
   * @throws `device_revoked`, `invalid_input`
   */
  async register(organizationId: string, identifier: string, facts: JsonObject): Promise<RegisteredDevice> {
    checkDeviceIdentifier(identifier);
    const newId = randomUUID();
    const { id, status } = await this.#database.kysely
      .insertInto('devices')
      .values({
        id: newId,
        organization_id: organizationId,
        device_identifier: identifier,
        credential_hash: null,
        placement: this.#random(),
        labels: '{}',
        capabilities: '{}',
        site: '{}',
        facts: JSON.stringify(facts),
        identity: 'shared',
        agent_version: null,
        status: 'active',
        session_process_id: null,
        session_host: null,
        session_coordinator_id: null,
        last_seen_at: sql`now()`,
      })
      .onConflict((conflict) =>
        conflict.columns(['organization_id', 'device_identifier']).doUpdateSet({
          last_seen_at: sql`case when devices.status = 'active' then now() else devices.last_seen_at end`,
          facts: sql`case when devices.identity = 'shared' and devices.status = 'active' then excluded.facts else devices.facts end`,
        }),
      )
      .returning(['id', 'status'])
      .executeTakeFirstOrThrow();
    if (status === 'revoked') throw revoked(id);
    return { ...(await this.find(organizationId, id)), isNew: id === newId };
  }

  /**
   * @param facts what the device says of itself now; added to what it said before
   * @throws `device_not_registered`, `device_revoked`
   */
  async heartbeat(organizationId: string, device: string, facts: JsonObject): Promise<Date> {
    const said =
      Object.keys(facts).length === 0 ? sql`` : sql`, facts = facts || ${JSON.stringify(facts)}::text::jsonb`;
    // Not synced: what a crash of the database server may take away, the next heartbeat says again.
    const { rows } = await sql<{ now: Date }>`
      update devices d set last_seen_at = now() ${said}
      from (select set_config('synchronous_commit', 'off', true)) as unsynced
      where ${isDevice(organizationId, device)} and d.status = 'active' returning now() as now`.execute(
      this.#database.kysely,
    );
    const [row] = rows;
    if (row !== undefined) return row.now;
    throw revoked((await this.find(organizationId, device)).id);
  }

  /**
   * What the organization says of its device, in the form of a JSON merge patch (RFC 7396): null takes a label away. It
   * wins over what the device says; a label that only the device sets comes back with what it says next.
   *
   * @throws `device_not_registered`, `invalid_input`
   */
  async patchLabels(
    organizationId: string,
    device: string,
    patch: Readonly<Record<string, string | null>>,
    transaction: Kysely<Tables>,
  ): Promise<DeviceRecord> {
    const given = Object.entries(patch);
    const gone = given.filter(([, value]) => value === null).map(([name]) => name);
    const set = JSON.stringify(Object.fromEntries(given.filter(([, value]) => value !== null)));
    const { rows } = await sql<Row>`
      update devices d set labels = (labels - ${gone}::text[]) || ${set}::text::jsonb,
        enrolled_labels = (enrolled_labels - ${gone}::text[]) || ${set}::text::jsonb
      where ${isDevice(organizationId, device)} returning d.*, ${ONLINE} as online`.execute(transaction);
    const [row] = rows;
    if (row === undefined) throw noDevice(device);
    const record = toRecord(row);
    // Undone with the transaction when there are too many.
    checkLabels(record.labels);
    return record;
  }

  /** With its groups, by name, and what it said of the models that were rolled out to it. @throws `device_not_registered` */
  async details(organizationId: string, device: string): Promise<DeviceDetails> {
    const byId = await this.#detailsById.get(device);
    if (byId?.record.organizationId === organizationId) return byId;
    const { id } = await this.find(organizationId, device);
    const found = await this.#detailsById.get(id);
    if (found === undefined) throw noDevice(device);
    return found;
  }
}

export interface DeviceDetails {
  readonly record: DeviceRecord;
  readonly groups: readonly { readonly id: string; readonly name: string }[];
  readonly models: readonly RunningModel[];
}

/** What belongs to a device, as JSON in its row: one statement instead of three. */
interface Belongings {
  readonly groups: DeviceDetails['groups'];
  readonly models: readonly RunningModel[];
}

const GROUPS = sql`(
  select coalesce(jsonb_agg(jsonb_build_object('id', g.id, 'name', g.name) order by g.name), '[]')
  from device_group_members gm join device_groups g on g.id = gm.group_id where gm.device_id = d.id)`;
const MODELS = sql`(
  select coalesce(jsonb_agg(jsonb_build_object('model_id', dm.model_id, 'model_name', m.name, 'rollout_id', dm.rollout_id,
    'version', (select v.version from versions v where v.id = dm.version_id),
    'active_version', (select v.version from versions v where v.id = dm.active_version_id),
    'previous_version', (select v.version from versions v where v.id = dm.previous_version_id),
    'state', dm.state, 'reason_code', dm.reason_code, 'reason', dm.reason, 'reported_at', dm.reported_at) order by m.name), '[]')
  from device_models dm join models m on m.id = dm.model_id where dm.device_id = d.id)`;

function toDetails(row: Row & Belongings): DeviceDetails {
  const models = row.models.map((model) => ({ ...model, reported_at: new Date(model.reported_at).toISOString() }));
  return { record: toRecord(row), groups: row.groups, models };
}

/** How a model stands on a device, as REST shows it. */
export interface RunningModel {
  readonly model_id: string;
  readonly model_name: string;
  readonly rollout_id: number | null;
  /** What it is to run, as far as it knows. */
  readonly version: string | null;
  readonly active_version: string | null;
  readonly previous_version: string | null;
  readonly state: string;
  readonly reason_code: string | null;
  readonly reason: string | null;
  readonly reported_at: string;
}

/** By id or by identifier; an identifier may look like another device's id, so the id goes first. */
function isDevice(organizationId: string, device: string): RawBuilder<SqlBool> {
  return sql<SqlBool>`d.organization_id = ${organizationId} and d.id = coalesce(
    (select i.id from devices i where i.organization_id = ${organizationId} and i.id = ${device}),
    (select i.id from devices i where i.organization_id = ${organizationId} and i.device_identifier = ${device}))`;
}

export function noDevice(device: string): OctomilError {
  return new OctomilError(
    'device_not_registered',
    `there is no device ${JSON.stringify(device.slice(0, 140))} in this organization`,
  );
}

interface Row {
  readonly id: string;
  readonly organization_id: string;
  readonly device_identifier: string;
  readonly status: 'active' | 'revoked';
  readonly identity: 'enrolled' | 'shared';
  readonly facts: JsonObject;
  readonly online: SqlBool | null;
  readonly labels: Record<string, string>;
  readonly agent_version: string | null;
  readonly session_host: string | null;
  readonly session_epoch: number;
  readonly capabilities: JsonObject;
  readonly site: JsonObject;
  readonly last_seen_at: Date | null;
  readonly created_at: Date;
  readonly revoked_at: Date | null;
}

function toRecord(row: Row): DeviceRecord {
  return {
    id: row.id,
    organizationId: row.organization_id,
    identifier: row.device_identifier,
    status: row.status === 'revoked' ? 'revoked' : row.online === true ? 'online' : 'offline',
    identity: row.identity,
    labels: row.labels,
    facts: row.facts,
    agentVersion: row.agent_version,
    host: row.session_host,
    epoch: row.session_epoch,
    capabilities: row.capabilities as Partial<StoredCapabilities>,
    site: row.site as Partial<StoredSite>,
    lastSeenAt: row.last_seen_at,
    createdAt: row.created_at,
    revokedAt: row.revoked_at,
  };
}
