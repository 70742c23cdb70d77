import { randomBytes, randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import type { Database } from '../database/database.js';
import { hashSecret } from '../devices/device-credential.js';

export interface CreatedEnrollmentToken {
  readonly id: string;
  /** Shown once; only its hash is kept. Enrols one device, once. */
  readonly token: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly expiresAt: Date;
}

export async function createEnrollmentToken(
  database: Database,
  organizationId: string,
  options: { labels: Readonly<Record<string, string>>; expiresInSeconds: number },
): Promise<CreatedEnrollmentToken> {
  const token = `oet_${randomBytes(32).toString('base64url')}`;
  const row = await database.kysely
    .insertInto('enrollment_tokens')
    .values({
      id: randomUUID(),
      organization_id: organizationId,
      token_hash: hashSecret(token),
      labels: JSON.stringify(options.labels),
      // The database's clock: it also decides whether the token has expired.
      expires_at: sql<Date>`now() + make_interval(secs => ${options.expiresInSeconds})`,
      used_by_device_id: null,
    })
    .returning(['id', 'labels', 'expires_at'])
    .executeTakeFirstOrThrow();
  return { id: row.id, token, labels: row.labels, expiresAt: row.expires_at };
}
