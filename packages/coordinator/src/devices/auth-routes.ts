import { OctomilError } from '@octomil/shared/errors';
import type { FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import { type App, bearerOf, covers, type KeyPrincipal } from '../http/index.js';
import type { DeviceService } from './device-service.js';
import {
  ACCESS_TTL_SECONDS,
  checkTokenScopes,
  DEFAULT_TOKEN_SCOPES,
  type DeviceTokenScope,
  type TokenPair,
} from './device-tokens.js';

export interface DeviceAuthRoutesOptions {
  readonly devices: DeviceService;
  /** @throws OctomilError `invalid_api_key` */
  readonly verifyKey: (key: string) => Promise<KeyPrincipal>;
}

const tags = ['device-auth'];
const Bootstrap = Type.Object({
  /** The token knows its organization. */
  org_id: Type.Optional(Type.String()),
  device_identifier: Type.String(),
  scopes: Type.Optional(Type.Array(Type.String({ maxLength: 100 }), { minItems: 1, maxItems: 20 })),
  access_ttl_seconds: Type.Optional(
    Type.Union([Type.Integer({ minimum: 1, maximum: ACCESS_TTL_SECONDS.longest }), Type.Null()]),
  ),
  /** Not looked at: `device_identifier` names the device. */
  device_id: Type.Optional(Type.Union([Type.String(), Type.Null()])),
});
const Refresh = Type.Object({ refresh_token: Type.String({ maxLength: 200 }) });
const Revoke = Type.Object({
  refresh_token: Type.String({ maxLength: 200 }),
  reason: Type.Optional(Type.String({ maxLength: 200 })),
});
// They bring what they are authenticated by in the body, or a bearer that is no principal's.
const config = { access: 'public' } as const;

function pairView(pair: TokenPair): Record<string, unknown> {
  return {
    access_token: pair.accessToken,
    refresh_token: pair.refreshToken,
    token_type: 'Bearer',
    expires_at: pair.accessExpiresAt.toISOString(),
    expires_in: pair.accessTtlSeconds,
    scopes: pair.scopes,
    org_id: pair.organizationId,
    device_id: pair.deviceId,
    device_identifier: pair.deviceIdentifier,
  };
}

/** Short-lived tokens for devices: bootstrap, refresh, revoke. */
export function registerDeviceAuthRoutes(app: App, { devices, verifyKey }: DeviceAuthRoutesOptions): void {
  const { records, tokens } = devices;

  /** A device that has no credential of its own, under a key that speaks for all such. */
  const registered = async (key: KeyPrincipal, identifier: string, scopes: readonly DeviceTokenScope[]) => {
    requireKeyScope(key, 'devices:register');
    if (scopes.includes('models:read')) requireKeyScope(key, 'models:read');
    const device = await records.register(key.organizationId, identifier, {});
    if (device.identity === 'shared') return device.id;
    throw new OctomilError(
      'forbidden',
      `device ${identifier} was enrolled with a credential of its own, so that an API key cannot speak for it; bootstrap it with an enrolment token made for it (octomil enroll --device ${identifier})`,
      { details: { device_identifier: identifier } },
    );
  };

  app.post(
    '/api/v1/device-auth/bootstrap',
    {
      config: { ...config, readsBearer: true },
      schema: { summary: 'Buy a pair of tokens for a device', tags, body: Bootstrap },
    },
    async (request, reply) => {
      const { device_identifier: identifier, access_ttl_seconds } = request.body;
      const scopes = checkTokenScopes(request.body.scopes ?? DEFAULT_TOKEN_SCOPES);
      const bearer = requireBearer(request);
      const ttlSeconds = access_ttl_seconds ?? ACCESS_TTL_SECONDS.usual;
      let pair: TokenPair;
      if (bearer.startsWith('oet_')) {
        refuseRegistry(scopes);
        const enrollment = { enrollmentToken: bearer, deviceIdentifier: identifier, labels: {}, agentVersion: '' };
        pair = await devices.enrollForTokens(enrollment, scopes, ttlSeconds);
        note(request, pair.organizationId, `device:${pair.deviceId}`, pair.deviceId);
      } else {
        const key = await verifyKey(bearer);
        app.limits.count(key.keyId);
        const deviceId = await registered(key, identifier, scopes);
        pair = await tokens.issue(deviceId, scopes, ttlSeconds);
        note(request, key.organizationId, `key:${key.keyId}`, deviceId);
      }
      return reply.code(201).send(pairView(pair));
    },
  );

  app.post(
    '/api/v1/device-auth/refresh',
    { config, schema: { summary: 'Buy the next pair with a refresh token, once', tags, body: Refresh } },
    async (request) => {
      const pair = await tokens.refresh(request.body.refresh_token, (deviceId) => devices.forgetTokens(deviceId));
      return pairView(pair);
    },
  );

  app.post(
    '/api/v1/device-auth/revoke',
    { config, schema: { summary: 'End all tokens that one bootstrap led to', tags, body: Revoke } },
    async (request) => {
      const owner = await tokens.revoke(request.body.refresh_token, request.body.reason ?? 'sdk_revoke');
      if (owner !== undefined) {
        await devices.forgetTokens(owner.deviceId);
        note(request, owner.organizationId, `device:${owner.deviceId}`, owner.deviceId);
      }
      // RFC 7009, section 2.2: also for a token that is not known, for nothing is left to be done.
      return { revoked: true };
    },
  );
}

/** These routes have no principal that the audit log could take. */
function note(request: FastifyRequest, organizationId: string, actor: string, deviceId: string): void {
  request.auditNote = { organizationId, actor, resource: `devices/${deviceId}` };
}

function requireBearer({ headers }: FastifyRequest): string {
  const token = bearerOf(headers);
  if (token !== undefined) return token;
  throw new OctomilError(
    'authentication_failed',
    'send an enrolment token (oet_…) or an API key with the scope devices:register as "Authorization: Bearer …"',
  );
}

/**
 * Whoever made an enrolment token let one device in, not a reader of every model: what it should run, it gets without.
 *
 * @throws `forbidden`
 */
function refuseRegistry(scopes: readonly DeviceTokenScope[]): void {
  if (!scopes.includes('models:read')) return;
  throw new OctomilError(
    'forbidden',
    'an enrolment token does not open the registry: leave models:read out, or bootstrap with an API key that has devices:register and models:read',
    { details: { required_scope: 'models:read' } },
  );
}

function requireKeyScope({ scopes }: KeyPrincipal, scope: 'devices:register' | 'models:read'): void {
  if (covers(scopes, scope)) return;
  throw new OctomilError(
    'forbidden',
    `this needs the scope ${scope}; the key has ${scopes.join(', ') || 'none'}. Create a key with it`,
    { details: { required_scope: scope } },
  );
}
