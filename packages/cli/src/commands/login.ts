import { Client, DEFAULT_API_BASE, OctomilClientError } from '@octomil/sdk';
import { askSecret } from '../access/ask-secret.js';
import { removeCredentials, writeCredentials } from '../access/credentials.js';
import type { Options } from '../program.js';
import { print } from '../terminal/output.js';

/** Keeps a key, once the coordinator has taken it. @throws OctomilClientError `invalid_api_key`, `network_unavailable` */
export async function login(options: Options): Promise<void> {
  const { apiBase: named } = options;
  const apiBase = String(named ?? (process.env['OCTOMIL_API_BASE'] || DEFAULT_API_BASE)).replace(/\/+$/, '');
  const given = options['apiKey'] ?? (await askSecret(`API key for ${apiBase} (edg_…): `));
  const apiKey = String(given).trim();
  // Named by itself: an empty answer must not fall back to a key of the environment.
  if (apiKey === '') throw new OctomilClientError('invalid_api_key', 'no key was entered; it begins with edg_');
  await verify(new Client({ apiBase, apiKey, maxAttempts: 2 }));
  const path = await writeCredentials({ apiBase, apiKey });
  await print(options['json'], { apiBase, path }, () => `Logged in at ${apiBase}; the key is kept in ${path}.`);
}

/** Forgets the key here. It goes on working elsewhere: `octomil keys revoke` ends it. */
export async function logout(options: Options): Promise<void> {
  const removed = await removeCredentials();
  await print(options['json'], { removed }, () => (removed ? 'Logged out.' : 'Nobody was logged in.'));
}

async function verify(client: Client): Promise<void> {
  try {
    await client.registry.listModels({ limit: 1 });
  } catch (error) {
    // A key that may not list models is a key all the same.
    if (!(error instanceof OctomilClientError) || error.code !== 'forbidden') throw error;
  }
}
