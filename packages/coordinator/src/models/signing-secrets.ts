import { sql } from 'kysely';
import type { Database } from '../database/database.js';

const DEVICE = 'device:';

/**
 * The secret that signs the addresses of whoever asks, which the asker does not know: of an API key what `ofKey` answers,
 * of a device (`device:<id>`) its download key. Undefined once the key, the device or all of its tokens are revoked, which
 * ends its addresses.
 */
export function signingSecrets(
  database: Database,
  ofKey: (keyId: string) => Promise<string | undefined>,
): (callerId: string) => Promise<string | undefined> {
  return async (callerId) => {
    if (!callerId.startsWith(DEVICE)) return ofKey(callerId);
    const { rows } = await sql<{ secret: string }>`
      select d.download_key as secret from devices d
      where d.id = ${callerId.slice(DEVICE.length)} and d.status = 'active'
        and (d.credential_hash is not null
          or exists (select 1 from device_tokens t where t.device_id = d.id and t.revoked_at is null))`.execute(
      database.kysely,
    );
    return rows[0]?.secret;
  };
}
