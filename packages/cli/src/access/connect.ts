import { Client, type ClientOptions, DEFAULT_API_BASE } from '@octomil/sdk';
import { OctomilError } from '@octomil/shared/errors';
import { readCredentials } from './credentials.js';

/** Everything behind the key of this terminal. @throws OctomilError as {@link connection} */
export async function connect(): Promise<Client> {
  return new Client(await connection());
}

/**
 * Where to and with which key: the environment first, then what `octomil login` kept.
 *
 * @throws OctomilError `invalid_api_key` without a key, or when the kept one is for another coordinator than
 * `OCTOMIL_API_BASE`: nobody is to get a key that was made for somebody else
 */
export async function connection(): Promise<ClientOptions & { readonly apiBase: string }> {
  const { OCTOMIL_API_BASE: base, OCTOMIL_API_KEY: key, OCTOMIL_SERVER_KEY: serverKey } = process.env;
  const apiKey = key || serverKey;
  if (apiKey && base) return { apiBase: base, apiKey };
  const kept = await readCredentials();
  if (apiKey) return { apiBase: kept?.apiBase ?? DEFAULT_API_BASE, apiKey };
  if (kept === undefined) {
    throw new OctomilError('invalid_api_key', 'no API key was given; run "octomil login", or set OCTOMIL_API_KEY');
  }
  if (base && trimmed(base) !== trimmed(kept.apiBase)) {
    throw new OctomilError(
      'invalid_api_key',
      `OCTOMIL_API_BASE is ${base}, and the key that is kept is for ${kept.apiBase}; set OCTOMIL_API_KEY, or log in there`,
    );
  }
  return kept;
}

function trimmed(base: string): string {
  return base.replace(/\/+$/, '');
}
