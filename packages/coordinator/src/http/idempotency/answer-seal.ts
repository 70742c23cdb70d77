import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto';

const NONCE_BYTES = 12;
const TAG_BYTES = 16;

/**
 * Answers may hold secrets that are shown once (an API key, a token) and of which only hashes are kept. So a stored answer
 * is sealed with what the caller alone has, its own token: AES-256-GCM under a key derived with HKDF-SHA256 (RFC 5869).
 */
export function sealAnswer(body: string, token: string, idempotencyKey: string): string {
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv('aes-256-gcm', sealKey(token, idempotencyKey), nonce);
  const sealed = Buffer.concat([cipher.update(body, 'utf8'), cipher.final()]);
  return Buffer.concat([nonce, sealed, cipher.getAuthTag()]).toString('base64');
}

/** `undefined` when it was sealed for another token or key, or was damaged. */
export function openAnswer(text: string, token: string, idempotencyKey: string): string | undefined {
  const bytes = Buffer.from(text, 'base64');
  if (bytes.length < NONCE_BYTES + TAG_BYTES) return undefined;
  const decipher = createDecipheriv('aes-256-gcm', sealKey(token, idempotencyKey), bytes.subarray(0, NONCE_BYTES));
  decipher.setAuthTag(bytes.subarray(-TAG_BYTES));
  try {
    const opened = decipher.update(bytes.subarray(NONCE_BYTES, -TAG_BYTES));
    return Buffer.concat([opened, decipher.final()]).toString('utf8');
  } catch {
    return undefined;
  }
}

function sealKey(token: string, idempotencyKey: string): Buffer {
  return Buffer.from(hkdfSync('sha256', token, idempotencyKey, 'octomil stored answer', 32));
}
