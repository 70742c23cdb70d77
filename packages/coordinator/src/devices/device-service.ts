import type { Hello, SiteSummary } from '@octomil/proto';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import { ASSIGNMENTS_CHANNEL, PRESENCE_CHANNEL } from '../training/assignment-port.js';
import { CredentialCheck, type DeviceIdentity, revoked } from './credential-check.js';
import { DeviceGroups } from './device-groups.js';
import { DeviceRecords } from './device-records.js';
import {
  type DeviceTokenScope,
  DeviceTokens,
  isAccessToken,
  issuePair,
  revokeTokensOf,
  type TokenPair,
} from './device-tokens.js';
import { type Enrollment, type EnrollmentRequest, enroll } from './enrollment.js';
import { type HeldEpoch, Presence, superseded } from './presence.js';
import { RenewalBatch } from './renewal-batch.js';
import { type DevicePush, SessionHub } from './session-hub.js';
import { TokenCheck } from './token-check.js';

export interface DeviceServiceOptions {
  readonly database: Database;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Names this process in the rows of the devices it holds. */
  readonly coordinatorId: string;
  /** How long a silent device counts as online. Default 15,000; agents renew every third of it. */
  readonly leaseMs?: number;
  /** Uniform in [0, 1), for the placement of new devices. */
  readonly random?: () => number;
}

/** Enrolment, credentials and presence of devices, and the sessions that this process holds. */
export interface DeviceService {
  readonly leaseMs: number;
  readonly hub: SessionHub;
  readonly push: DevicePush;
  /** What REST shows of devices. */
  readonly records: DeviceRecords;
  readonly tokens: DeviceTokens;
  readonly groups: DeviceGroups;
  /** For times in answers; what is decided, the database's clock decides. */
  nowMs(): number;
  /** Begins to listen. On the embedded database, sessions of an earlier process are ended. */
  start(): Promise<void>;
  stop(): Promise<void>;
  /** @throws `enrollment_token_invalid`, `enrollment_token_used`, `conflict`, `invalid_input` */
  enroll(request: EnrollmentRequest): Promise<Enrollment>;
  /**
   * As `enroll`, for a device that goes on with tokens in place of its credential: both or neither, so that a failure
   * between them does not spend the enrolment token.
   */
  enrollForTokens(
    request: EnrollmentRequest,
    scopes: readonly DeviceTokenScope[],
    accessTtlSeconds: number,
  ): Promise<TokenPair>;
  /** By credential (`odc_`) or access token (`oda_`). @throws `authentication_failed`, `token_expired`, `device_revoked` */
  authenticate(credential: string): Promise<DeviceIdentity>;
  /** Takes the device for a new stream and answers its epoch. @throws `credential_in_use`, `device_revoked` */
  openSession(deviceId: string, hello: Hello): Promise<number>;
  /** @throws `superseded`, `device_revoked` when the session is over */
  renewSession(held: HeldEpoch): Promise<void>;
  /** Safe to repeat, and without effect on a newer session. */
  closeSession(held: HeldEpoch): Promise<void>;
  describeSite(deviceId: string, site: SiteSummary): Promise<void>;
  /** Reads tokens anew, here and on other coordinators, once some of a device were revoked. */
  forgetTokens(deviceId: string): Promise<void>;
  /**
   * Calls `cut` when the device is revoked, on whichever coordinator. For what runs longer than its first check: downloads.
   *
   * @returns call it when there is nothing to cut any more
   */
  onRevoked(deviceId: string, cut: () => void): () => void;
  /** Ends the device's session, tokens and downloads at once, wherever they are. @throws `device_not_registered` */
  revoke(organizationId: string, deviceId: string): Promise<void>;
}

/** How often rows are looked at without a notification. */
const SWEEP_MS = 5000;

