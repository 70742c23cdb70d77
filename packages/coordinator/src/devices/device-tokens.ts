import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import { type Kysely, sql } from 'kysely';
import type { Database } from '../database/database.js';
import type { Tables } from '../database/tables.js';
import { revoked } from './credential-check.js';

/** What a device's token may be good for; `devices:write` is everything that a device may do with its own record. */
export const DEVICE_TOKEN_SCOPES = [
  'devices:write',
  'devices:register',
  'devices:heartbeat',
  'control:refresh',
  'telemetry:write',
  'models:read',
] as const;
export type DeviceTokenScope = (typeof DEVICE_TOKEN_SCOPES)[number];

/** The published clients' default. */
export const DEFAULT_TOKEN_SCOPES: readonly DeviceTokenScope[] = ['devices:write'];
export const ACCESS_TTL_SECONDS = { usual: 3600, longest: 86_400 } as const;
/** A device that is silent for longer bootstraps again. */
const REFRESH_TTL_SECONDS = 30 * 86_400;
/** A client whose answer was lost tries the same refresh token again at once; later than this it is somebody else. */
const GRACE_SECONDS = 10;
/** Installations of one device that have tokens at a time; one more, and the one silent for longest signs in anew. */
export const MAX_CHAINS = 20;
/** Pairs of a chain that are kept: what was replaced so long ago is unknown when it is used again, instead of used twice. */
export const MAX_PAIRS_IN_CHAIN = 100;
const ACCESS = /^oda_[A-Za-z0-9_-]{43}$/;
const REFRESH = /^odr_[A-Za-z0-9_-]{43}$/;

/** Shown once; only hashes are kept. */
export interface TokenPair {
  readonly accessToken: string;
  readonly refreshToken: string;
  readonly deviceId: string;
  readonly organizationId: string;
  readonly deviceIdentifier: string;
  readonly scopes: readonly string[];
  readonly accessTtlSeconds: number;
  readonly accessExpiresAt: Date;
}

export interface CheckedToken {
  readonly tokenId: string;
  readonly deviceId: string;
  readonly organizationId: string;
  readonly scopes: readonly string[];
  readonly status: 'active' | 'revoked';
  readonly expiresInMs: number;
}

/** @throws `invalid_input` for what no token can be good for */
export function checkTokenScopes(scopes: readonly string[]): DeviceTokenScope[] {
  const unknown = scopes.filter((scope) => !DEVICE_TOKEN_SCOPES.some((known) => known === scope));
  if (unknown.length > 0) {
    const shown = unknown.join(', ').slice(0, 200);
    throw new OctomilError(
      'invalid_input',
      `scopes: a device cannot be given ${shown}; possible are ${DEVICE_TOKEN_SCOPES.join(', ')}`,
      { details: { field: 'scopes' } },
    );
  }
  return DEVICE_TOKEN_SCOPES.filter((scope) => scopes.includes(scope));
}

export function isAccessToken(token: string): boolean {
  return ACCESS.test(token);
}

/** 256 random bits, so a slow hash would add nothing. */
export function hashToken(token: string): string {
  return createHash('sha256').update(token).digest('hex');
}

/**
 * Pairs of a short-lived access token and the refresh token that buys the next pair (RFC 6749, section 1.5; rotation and
 * the revocation of a chain as RFC 9700, section 4.14.2).
 */
export class DeviceTokens {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** A new chain for a device. */
  issue(
    deviceId: string,
    scopes: readonly string[],
    accessTtlSeconds: number = ACCESS_TTL_SECONDS.usual,
  ): Promise<TokenPair> {
    return this.#database.transact((transaction) => issuePair(transaction, deviceId, scopes, accessTtlSeconds));
  }

