import { createHmac, timingSafeEqual } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';

export interface SignedAddressesOptions {
  /** Kept apart from each other: an address of one purpose is none for another. */
  readonly purpose: 'upload' | 'download';
  readonly clock: Clock;
  /** Secret of an API key, which signs that key's addresses; undefined once the key is revoked. */
  readonly signingSecret: (keyId: string) => Promise<string | undefined>;
}

export interface SignedClaims {
  readonly keyId: string;
  /** What it opens. */
  readonly subject: string;
  readonly expiresAtMs: number;
}

/** Addresses that need no further credential: whoever holds one may do this one thing until it expires or its key is revoked. */
export class SignedAddresses {
  readonly #options: SignedAddressesOptions;

  constructor(options: SignedAddressesOptions) {
    this.#options = options;
  }

  /** @throws OctomilError `ticket_invalid` for a key revoked just now */
  async sign(keyId: string, subject: string, validMs: number): Promise<{ token: string; expiresAt: Date }> {
    const expiresAtMs = this.#options.clock.now() + validMs;
    const payload = Buffer.from(JSON.stringify({ k: keyId, s: subject, e: expiresAtMs })).toString('base64url');
    const mac = await this.#mac(keyId, payload);
    return { token: `${payload}.${mac.toString('base64url')}`, expiresAt: new Date(expiresAtMs) };
  }

  /** @throws OctomilError `ticket_invalid`, `ticket_expired` */
  async verify(token: string): Promise<SignedClaims> {
    const { purpose, clock } = this.#options;
    const [payload = '', signature = ''] = token.split('.');
    const claims = readClaims(payload);
    const given = Buffer.from(signature, 'base64url');
    const expected = claims === undefined ? undefined : await this.#mac(claims.keyId, payload);
    if (claims === undefined || expected?.length !== given.length || !timingSafeEqual(expected, given)) {
      throw new OctomilError('ticket_invalid', `this ${purpose} address was not made here; ask for a new one`);
    }
    if (claims.expiresAtMs < clock.now()) {
      const at = new Date(claims.expiresAtMs).toISOString();
      throw new OctomilError('ticket_expired', `this ${purpose} address expired at ${at}; ask for a new one`);
    }
    return claims;
  }

  async #mac(keyId: string, payload: string): Promise<Buffer> {
    const secret = await this.#options.signingSecret(keyId);
    if (secret === undefined) {
      throw new OctomilError('ticket_invalid', 'the API key behind this address was revoked; ask with a live one');
    }
    return createHmac('sha256', secret).update(`${this.#options.purpose}\0${payload}`).digest();
  }
}

function readClaims(payload: string): SignedClaims | undefined {
  try {
    const value = JSON.parse(Buffer.from(payload, 'base64url').toString()) as Record<string, unknown>;
    const { k, s, e } = value;
    // Whose secret signs it is looked up before anything is proven, and PostgreSQL has no place for NUL.
    return typeof k === 'string' && !k.includes('\0') && typeof s === 'string' && typeof e === 'number'
      ? { keyId: k, subject: s, expiresAtMs: e }
      : undefined;
  } catch {
    return undefined;
  }
}
