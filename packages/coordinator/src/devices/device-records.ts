import { randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import { type ExpressionBuilder, type ExpressionWrapper, type SqlBool, sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { JsonObject, Tables } from '../database/tables.js';
import { revoked } from './credential-check.js';
import { checkDeviceIdentifier } from './enrollment.js';
import type { StoredCapabilities, StoredSite } from './site-summary.js';

export interface DeviceRecord {
  readonly id: string;
  readonly organizationId: string;
  readonly identifier: string;
  /** `online`: a session holds it and its lease lives. */
  readonly status: 'online' | 'offline' | 'revoked';
  readonly labels: Readonly<Record<string, string>>;
  readonly agentVersion: string | null;
  readonly host: string | null;
  readonly epoch: number;
  readonly capabilities: Partial<StoredCapabilities>;
  readonly site: Partial<StoredSite>;
  readonly lastSeenAt: Date | null;
  readonly createdAt: Date;
  readonly revokedAt: Date | null;
}

export interface DeviceQuery {
  readonly status?: DeviceRecord['status'];
  readonly limit: number;
  readonly offset: number;
}

const ONLINE = sql<SqlBool>`(status = 'active' and session_process_id is not null and lease_until > now())`;

function statusIs(status: DeviceRecord['status'] | undefined) {
  return (where: ExpressionBuilder<Tables, 'devices'>): ExpressionWrapper<Tables, 'devices', SqlBool> => {
    if (status === undefined) return where.and([]);
    if (status === 'revoked') return where.and([where('status', '=', 'revoked')]);
    return where.and([where('status', '=', 'active'), status === 'online' ? ONLINE : where.not(ONLINE)]);
  };
}

/** Devices as people and the published clients see them. Every question names the organization that asks. */
export class DeviceRecords {
  readonly #database: Database;
  readonly #random: () => number;

  constructor(database: Database, random: () => number) {
    this.#database = database;
    this.#random = random;
  }

  #select() {
    return this.#database.kysely.selectFrom('devices').selectAll().select(ONLINE.as('online'));
  }

  async list(organizationId: string, query: DeviceQuery): Promise<{ devices: DeviceRecord[]; total: number }> {
    const rows = await this.#select()
      .where('organization_id', '=', organizationId)
      .where(statusIs(query.status))
      .orderBy('device_identifier')
      .limit(query.limit)
      .offset(query.offset)
      .execute();
    const { total } = await this.#database.kysely
      .selectFrom('devices')
      .select((select) => select.fn.countAll<number>().as('total'))
      .where('organization_id', '=', organizationId)
      .where(statusIs(query.status))
      .executeTakeFirstOrThrow();
    return { devices: rows.map(toRecord), total };
  }

  /** By id or by identifier. @throws `device_not_registered`, for another organization's device as well */
  async find(organizationId: string, device: string): Promise<DeviceRecord> {
    const row = await this.#select()
      .where('organization_id', '=', organizationId)
      .where((where) => where.or([where('id', '=', device), where('device_identifier', '=', device)]))
      // An identifier may look like another device's id: the id goes first.
      .orderBy(sql`case when id = ${device} then 0 else 1 end`)
      .executeTakeFirst();
    if (row === undefined) {
      throw new OctomilError(
        'device_not_registered',
        `there is no device ${JSON.stringify(device.slice(0, 140))} in this organization`,
      );
    }
    return toRecord(row);
  }

  /**
   * Registers a device of a published client, or finds it by its identifier. It gets no credential of its own.
   *
   * @throws `device_revoked`, `invalid_input`
   */
  async register(organizationId: string, identifier: string, capabilities: JsonObject): Promise<DeviceRecord> {
    checkDeviceIdentifier(identifier);
    const { id, status } = await this.#database.kysely
      .insertInto('devices')
      .values({
        id: randomUUID(),
        organization_id: organizationId,
        device_identifier: identifier,
        credential_hash: null,
        placement: this.#random(),
        labels: '{}',
        capabilities: JSON.stringify(capabilities),
        site: '{}',
        agent_version: null,
        status: 'active',
        session_process_id: null,
        session_host: null,
        session_coordinator_id: null,
        last_seen_at: sql`now()`,
      })
      .onConflict((conflict) =>
        conflict.columns(['organization_id', 'device_identifier']).doUpdateSet({
          last_seen_at: sql`now()`,
          // An enrolled agent says more of itself than a client does of its machine.
          capabilities: sql`case when devices.credential_hash is null then excluded.capabilities else devices.capabilities end`,
        }),
      )
      .returning(['id', 'status'])
      .executeTakeFirstOrThrow();
    if (status === 'revoked') throw revoked(id);
    return this.find(organizationId, id);
  }

  /** @throws `device_not_registered`, `device_revoked` */
  async heartbeat(organizationId: string, device: string): Promise<Date> {
    const { id, status } = await this.find(organizationId, device);
    if (status === 'revoked') throw revoked(id);
    const { now } = await this.#database.kysely
      .updateTable('devices')
      .set({ last_seen_at: sql`now()` })
      .where('id', '=', id)
      .returning(sql<Date>`now()`.as('now'))
      .executeTakeFirstOrThrow();
    return now;
  }
}

interface Row {
  readonly id: string;
  readonly organization_id: string;
  readonly device_identifier: string;
  readonly status: 'active' | 'revoked';
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
    labels: row.labels,
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
