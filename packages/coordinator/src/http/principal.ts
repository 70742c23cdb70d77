import { OctomilError } from '@octomil/shared/errors';
import type { FastifyRequest } from 'fastify';
import type { App } from './app.js';
import type { RateLimits } from './rate-limit.js';

/** What a key may do. The first block is the published clients' vocabulary. */
export const SCOPES = [
  'catalog:read',
  'models:read',
  'models:write',
  'devices:register',
  'devices:heartbeat',
  'control:refresh',
  'telemetry:write',
  'rollouts:read',
  'rollouts:write',
  'benchmarks:write',
  'evals:write',
  'cloud:inference',
  'cloud:credentials',
  'training:read',
  'training:write',
  'devices:read',
  'devices:write',
  'keys:write',
  'admin',
] as const;
export type Scope = (typeof SCOPES)[number];

export interface KeyPrincipal {
  readonly kind: 'key';
  readonly organizationId: string;
  readonly keyId: string;
  readonly scopes: readonly string[];
}

export interface DevicePrincipal {
  readonly kind: 'device';
  readonly organizationId: string;
  readonly deviceId: string;
  /** Of an access token; undefined for the device's own credential, which may do everything a device may. */
  readonly scopes?: readonly string[];
}

export type Principal = KeyPrincipal | DevicePrincipal;

/** Who sends a request, by what its `Authorization` header holds. */
export interface Authenticator {
  /** @throws OctomilError `invalid_api_key` for an unknown or revoked key */
  verifyKey(key: string): Promise<KeyPrincipal>;
  /** @throws OctomilError `authentication_failed`, `device_revoked` */
  verifyDeviceCredential(credential: string): Promise<Omit<DevicePrincipal, 'kind'>>;
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Undefined only on routes with `access: 'public'`. */
    principal: Principal | undefined;
    /** The token that the principal was found by. */
    bearer: string | undefined;
  }
  interface FastifyContextConfig {
    /** `public`: answered without a principal. Default: one is required. */
    access?: 'public';
    /** For public routes that read the bearer themselves: an address that sends refused ones is asked to wait. */
    readsBearer?: true;
  }
  interface FastifyInstance {
    /** For routes that find their caller themselves. */
    limits: RateLimits;
  }
}

export function registerPrincipal(app: App, authenticator: Authenticator, limits: RateLimits): void {
  app.decorateRequest('principal', undefined);
  app.decorateRequest('bearer', undefined);
  app.decorate('limits', limits);
  app.addHook('onResponse', async ({ routeOptions, ip, headers }, { statusCode }) => {
    if (routeOptions.config.readsBearer !== true) return;
    if (statusCode === 401) limits.noteFailure(ip);
    else if (statusCode < 300) limits.noteSuccess(ip, bearerOf(headers) ?? '');
  });
  app.addHook('onRequest', async (request) => {
    const { access, readsBearer } = request.routeOptions.config;
    if (readsBearer === true) limits.checkAddress(request.ip, bearerOf(request.headers) ?? '');
    if (request.is404 || access === 'public') return;
    const token = tokenOf(request.headers);
    limits.checkAddress(request.ip, token);
    let principal: Principal;
    try {
      principal = await authenticate(token, authenticator);
    } catch (error) {
      if (error instanceof OctomilError && error.entry.http === 401) limits.noteFailure(request.ip);
      throw error;
    }
    limits.noteSuccess(request.ip, token);
    limits.count(principal.kind === 'key' ? principal.keyId : principal.deviceId);
    request.principal = principal;
    request.bearer = token;
  });
}

/** What a request is authenticated by, if anything. */
export function bearerOf(headers: FastifyRequest['headers']): string | undefined {
  const apiKey = headers['x-api-key'];
  return (
    /^Bearer +(\S+) *$/i.exec(headers.authorization ?? '')?.[1] ?? (typeof apiKey === 'string' ? apiKey : undefined)
  );
}

/** @throws OctomilError `authentication_failed` */
function tokenOf(headers: FastifyRequest['headers']): string {
  const token = bearerOf(headers);
  if (token === undefined) {
    throw new OctomilError(
      'authentication_failed',
      'send an API key or a device credential as "Authorization: Bearer …"',
    );
  }
  return token;
}

async function authenticate(token: string, authenticator: Authenticator): Promise<Principal> {
  if (/^od[ac]_/.test(token)) return { kind: 'device', ...(await authenticator.verifyDeviceCredential(token)) };
  return authenticator.verifyKey(token);
}

/**
 * The API key behind a request, if it may do this. `admin` may do everything; a `:write` scope includes its `:read`.
 *
 * @throws OctomilError `forbidden` for devices and for keys without the scope
 */
export function requireScope(request: FastifyRequest, scope: Scope): KeyPrincipal {
  const { principal } = request;
  // Published clients read models with their device's token. `devices:write` alone does not open the registry.
  if (principal?.kind === 'device' && scope === 'models:read' && principal.scopes?.includes(scope) === true) {
    const { organizationId, deviceId, scopes } = principal;
    return { kind: 'key', organizationId, keyId: `device:${deviceId}`, scopes };
  }
  if (principal?.kind !== 'key') {
    throw new OctomilError(
      'forbidden',
      `this needs an API key with the scope ${scope}; a device credential is not enough`,
    );
  }
  if (!covers(principal.scopes, scope)) {
    throw new OctomilError(
      'forbidden',
      `this needs the scope ${scope}; the key has ${principal.scopes.join(', ') || 'none'}. Create a key with it`,
      { details: { required_scope: scope } },
    );
  }
  return principal;
}

/** Whether a key with these scopes may do what one of them allows: `admin` everything, a `:write` scope also its `:read`. */
export function covers(scopes: readonly string[], scope: string): boolean {
  const enough = ['admin', scope, scope.replace(/:read$/, ':write')];
  return scopes.some((held) => enough.includes(held));
}

/** @throws OctomilError `forbidden` for API keys, and for access tokens without the scope `devices:write` */
export function requireDevice(request: FastifyRequest): DevicePrincipal {
  const { principal } = request;
  if (principal?.kind !== 'device') {
    throw new OctomilError('forbidden', 'this needs a device credential (odc_…), not an API key');
  }
  requireTokenScope(principal, 'devices:write');
  return principal;
}

/**
 * What a device may do by itself: everything with its credential, with an access token what its scopes name.
 *
 * @throws OctomilError `forbidden`
 */
export function requireTokenScope(device: Pick<DevicePrincipal, 'scopes'>, ...enough: readonly Scope[]): void {
  const { scopes } = device;
  if (scopes === undefined || scopes.includes('devices:write') || enough.some((scope) => scopes.includes(scope)))
    return;
  throw new OctomilError(
    'forbidden',
    `this needs the scope ${enough.join(' or ')}; the device's token has ${scopes.join(', ') || 'none'}. Bootstrap the device with it`,
    { details: { required_scope: enough[0] ?? null } },
  );
}
