import { randomBytes, randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import { hashSecret } from '../devices/device-credential.js';
import { checkDeviceIdentifier } from '../devices/enrollment.js';

export interface CreatedEnrollmentToken {
  readonly id: string;
  /** Shown once; only its hash is kept. Enrols one device, once. */
  readonly token: string;
  readonly labels: Readonly<Record<string, string>>;
  /** The only device it enrols, and may enrol again; null for any device that is new. */
  readonly deviceIdentifier: string | null;
  readonly expiresAt: Date;
}

/**
 * @param options.deviceIdentifier binds the token to one device, and lets it enrol that device again
 * @throws `invalid_input` for an identifier that no device can have
 */
export async function createEnrollmentToken(
  database: Database,
  organizationId: string,
  options: {
    readonly labels: Readonly<Record<string, string>>;
    readonly expiresInSeconds: number;
    readonly deviceIdentifier?: string | undefined;
  },
): Promise<CreatedEnrollmentToken> {
  const { deviceIdentifier } = options;
  if (deviceIdentifier !== undefined) checkDeviceIdentifier(deviceIdentifier);
  const token = `oet_${randomBytes(32).toString('base64url')}`;
  const row = await database.kysely
    .insertInto('enrollment_tokens')
    .values({
      id: randomUUID(),
      organization_id: organizationId,
      token_hash: hashSecret(token),
      labels: JSON.stringify(options.labels),
      device_identifier: deviceIdentifier ?? null,
      // The database's clock: it also decides whether the token has expired.
      expires_at: sql<Date>`now() + make_interval(secs => ${options.expiresInSeconds})`,
      used_by_device_id: null,
    })
    .returning(['id', 'labels', 'device_identifier', 'expires_at'])
    .executeTakeFirstOrThrow();
  const { id, labels, device_identifier, expires_at } = row;
  return { id, token, labels, deviceIdentifier: device_identifier, expiresAt: expires_at };
}