  /**
   * The next pair. A refresh token works once; again only within ten seconds, for who did not get the answer, and only
   * until the pair it bought is itself refreshed. Any later use means that two hold it: the whole chain ends.
   *
   * @param onRevoked called when tokens that were good until now no longer are
   * @throws `authentication_failed`, `token_expired`, `device_revoked`
   */
  async refresh(refreshToken: string, onRevoked: (deviceId: string) => Promise<void>): Promise<TokenPair> {
    if (!REFRESH.test(refreshToken)) throw unknownToken();
    let revokedOf: string | undefined;
    const outcome = await this.#database.transact(async (transaction) => {
      const row = await lockedPair(transaction, refreshToken);
      if (row === undefined) return unknownToken();
      if (row.status === 'revoked') return revoked(row.device_id);
      if (row.revoked_at !== null && row.reason !== LOST_ANSWER) return endedToken(row.reason);
      if (row.replaced_by === null && row.revoked_at === null) {
        if (row.expired) {
          return new OctomilError('token_expired', 'this refresh token has expired; bootstrap the device again');
        }
      } else if (!(await takenBack(transaction, row))) {
        revokedOf = row.device_id;
        await revokeChain(transaction, row.chain_id, 'a refresh token was used twice');
        return endedToken('a refresh token was used twice');
      }
      const next = await insertPair(transaction, {
        deviceId: row.device_id,
        scopes: row.scopes,
        accessTtlSeconds: row.access_ttl_seconds,
        chainId: row.chain_id,
      });
      await transaction
        .updateTable('device_tokens')
        .set({ replaced_by: next.tokenId })
        .where('id', '=', row.id)
        .execute();
      await sql`delete from device_tokens where id in (
        select id from device_tokens
        where device_id = ${row.device_id} and chain_id = ${row.chain_id} and replaced_by is not null
        order by created_at desc offset ${MAX_PAIRS_IN_CHAIN}::integer)`.execute(transaction);
      return next;
    });
    if (revokedOf !== undefined) await onRevoked(revokedOf);
    // Thrown here, so that the end of a chain is kept.
    if (outcome instanceof OctomilError) throw outcome;
    return outcome;
  }

  /** Ends the chain of a refresh token. Safe to repeat; answers whose it was, and `undefined` for one that is unknown. */
  async revoke(
    refreshToken: string,
    reason: string,
  ): Promise<{ deviceId: string; organizationId: string } | undefined> {
    return this.#database.transact(async (transaction) => {
      const row = REFRESH.test(refreshToken) ? await lockedPair(transaction, refreshToken) : undefined;
      if (row === undefined) return undefined;
      await revokeChain(transaction, row.chain_id, reason);
      return { deviceId: row.device_id, organizationId: row.organization_id };
    });
  }

  /** What an access token is, without judging it; `undefined` when it is unknown or was revoked. */
  async read(accessHash: string): Promise<CheckedToken | undefined> {
    const row = await this.#database.kysely
      .selectFrom('device_tokens')
      .innerJoin('devices', 'devices.id', 'device_tokens.device_id')
      .select(['device_tokens.id', 'device_id', 'organization_id', 'scopes', 'status'])
      .select(sql<number>`(extract(epoch from access_expires_at - now()) * 1000)::float8`.as('expires_in_ms'))
      .where('access_hash', '=', accessHash)
      .where((where) =>
        // A revoked device is told so, rather than that its token is not known.
        where.or([where('device_tokens.revoked_at', 'is', null), where('status', '=', 'revoked')]),
      )
      .executeTakeFirst();
    if (row === undefined) return undefined;
    return {
      tokenId: row.id,
      deviceId: row.device_id,
      organizationId: row.organization_id,
      scopes: row.scopes,
      status: row.status,
      expiresInMs: row.expires_in_ms,
    };
  }
}

/** A new chain for a device, within the change that asks for it. */
export async function issuePair(
  transaction: Kysely<Tables>,
  deviceId: string,
  scopes: readonly string[],
  accessTtlSeconds: number,
): Promise<TokenPair> {
  // What can serve nobody any more is not kept, nor the installations silent for longest when there are many.
  await sql`delete from device_tokens where device_id = ${deviceId} and (
    (access_expires_at < now() and refresh_expires_at < now())
    or chain_id in (select chain_id from device_tokens where device_id = ${deviceId}
      group by chain_id order by max(created_at) desc, chain_id offset ${MAX_CHAINS - 1}::integer))`.execute(
    transaction,
  );
  return insertPair(transaction, { deviceId, scopes, accessTtlSeconds, chainId: randomUUID() });
}

/** Ends every token of a device, within the change that asks for it. */
export async function revokeTokensOf(transaction: Kysely<Tables>, deviceId: string, reason: string): Promise<void> {
  await transaction
    .updateTable('device_tokens')
    .set({ revoked_at: sql`now()`, reason })
    .where('device_id', '=', deviceId)
    .where('revoked_at', 'is', null)
    .execute();
}

const LOST_ANSWER = 'its answer was lost';

