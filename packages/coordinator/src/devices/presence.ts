import type { Hello, SiteSummary } from '@octomil/proto';
import { OctomilError } from '@octomil/shared/errors';
import { type RawBuilder, sql } from 'kysely';
import type { Database } from '../database/database.js';
import { revoked } from './credential-check.js';
import { checkLabels, MAX_NAME_LENGTH } from './enrollment.js';
import { storedCapabilities, storedSite } from './site-summary.js';

export interface HeldEpoch {
  readonly deviceId: string;
  readonly epoch: number;
}

/** What a site says of itself now, in place of what it said before; what the organization wrote on its token wins. */
function overlaid(labels: Readonly<Record<string, string>>): RawBuilder<string> {
  return sql<string>`${JSON.stringify(labels)}::text::jsonb || enrolled_labels`;
}

/** Statements about who holds a device's session. Times are the database's. */
export class Presence {
  readonly #database: Database;
  readonly #coordinatorId: string;
  readonly leaseMs: number;

  constructor(database: Database, coordinatorId: string, leaseMs: number) {
    this.#database = database;
    this.#coordinatorId = coordinatorId;
    this.leaseMs = leaseMs;
  }

  #leaseEnd(): RawBuilder<Date> {
    return sql<Date>`now() + ${this.leaseMs}::double precision * interval '1 millisecond'`;
  }

  /**
   * Takes the device: epoch = stored + 1 in one statement, so that of two takers one sees the other's row.
   * The same process may always take it again; another one only once the lease has run out or the stream has ended.
   *
   * @throws `credential_in_use` naming the holder, `device_revoked`, `device_not_registered`
   */
  async open(deviceId: string, hello: Hello): Promise<number> {
    const labels = hello.site?.labels ?? {};
    checkLabels(labels);
    if (hello.processId === '' || hello.processId.length > 128) {
      throw new OctomilError('invalid_input', 'Hello.process_id must be 1 to 128 characters, random for each process');
    }
    const taken = await this.#database.kysely
      .updateTable('devices')
      .set({
        session_epoch: sql`session_epoch + 1`,
        session_process_id: hello.processId,
        session_host: hello.hostName.slice(0, MAX_NAME_LENGTH),
        session_coordinator_id: this.#coordinatorId,
        session_since: sql`now()`,
        lease_until: this.#leaseEnd(),
        last_seen_at: sql`now()`,
        agent_version: hello.agentVersion.slice(0, MAX_NAME_LENGTH),
        capabilities: JSON.stringify(storedCapabilities(hello.capabilities)),
        site: JSON.stringify(storedSite(hello.site)),
        labels: overlaid(labels),
      })
      .where('id', '=', deviceId)
      .where('status', '=', 'active')
      .where((where) =>
        where.or([
          where('session_process_id', 'is', null),
          where('session_process_id', '=', hello.processId),
          where('lease_until', 'is', null),
          where('lease_until', '<', sql<Date>`now()`),
        ]),
      )
      .returning('session_epoch')
      .executeTakeFirst();
    if (taken === undefined) throw await this.#whyNot(deviceId);
    return taken.session_epoch;
  }

  async #whyNot(deviceId: string): Promise<OctomilError> {
    const row = await this.#database.kysely
      .selectFrom('devices')
      .select(['status', 'device_identifier', 'session_host', 'session_since'])
      .where('id', '=', deviceId)
      .executeTakeFirst();
    if (row === undefined) return new OctomilError('device_not_registered', `device ${deviceId} is not known here`);
    if (row.status === 'revoked') return revoked(deviceId);
    const host = row.session_host === null || row.session_host === '' ? 'an unnamed host' : row.session_host;
    const since = row.session_since?.toISOString() ?? 'a moment ago';
    return new OctomilError(
      'credential_in_use',
      `the credential of device ${row.device_identifier} is in use by another process on ${host} since ${since}; ` +
        'stop that one, or, if it is not yours, revoke the device and enrol it again with a new token',
      { details: { deviceId, host, since } },
    );
  }

  /** Renews many leases in one statement; answers the devices whose epoch still holds. */
  async renew(held: readonly HeldEpoch[]): Promise<Set<string>> {
    const rows = JSON.stringify(held.map(({ deviceId, epoch }) => ({ id: deviceId, epoch })));
    const renewed = await sql<{ id: string }>`
      update devices set lease_until = ${this.#leaseEnd()}, last_seen_at = now()
      from json_to_recordset(${rows}::text::json) as held(id text, epoch bigint)
      where devices.id = held.id and devices.session_epoch = held.epoch
        and devices.session_process_id is not null and devices.status = 'active'
      returning devices.id`.execute(this.#database.kysely);
    return new Set(renewed.rows.map(({ id }) => id));
  }

  /** Gives the device back, if it is still held under this epoch. */
  async release({ deviceId, epoch }: HeldEpoch): Promise<void> {
    await this.#database.kysely
      .updateTable('devices')
      .set({ session_process_id: null, session_coordinator_id: null, lease_until: null, last_seen_at: sql`now()` })
      .where('id', '=', deviceId)
      .where('session_epoch', '=', epoch)
      .where('session_process_id', 'is not', null)
      .execute();
  }

  /**
   * Ends what an earlier process left open. Only where nobody else can hold sessions: on the embedded database.
   */
  async releaseAll(): Promise<void> {
    await this.#database.kysely
      .updateTable('devices')
      .set({ session_process_id: null, session_coordinator_id: null, lease_until: null })
      .where('session_process_id', 'is not', null)
      .execute();
  }

  /** Why an epoch no longer holds; `undefined` when it does. */
  async ended({ deviceId, epoch }: HeldEpoch): Promise<OctomilError | undefined> {
    const row = await this.#database.kysely
      .selectFrom('devices')
      .select(['status', 'session_epoch'])
      .where('id', '=', deviceId)
      .executeTakeFirst();
    if (row === undefined || row.status === 'revoked') return revoked(deviceId);
    return row.session_epoch === epoch ? undefined : superseded(epoch, row.session_epoch);
  }

  /** Also for a device that there is not. */
  async isRevoked(deviceId: string): Promise<boolean> {
    const row = await this.#database.kysely
      .selectFrom('devices')
      .select('id')
      .where('id', '=', deviceId)
      .where('status', '=', 'active')
      .executeTakeFirst();
    return row === undefined;
  }

  async describeSite(deviceId: string, site: SiteSummary): Promise<void> {
    checkLabels(site.labels);
    await this.#database.kysely
      .updateTable('devices')
      .set({
        site: JSON.stringify(storedSite(site)),
        labels: overlaid(site.labels),
      })
      .where('id', '=', deviceId)
      .execute();
  }
}

export function superseded(epoch: number, current: number): OctomilError {
  return new OctomilError(
    'superseded',
    `session epoch ${epoch} is over: epoch ${current} took its place; say hello again to go on`,
    { details: { epoch, current } },
  );
}
