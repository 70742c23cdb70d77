import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import type { Database } from '../database/database.js';
import { deviceIdOf, hashSecret, sameHash } from './device-credential.js';
import { ReadsUnderWay } from './reads-under-way.js';

export interface DeviceIdentity {
  readonly deviceId: string;
  readonly organizationId: string;
  /** What an access token may do; a device's credential, which may do everything a device may, has none. */
  readonly scopes?: readonly string[];
}

interface Known {
  readonly organizationId: string;
  readonly credentialHash: string | null;
  readonly status: 'active' | 'revoked';
  readonly validUntilMs: number;
}

const CACHE_MS = 5000;
/** A coordinator that holds more devices than this re-reads rows a little more often. */
const MAX_CACHED = 50_000;

/** Checks device credentials; the row behind each is kept for five seconds, or until a notification names the device. */
export class CredentialCheck {
  readonly #database: Database;
  readonly #clock: Clock;
  readonly #known = new Map<string, Known>();
  readonly #reads = new ReadsUnderWay();

  constructor(database: Database, clock: Clock) {
    this.#database = database;
    this.#clock = clock;
  }

  forget(deviceId: string): void {
    this.#reads.forget(deviceId);
    this.#known.delete(deviceId);
  }

  /** @throws `authentication_failed`, `device_revoked` */
  async check(credential: string): Promise<DeviceIdentity> {
    const deviceId = deviceIdOf(credential);
    const known = deviceId === undefined ? undefined : await this.#row(deviceId);
    if (deviceId === undefined || known === undefined || known.credentialHash === null) throw notAuthenticated();
    if (!sameHash(hashSecret(credential), known.credentialHash)) throw notAuthenticated();
    if (known.status === 'revoked') throw revoked(deviceId);
    return { deviceId, organizationId: known.organizationId };
  }

  async #row(deviceId: string): Promise<Known | undefined> {
    const cached = this.#known.get(deviceId);
    if (cached !== undefined && cached.validUntilMs > this.#clock.now()) return cached;
    const { row, forgotten } = await this.#reads.during(() =>
      this.#database.kysely
        .selectFrom('devices')
        .select(['organization_id', 'credential_hash', 'status'])
        .where('id', '=', deviceId)
        .executeTakeFirst(),
    );
    if (row === undefined) return undefined;
    const known: Known = {
      organizationId: row.organization_id,
      credentialHash: row.credential_hash,
      status: row.status,
      validUntilMs: this.#clock.now() + CACHE_MS,
    };
    if (forgotten.has(deviceId)) return known;
    if (this.#known.size >= MAX_CACHED) this.#known.clear();
    this.#known.set(deviceId, known);
    return known;
  }
}

function notAuthenticated(): OctomilError {
  return new OctomilError(
    'authentication_failed',
    'the device credential is not valid here: it may have been replaced by a later enrolment; enrol the device again',
  );
}

/** What a revoked device is told, wherever it shows up. */
export function revoked(deviceId: string): OctomilError {
  return new OctomilError(
    'device_revoked',
    `device ${deviceId} was revoked by its organization; enrol it again with a new token to bring it back`,
    { details: { deviceId } },
  );
}
