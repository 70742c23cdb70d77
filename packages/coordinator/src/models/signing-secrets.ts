import { sql } from 'kysely';
import type { Database } from '../database/database.js';

const DEVICE = 'device:';

/**
 * The secret that signs the addresses of whoever asks: of an API key what `ofKey` answers, of a device (`device:<id>`) a
 * hash that it keeps through refreshes. Undefined once the key or device is revoked, which ends its addresses.
 */
export function signingSecrets(
  database: Database,
  ofKey: (keyId: string) => Promise<string | undefined>,
): (callerId: string) => Promise<string | undefined> {
  return async (callerId) => {
    if (!callerId.startsWith(DEVICE)) return ofKey(callerId);
    const { rows } = await sql<{ secret: string | null }>`
      select coalesce(d.credential_hash, (select t.refresh_hash from device_tokens t
        where t.device_id = d.id and t.revoked_at is null order by t.created_at, t.id limit 1)) as secret
      from devices d where d.id = ${callerId.slice(DEVICE.length)} and d.status = 'active'`.execute(database.kysely);
    return rows[0]?.secret ?? undefined;
  };
}