interface LockedPair {
  readonly id: string;
  readonly device_id: string;
  readonly organization_id: string;
  readonly chain_id: string;
  readonly scopes: string[];
  readonly access_ttl_seconds: number;
  readonly replaced_by: string | null;
  readonly reason: string | null;
  readonly revoked_at: Date | null;
  readonly status: 'active' | 'revoked';
  readonly expired: boolean;
}

/** The device's row is locked too: of two refreshes at once, one sees what the other did. */
async function lockedPair(transaction: Kysely<Tables>, refreshToken: string): Promise<LockedPair | undefined> {
  const hash = hashToken(refreshToken);
  const { rows } = await sql<{ id: string }>`
    select d.id from devices d where d.id = (select t.device_id from device_tokens t where t.refresh_hash = ${hash})
    for no key update`.execute(transaction);
  if (rows.length === 0) return undefined;
  return transaction
    .selectFrom('device_tokens')
    .innerJoin('devices', 'devices.id', 'device_tokens.device_id')
    .select([
      'device_tokens.id',
      'device_id',
      'organization_id',
      'chain_id',
      'scopes',
      'access_ttl_seconds',
      'replaced_by',
      'reason',
      'device_tokens.revoked_at',
      'status',
    ])
    .select(sql<boolean>`refresh_expires_at <= now()`.as('expired'))
    .where('refresh_hash', '=', hash)
    .executeTakeFirst();
}

/** Withdraws the pair that was bought a moment ago and never used; false when that is not what happened. */
async function takenBack(transaction: Kysely<Tables>, spent: LockedPair): Promise<boolean> {
  if (spent.replaced_by === null || spent.revoked_at !== null) return false;
  const { numUpdatedRows } = await transaction
    .updateTable('device_tokens')
    .set({ revoked_at: sql`now()`, reason: LOST_ANSWER })
    .where('id', '=', spent.replaced_by)
    .where('replaced_by', 'is', null)
    .where('revoked_at', 'is', null)
    .where('created_at', '>', sql<Date>`now() - make_interval(secs => ${GRACE_SECONDS})`)
    .executeTakeFirst();
  return numUpdatedRows === 1n;
}

async function revokeChain(transaction: Kysely<Tables>, chainId: string, reason: string): Promise<void> {
  await transaction
    .updateTable('device_tokens')
    .set({ revoked_at: sql`now()`, reason: reason.slice(0, 255) })
    .where('chain_id', '=', chainId)
    .where('revoked_at', 'is', null)
    .execute();
}

async function insertPair(
  transaction: Kysely<Tables>,
  pair: { deviceId: string; scopes: readonly string[]; accessTtlSeconds: number; chainId: string },
): Promise<TokenPair & { tokenId: string }> {
  const accessToken = `oda_${randomBytes(32).toString('base64url')}`;
  const refreshToken = `odr_${randomBytes(32).toString('base64url')}`;
  const tokenId = randomUUID();
  const { access_expires_at: accessExpiresAt } = await transaction
    .insertInto('device_tokens')
    .values({
      id: tokenId,
      device_id: pair.deviceId,
      chain_id: pair.chainId,
      access_hash: hashToken(accessToken),
      refresh_hash: hashToken(refreshToken),
      scopes: JSON.stringify(pair.scopes),
      access_ttl_seconds: pair.accessTtlSeconds,
      access_expires_at: sql<Date>`now() + make_interval(secs => ${pair.accessTtlSeconds})`,
      refresh_expires_at: sql<Date>`now() + make_interval(secs => ${REFRESH_TTL_SECONDS})`,
      replaced_by: null,
      reason: null,
    })
    .returning('access_expires_at')
    .executeTakeFirstOrThrow();
  const device = await transaction
    .selectFrom('devices')
    .select(['organization_id', 'device_identifier'])
    .where('id', '=', pair.deviceId)
    .executeTakeFirstOrThrow();
  return {
    tokenId,
    accessToken,
    refreshToken,
    deviceId: pair.deviceId,
    organizationId: device.organization_id,
    deviceIdentifier: device.device_identifier,
    scopes: pair.scopes,
    accessTtlSeconds: pair.accessTtlSeconds,
    accessExpiresAt,
  };
}

function unknownToken(): OctomilError {
  return new OctomilError('authentication_failed', 'this refresh token is not known here; bootstrap the device again');
}

function endedToken(reason: string | null): OctomilError {
  return new OctomilError(
    'authentication_failed',
    `the tokens of this device's bootstrap were revoked (${reason ?? 'no reason given'}); bootstrap the device again`,
  );
}
