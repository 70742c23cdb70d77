import { randomBytes, randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import { type Kysely, type Selectable, sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { ApiKeysTable, Tables } from '../database/tables.js';
import { hashSecret, sameHash } from '../devices/device-credential.js';
import { covers, type KeyPrincipal, SCOPES } from '../http/principal.js';

/** Rotation needs two: the new one is given out while the old one still works. */
const MAX_LIVE_PER_NAME = 2;
const KEY = /^edg_[A-Za-z0-9_-]{43}$/;
/** A key revoked through another coordinator stops working here after this long at most. */
const CACHE_MS = 5_000;
const MAX_CACHED = 10_000;
/** How exact `last_used_at` is, so that not every request writes. */
const LAST_USED_EVERY_MS = 60_000;

export type ApiKey = Omit<Selectable<ApiKeysTable>, 'key_hash' | 'signing_key'>;

export interface CreatedKey {
  readonly row: ApiKey;
  /** Shown once; only its hash is kept. */
  readonly key: string;
}

interface Cached {
  readonly row: Selectable<ApiKeysTable>;
  readonly untilMs: number;
}

const COLUMNS = [
  'id',
  'organization_id',
  'name',
  'prefix',
  'scopes',
  'created_at',
  'last_used_at',
  'revoked_at',
] as const;

/** The keys of organizations: 256 random bits each, kept as SHA-256. */
export class ApiKeys {
  readonly #database: Database;
  readonly #clock: Clock;
  readonly #cache = new Map<string, Cached>();
  readonly #usedAtMs = new Map<string, number>();
  /** Counts revocations: a row that was read before one must not be cached after it. */
  #revocations = 0;

  constructor(database: Database, clock: Clock) {
    this.#database = database;
    this.#clock = clock;
  }

  /** @throws OctomilError `invalid_api_key` for a key that is unknown or revoked; the message says which */
  async verify(key: string): Promise<KeyPrincipal> {
    const hash = hashSecret(key);
    const row = KEY.test(key) ? await this.#row(hash) : undefined;
    if (row === undefined || !sameHash(hash, row.key_hash)) {
      throw new OctomilError('invalid_api_key', 'this API key is not known here; check that it was copied whole');
    }
    if (row.revoked_at !== null) {
      throw new OctomilError(
        'invalid_api_key',
        `API key "${row.name}" (${row.prefix}…) was revoked at ${row.revoked_at.toISOString()}; use a live one`,
        { details: { key_id: row.id, revoked_at: row.revoked_at.toISOString() } },
      );
    }
    await this.#noteUse(row.id);
    return { kind: 'key', organizationId: row.organization_id, keyId: row.id, scopes: row.scopes };
  }

  /**
   * @throws OctomilError `conflict` naming the live keys when two of this name are live already,
   * `invalid_input` for an unknown scope, `forbidden` for scopes that the creating key lacks
   */
  create(organizationId: string, name: string, scopes: readonly string[], creator?: KeyPrincipal): Promise<CreatedKey> {
    checkScopes(scopes, creator);
    return this.#database.transact((transaction) => createKey(transaction, organizationId, name, scopes));
  }

  list(organizationId: string): Promise<ApiKey[]> {
    return this.#database.kysely
      .selectFrom('api_keys')
      .select(COLUMNS)
      .where('organization_id', '=', organizationId)
      .orderBy('created_at', 'desc')
      .orderBy('id')
      .execute();
  }

  /**
   * Safe to repeat.
   *
   * @throws OctomilError `not_found`, `forbidden` for a key that may do what the revoking key may not, `wrong_state` for
   * the organization's last live admin key, after which nobody could make another
   */
  async revoke(organizationId: string, keyId: string, revoker: KeyPrincipal): Promise<ApiKey> {
    const row = await this.#database.transact(async (transaction) => {
      // Of two revocations at once, one sees what the other did.
      await lockOrganization(transaction, organizationId);
      const found = await transaction
        .selectFrom('api_keys')
        .select(COLUMNS)
        .where('id', '=', keyId)
        .where('organization_id', '=', organizationId)
        .executeTakeFirst();
      if (found === undefined) throw noKey(keyId);
      if (found.revoked_at !== null) return found;
      checkMayRevoke(found, revoker);
      if (found.scopes.includes('admin')) await checkNotLastAdmin(transaction, found);
      return transaction
        .updateTable('api_keys')
        .set({ revoked_at: sql<Date>`now()` })
        .where('id', '=', keyId)
        .returning(COLUMNS)
        .executeTakeFirstOrThrow();
    });
    this.#revocations++;
    this.#cache.clear();
    return row;
  }

  /**
   * A second live key of the same name and scopes. The first works until it is revoked.
   *
   * @throws OctomilError `not_found`, `wrong_state` for a revoked key, `conflict` when two are live already
   */
  rotate(organizationId: string, keyId: string, creator: KeyPrincipal): Promise<CreatedKey> {
    return this.#database.transact(async (transaction) => {
      const row = await transaction
        .selectFrom('api_keys')
        .select(COLUMNS)
        .where('id', '=', keyId)
        .where('organization_id', '=', organizationId)
        .executeTakeFirst();
      if (row === undefined) throw noKey(keyId);
      if (row.revoked_at !== null) {
        throw new OctomilError('wrong_state', `API key "${row.name}" was revoked; create a new one instead`);
      }
      checkScopes(row.scopes, creator);
      return createKey(transaction, organizationId, row.name, row.scopes);
    });
  }

  /** By which addresses are signed for this key; not known to who holds the key, and `undefined` once it is revoked. */
  async signingSecret(keyId: string): Promise<string | undefined> {
    const row = await this.#database.kysely
      .selectFrom('api_keys')
      .select('signing_key')
      .where('id', '=', keyId)
      .where('revoked_at', 'is', null)
      .executeTakeFirst();
    return row?.signing_key;
  }

  async #row(hash: string): Promise<Selectable<ApiKeysTable> | undefined> {
    const cached = this.#cache.get(hash);
    if (cached !== undefined && cached.untilMs > this.#clock.now()) return cached.row;
    const revocations = this.#revocations;
    const row = await this.#database.kysely
      .selectFrom('api_keys')
      .selectAll()
      .where('key_hash', '=', hash)
      .executeTakeFirst();
    if (row === undefined) return undefined;
    if (revocations !== this.#revocations) return row;
    if (this.#cache.size >= MAX_CACHED) this.#cache.clear();
    this.#cache.set(hash, { row, untilMs: this.#clock.now() + CACHE_MS });
    return row;
  }

  async #noteUse(keyId: string): Promise<void> {
    const now = this.#clock.now();
    if (now - (this.#usedAtMs.get(keyId) ?? Number.NEGATIVE_INFINITY) < LAST_USED_EVERY_MS) return;
    this.#usedAtMs.set(keyId, now);
    await this.#database.kysely
      .updateTable('api_keys')
      .set({ last_used_at: sql<Date>`now()` })
      .where('id', '=', keyId)
      .execute();
  }
}

/** Inside a transaction: the organization's row is locked, so that two callers cannot both make the second key. */
export async function createKey(
  transaction: Kysely<Tables>,
  organizationId: string,
  name: string,
  scopes: readonly string[],
): Promise<CreatedKey> {
  await lockOrganization(transaction, organizationId);
  const live = await transaction
    .selectFrom('api_keys')
    .select(['id', 'prefix', 'created_at'])
    .where('organization_id', '=', organizationId)
    .where('name', '=', name)
    .where('revoked_at', 'is', null)
    .orderBy('created_at')
    .execute();
  if (live.length >= MAX_LIVE_PER_NAME) {
    const named = live.map((row) => `${row.prefix}… (id ${row.id})`).join(' and ');
    throw new OctomilError('conflict', `two keys named "${name}" are live: ${named}; revoke one of them first`, {
      details: { live_key_ids: live.map((row) => row.id) },
    });
  }
  const key = `edg_${randomBytes(32).toString('base64url')}`;
  const row = await transaction
    .insertInto('api_keys')
    .values({
      id: randomUUID(),
      organization_id: organizationId,
      name,
      prefix: key.slice(0, 12),
      key_hash: hashSecret(key),
      scopes: JSON.stringify(scopes),
    })
    .returning(COLUMNS)
    .executeTakeFirstOrThrow();
  return { row, key };
}

async function lockOrganization(transaction: Kysely<Tables>, organizationId: string): Promise<void> {
  await transaction.selectFrom('organizations').select('id').where('id', '=', organizationId).forUpdate().execute();
}

function checkMayRevoke({ name, scopes }: ApiKey, revoker: KeyPrincipal): void {
  const excess = scopes.filter((scope) => !covers(revoker.scopes, scope));
  if (excess.length === 0) return;
  throw new OctomilError(
    'forbidden',
    `API key "${name}" may do what the key that is to revoke it may not: ${excess.join(', ')}; use an admin key`,
  );
}

async function checkNotLastAdmin(transaction: Kysely<Tables>, key: ApiKey): Promise<void> {
  const other = await transaction
    .selectFrom('api_keys')
    .select('id')
    .where('organization_id', '=', key.organization_id)
    .where('id', '!=', key.id)
    .where('revoked_at', 'is', null)
    .where(sql<boolean>`scopes ? 'admin'`)
    .limit(1)
    .executeTakeFirst();
  if (other !== undefined) return;
  throw new OctomilError(
    'wrong_state',
    `API key "${key.name}" (${key.prefix}…) is the last admin key of this organization, which nobody could administer without it; create another admin key first`,
    { details: { key_id: key.id } },
  );
}

function checkScopes(scopes: readonly string[], creator: KeyPrincipal | undefined): void {
  const unknown = scopes.filter((scope) => !SCOPES.some((known) => known === scope));
  if (unknown.length > 0) {
    const shown = unknown.join(', ').slice(0, 200);
    throw new OctomilError('invalid_input', `unknown scope ${shown}; known are ${SCOPES.join(', ')}`);
  }
  if (creator === undefined) return;
  const excess = scopes.filter((scope) => !covers(creator.scopes, scope));
  if (excess.length > 0) {
    throw new OctomilError('forbidden', `a key cannot give away what it lacks: ${excess.join(', ')}; use an admin key`);
  }
}

function noKey(keyId: string): OctomilError {
  return new OctomilError('not_found', `there is no API key ${keyId} in this organization`);
}
