import { randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import { type Kysely, sql } from 'kysely';
import type { Tables } from '../database/tables.js';
import { createCredential, hashSecret, looksLikeEnrollmentToken } from './device-credential.js';
import { revokeTokensOf } from './device-tokens.js';

export interface EnrollmentRequest {
  readonly enrollmentToken: string;
  readonly deviceIdentifier: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly agentVersion: string;
}

export interface Enrollment {
  readonly deviceId: string;
  readonly organizationId: string;
  /** Shown once; only its hash is kept. */
  readonly credential: string;
}

/** A device identifier is a file name, a label and a column of tables at once. */
const IDENTIFIER = /^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$/;
const MAX_LABELS = 64;
const MAX_LABEL_LENGTH = 256;
/** Of texts that are only shown. */
export const MAX_NAME_LENGTH = 255;

/** @throws `invalid_input` naming the identifier and what it may hold */
export function checkDeviceIdentifier(identifier: string): void {
  if (IDENTIFIER.test(identifier)) return;
  throw new OctomilError(
    'invalid_input',
    `device identifier ${JSON.stringify(identifier.slice(0, 140))} is not valid: 1 to 128 letters, digits and . _ : @ -, beginning with a letter or digit`,
    { details: { field: 'device_identifier' } },
  );
}

/** @throws `invalid_input` beyond 64 labels or 256 characters in a name or value */
export function checkLabels(labels: Readonly<Record<string, string>>): void {
  const entries = Object.entries(labels);
  if (entries.length > MAX_LABELS) {
    throw new OctomilError(
      'invalid_input',
      `${entries.length} labels are more than the ${MAX_LABELS} a device may have`,
    );
  }
  const long = entries.find(([name, value]) => name === '' || name.length + value.length > MAX_LABEL_LENGTH);
  if (long !== undefined) {
    throw new OctomilError(
      'invalid_input',
      `label ${JSON.stringify(long[0].slice(0, 80))} is empty or longer than ${MAX_LABEL_LENGTH} characters with its value`,
    );
  }
}

async function explainToken(
  transaction: Kysely<Tables>,
  tokenHash: string,
  deviceIdentifier: string,
): Promise<OctomilError> {
  const row = await transaction
    .selectFrom('enrollment_tokens')
    .leftJoin('devices', 'devices.id', 'enrollment_tokens.used_by_device_id')
    .select([
      'enrollment_tokens.used_at',
      'enrollment_tokens.expires_at',
      'enrollment_tokens.device_identifier as meant_for',
      'devices.device_identifier',
      sql<boolean>`enrollment_tokens.expires_at <= now()`.as('expired'),
    ])
    .where('token_hash', '=', tokenHash)
    .executeTakeFirst();
  if (row === undefined) {
    return new OctomilError(
      'enrollment_token_invalid',
      'this enrolment token is not known here: check that it was copied whole and made by this coordinator',
    );
  }
  if (row.used_at !== null) {
    const usedAt = row.used_at.toISOString();
    const by = row.device_identifier === null ? '' : ` by device ${row.device_identifier}`;
    return new OctomilError(
      'enrollment_token_used',
      `this enrolment token was used at ${usedAt}${by}; a token enrols one device once: make a new one with \`octomil enroll --device ${deviceIdentifier}\``,
      { details: { usedAt, ...(row.device_identifier === null ? {} : { deviceIdentifier: row.device_identifier }) } },
    );
  }
  if (!row.expired && row.meant_for !== null && row.meant_for !== deviceIdentifier) {
    return new OctomilError(
      'enrollment_token_invalid',
      `this enrolment token is for device ${row.meant_for}, not for ${deviceIdentifier}; make one for this device with \`octomil enroll --device ${deviceIdentifier}\``,
      { details: { meantFor: row.meant_for, deviceIdentifier } },
    );
  }
  const expiredAt = row.expires_at.toISOString();
  return new OctomilError(
    'enrollment_token_invalid',
    `this enrolment token expired at ${expiredAt}; make a new one with \`octomil enroll --device ${deviceIdentifier}\``,
    { details: { expiredAt } },
  );
}

function alreadyEnrolled(deviceIdentifier: string): OctomilError {
  return new OctomilError(
    'conflict',
    `device ${deviceIdentifier} exists already, and this enrolment token was not made for it; mint one for this device, as with \`octomil enroll --device ${deviceIdentifier}\`, or choose another device_identifier`,
    { details: { deviceIdentifier } },
  );
}

/**
 * Spends a one-time token on a device credential. A device that exists already is enrolled again only by a token made for
 * it, since any other token would take it over: it keeps its row and its history; its older credential stops working and
 * its session ends.
 *
 * @param transaction undone when this throws, so that the token stays good
 * @param random uniform in [0, 1), for the device's placement
 * @throws `enrollment_token_invalid` (unknown, expired or for another device), `enrollment_token_used` (says when and by
 * whom), `conflict` when the device exists and the token is not for it, `invalid_input`
 */
export async function enroll(
  transaction: Kysely<Tables>,
  request: EnrollmentRequest,
  random: () => number,
): Promise<Enrollment> {
  checkDeviceIdentifier(request.deviceIdentifier);
  checkLabels(request.labels);
  const tokenHash = hashSecret(request.enrollmentToken);
  const spent = looksLikeEnrollmentToken(request.enrollmentToken)
    ? await transaction
        .updateTable('enrollment_tokens')
        .set({ used_at: sql`now()` })
        .where('token_hash', '=', tokenHash)
        .where('used_at', 'is', null)
        .where('expires_at', '>', sql<Date>`now()`)
        .where((where) =>
          where.or([where('device_identifier', 'is', null), where('device_identifier', '=', request.deviceIdentifier)]),
        )
        .returning(['id', 'organization_id', 'labels', 'device_identifier'])
        .executeTakeFirst()
    : undefined;
  if (spent === undefined) throw await explainToken(transaction, tokenHash, request.deviceIdentifier);
  // What the organization wrote on the token outranks what the device says of itself.
  const labels = JSON.stringify({ ...request.labels, ...spent.labels });
  const enrolledLabels = JSON.stringify(spent.labels);
  const agentVersion = request.agentVersion.slice(0, MAX_NAME_LENGTH);
  const isBound = spent.device_identifier !== null;
  const device = await transaction
    .insertInto('devices')
    .values({
      id: randomUUID(),
      organization_id: spent.organization_id,
      device_identifier: request.deviceIdentifier,
      credential_hash: null,
      placement: random(),
      labels,
      enrolled_labels: enrolledLabels,
      capabilities: '{}',
      site: '{}',
      agent_version: agentVersion,
      status: 'active',
      session_process_id: null,
      session_host: null,
      session_coordinator_id: null,
    })
    .onConflict((conflict) => {
      const existing = conflict.columns(['organization_id', 'device_identifier']);
      if (!isBound) return existing.doNothing();
      return existing.doUpdateSet({
        labels,
        enrolled_labels: enrolledLabels,
        agent_version: agentVersion,
        status: 'active',
        identity: 'enrolled',
        revoked_at: null,
        session_epoch: sql`devices.session_epoch + 1`,
        session_process_id: null,
        session_host: null,
        session_coordinator_id: null,
        session_since: null,
        lease_until: null,
      });
    })
    .returning('id')
    .executeTakeFirst();
  if (device === undefined) throw alreadyEnrolled(request.deviceIdentifier);
  await revokeTokensOf(transaction, device.id, 'the device was enrolled again');
  const credential = createCredential(device.id);
  await transaction
    .updateTable('devices')
    .set({ credential_hash: hashSecret(credential) })
    .where('id', '=', device.id)
    .execute();
  await transaction
    .updateTable('enrollment_tokens')
    .set({ used_by_device_id: device.id })
    .where('id', '=', spent.id)
    .execute();
  return { deviceId: device.id, organizationId: spent.organization_id, credential };
}