export function createDeviceService(options: DeviceServiceOptions): DeviceService {
  const { database, clock, logger } = options;
  const presence = new Presence(database, options.coordinatorId, options.leaseMs ?? 15_000);
  const credentials = new CredentialCheck(database, clock);
  const tokens = new DeviceTokens(database);
  const tokenCheck = new TokenCheck(tokens, clock);
  const cuts = new Map<string, Set<() => void>>();
  const renewals = new RenewalBatch((held) => presence.renew(held), clock);
  const hub = new SessionHub();
  const random = options.random ?? Math.random;
  let running = false;
  let cancelSweep = (): void => undefined;
  let stopListening: (() => Promise<void>)[] = [];

  const forget = (deviceId: string): void => {
    credentials.forget(deviceId);
    tokenCheck.forget(deviceId);
  };
  const cutAll = (deviceId: string): void => {
    for (const cut of cuts.get(deviceId) ?? []) cut();
  };
  const onPresence = async (deviceId: string): Promise<void> => {
    forget(deviceId);
    const session = hub.get(deviceId);
    if (session !== undefined) {
      const reason = await presence.ended(session);
      if (reason !== undefined) session.end(reason);
    }
    if (cuts.has(deviceId) && (await presence.isRevoked(deviceId))) cutAll(deviceId);
  };

  const enrolled = async (deviceId: string, request: EnrollmentRequest): Promise<void> => {
    forget(deviceId);
    await database.notify(PRESENCE_CHANNEL, deviceId);
    logger.info({ deviceId, device: request.deviceIdentifier }, 'a device was enrolled');
  };

  // One statement for all devices: the ones without anything to do are not asked one by one.
  const sweep = async (): Promise<void> => {
    if (hub.size === 0) return;
    const busy = await database.kysely
      .selectFrom('assignments')
      .select('device_id')
      .distinct()
      .where('state', 'in', ['open', 'accepted'])
      .execute();
    for (const { device_id: deviceId } of busy) hub.get(deviceId)?.wake();
    // And those that still work on what may have been called off.
    for (const session of hub.all()) if (session.busy) session.wake();
  };
  const scheduleSweep = (): void => {
    cancelSweep = clock.after(SWEEP_MS, () => {
      sweep()
        .catch((error: unknown) => logger.warn({ error }, 'could not look for assignments; trying again'))
        .finally(() => {
          if (running) scheduleSweep();
        });
    });
  };

  const push: DevicePush = {
    notifyDevices: (deviceIds) => {
      const elsewhere: string[] = [];
      for (const deviceId of deviceIds) {
        const session = hub.get(deviceId);
        if (session === undefined) elsewhere.push(deviceId);
        else session.wake();
      }
      // On the embedded database there is no other process to tell.
      if (elsewhere.length === 0 || database.kind === 'pglite') return;
      sql`select pg_notify(${ASSIGNMENTS_CHANNEL}, id) from json_array_elements_text(${JSON.stringify(elsewhere)}::text::json) as id`
        .execute(database.kysely)
        .catch((error: unknown) =>
          logger.warn({ error }, 'could not notify other coordinators; they will look in 5 s'),
        );
    },
  };

  return {
    leaseMs: presence.leaseMs,
    hub,
    push,
    records: new DeviceRecords(database, random),
    tokens,
    groups: new DeviceGroups(database),
    nowMs: () => clock.now(),
    start: async () => {
      if (running) return;
      running = true;
      if (database.kind === 'pglite') await presence.releaseAll();
      stopListening = [
        await database.listen(ASSIGNMENTS_CHANNEL, (deviceId) => hub.get(deviceId)?.wake()),
        await database.listen(PRESENCE_CHANNEL, (deviceId) => {
          onPresence(deviceId).catch((error: unknown) => logger.warn({ error, deviceId }, 'could not check a session'));
        }),
      ];
      scheduleSweep();
    },
    stop: async () => {
      running = false;
      cancelSweep();
      for (const stop of stopListening.splice(0)) await stop();
    },
    enroll: async (request) => {
      const enrollment = await database.transact((transaction) => enroll(transaction, request, random));
      await enrolled(enrollment.deviceId, request);
      return enrollment;
    },
    enrollForTokens: async (request, scopes, accessTtlSeconds) => {
      const pair = await database.transact(async (transaction) => {
        const { deviceId } = await enroll(transaction, request, random);
        return issuePair(transaction, deviceId, scopes, accessTtlSeconds);
      });
      await enrolled(pair.deviceId, request);
      return pair;
    },
    authenticate: (credential) =>
      isAccessToken(credential) ? tokenCheck.check(credential) : credentials.check(credential),
    forgetTokens: async (deviceId) => {
      forget(deviceId);
      await database.notify(PRESENCE_CHANNEL, deviceId);
    },
    onRevoked: (deviceId, cut) => {
      const known = cuts.get(deviceId) ?? new Set();
      cuts.set(deviceId, known.add(cut));
      return () => {
        known.delete(cut);
        if (known.size === 0 && cuts.get(deviceId) === known) cuts.delete(deviceId);
      };
    },
    openSession: async (deviceId, hello) => {
      const epoch = await presence.open(deviceId, hello);
      await database.notify(PRESENCE_CHANNEL, deviceId);
      return epoch;
    },
    renewSession: async (held) => {
      if (await renewals.renew(held)) return;
      throw (await presence.ended(held)) ?? superseded(held.epoch, held.epoch + 1);
    },
    closeSession: async (held) => {
      await presence.release(held);
      await database.notify(PRESENCE_CHANNEL, held.deviceId);
    },
    describeSite: (deviceId, site) => presence.describeSite(deviceId, site),
    revoke: async (organizationId, deviceId) => {
      const row = await database.transact(async (transaction) => {
        const device = await transaction
          .updateTable('devices')
          .set({
            status: 'revoked',
            download_key: sql`gen_random_uuid()::text || gen_random_uuid()::text`,
            revoked_at: sql`coalesce(revoked_at, now())`,
            session_epoch: sql`session_epoch + 1`,
            session_process_id: null,
            session_coordinator_id: null,
            lease_until: null,
          })
          .where('id', '=', deviceId)
          .where('organization_id', '=', organizationId)
          .returning('device_identifier')
          .executeTakeFirst();
        if (device !== undefined) await revokeTokensOf(transaction, deviceId, 'the device was revoked');
        return device;
      });
      if (row === undefined) {
        throw new OctomilError('device_not_registered', `there is no device ${deviceId} in this organization`);
      }
      forget(deviceId);
      hub.get(deviceId)?.end(revoked(deviceId));
      cutAll(deviceId);
      await database.notify(PRESENCE_CHANNEL, deviceId);
      logger.info({ deviceId, device: row.device_identifier }, 'a device was revoked');
    },
  };
}
