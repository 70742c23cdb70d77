import { randomBytes, randomUUID } from 'node:crypto';
import type { Database } from '../database/database.js';
import { hashSecret } from '../devices/device-credential.js';

export async function insertOrganization(database: Database): Promise<string> {
  const id = randomUUID();
  await database.kysely
    .insertInto('organizations')
    .values({ id, name: `organization ${id}` })
    .execute();
  return id;
}

/** A one-time token; `expiresInMs` below zero makes an expired one; `deviceIdentifier` binds it. */
export async function insertEnrollmentToken(
  database: Database,
  organizationId: string,
  { expiresInMs = 60_000, labels = {} as Record<string, string>, deviceIdentifier = null as string | null } = {},
): Promise<string> {
  const token = `oet_${randomBytes(32).toString('base64url')}`;
  await database.kysely
    .insertInto('enrollment_tokens')
    .values({
      id: randomUUID(),
      organization_id: organizationId,
      token_hash: hashSecret(token),
      labels: JSON.stringify(labels),
      device_identifier: deviceIdentifier,
      expires_at: new Date(Date.now() + expiresInMs),
      used_by_device_id: null,
    })
    .execute();
  return token;
}

/** The rows an upload ticket hangs on; answers the id of the assignment. */
export async function insertAssignment(database: Database, organizationId: string, deviceId: string): Promise<string> {
  const ids = { federation: randomUUID(), model: randomUUID(), session: randomUUID(), round: randomUUID() };
  const { kysely } = database;
  await kysely
    .insertInto('federations')
    .values({ id: ids.federation, organization_id: organizationId, name: ids.federation, description: '' })
    .execute();
  await kysely
    .insertInto('models')
    .values({
      id: ids.model,
      organization_id: organizationId,
      name: ids.model,
      framework: null,
      framework_version: null,
      use_case: null,
      description: '',
      target: null,
    })
    .execute();
  await kysely
    .insertInto('training_sessions')
    .values({
      id: ids.session,
      organization_id: organizationId,
      federation_id: ids.federation,
      model_id: ids.model,
      state: 'running',
      admission: 'assigned',
      config: '{}',
      base_version_id: null,
      new_version: null,
      result_version_id: null,
      feature_spec_hash: null,
      reason_code: null,
      reason: null,
      created_by: 'test',
    })
    .execute();
  await kysely
    .insertInto('rounds')
    .values({
      id: ids.round,
      session_id: ids.session,
      kind: 'train',
      number: 1,
      attempt: 1,
      state: 'collecting',
      seed: 1,
      base_checkpoint_id: null,
      checkpoint_id: null,
      min_updates: 1,
      target_devices: 1,
      reason_code: null,
      reason: null,
      metrics: '{}',
      owner: null,
    })
    .execute();
  const id = randomUUID();
  await kysely
    .insertInto('assignments')
    .values({
      id,
      round_id: ids.round,
      device_id: deviceId,
      attempt: 1,
      state: 'accepted',
      lease_until: new Date(Date.now() + 60_000),
      phase: null,
      reason_code: null,
      reason: null,
    })
    .execute();
  return id;
}
