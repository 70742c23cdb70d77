import { OctomilError } from '@octomil/shared/errors';

/** PostgreSQL refuses 8,000 bytes; a little is left for it to change its mind. */
const MAX_PAYLOAD_BYTES = 7_900;

/** @throws OctomilError `too_large` */
export function checkNotification(payload: string): void {
  const bytes = Buffer.byteLength(payload);
  if (bytes > MAX_PAYLOAD_BYTES) {
    throw new OctomilError(
      'too_large',
      `a notification of ${bytes} bytes is larger than ${MAX_PAYLOAD_BYTES}; send an id and let the receiver read the row`,
    );
  }
}
