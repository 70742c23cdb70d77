import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';

const CREDENTIAL = /^odc_([0-9a-f]{32})_([A-Za-z0-9_-]{43})$/;
const TOKEN = /^oet_[A-Za-z0-9_-]{43}$/;

/** SHA-256, hexadecimal. The secrets hold 256 random bits, so a slow hash would add nothing. */
export function hashSecret(secret: string): string {
  return createHash('sha256').update(secret).digest('hex');
}

/** Compares two hexadecimal hashes in constant time. */
export function sameHash(left: string, right: string): boolean {
  const a = Buffer.from(left, 'hex');
  const b = Buffer.from(right, 'hex');
  return a.length === b.length && a.length > 0 && timingSafeEqual(a, b);
}

/** A new device credential: `odc_<device id without dashes>_<256 random bits>`. */
export function createCredential(deviceId: string): string {
  return `odc_${deviceId.replaceAll('-', '')}_${randomBytes(32).toString('base64url')}`;
}

/** Whose credential this says it is; `undefined` when it is none. Proves nothing. */
export function deviceIdOf(credential: string): string | undefined {
  const hex = CREDENTIAL.exec(credential)?.[1];
  if (hex === undefined) return undefined;
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

export function looksLikeEnrollmentToken(token: string): boolean {
  return TOKEN.test(token);
}
