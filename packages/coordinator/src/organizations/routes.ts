import { Type } from 'typebox';
import type { Database } from '../database/database.js';
import type { App } from '../http/app.js';
import { requireScope } from '../http/principal.js';
import type { ApiKey, ApiKeys, CreatedKey } from './api-keys.js';
import { createEnrollmentToken } from './enrollment-tokens.js';

const Id = Type.Object({ id: Type.String() });
const KeyBody = Type.Object({
  name: Type.String({ minLength: 1, maxLength: 100 }),
  /** A list, or the published clients' form `{resource: permission}`; without it, what the creating key may do. */
  scopes: Type.Optional(
    Type.Union([Type.Array(Type.String(), { maxItems: 50 }), Type.Record(Type.String(), Type.String())]),
  ),
});
const Label = Type.String({ minLength: 1, maxLength: 200 });
const TokenBody = Type.Object({
  labels: Type.Optional(Type.Record(Label, Type.String({ maxLength: 200 }), { maxProperties: 50 })),
  /** The only device it enrols; needed for a device that exists already. */
  device_identifier: Type.Optional(Type.String()),
  expires_in_seconds: Type.Optional(Type.Integer({ minimum: 1, maximum: 30 * 24 * 3600 })),
});
const DEFAULT_EXPIRY_SECONDS = 3600;

export interface OrganizationRoutesOptions {
  readonly database: Database;
  readonly keys: ApiKeys;
  /** Where agents connect, for the answer that comes with a token. */
  readonly grpcUrl: () => string | undefined;
}

/** API keys (also under `/keys`) and enrolment tokens. */
export function registerOrganizationRoutes(app: App, { database, keys, grpcUrl }: OrganizationRoutesOptions): void {
  for (const base of ['/api/v1/api-keys', '/api/v1/keys']) registerKeyRoutes(app, keys, base);

  app.post(
    '/api/v1/enrollment-tokens',
    { schema: { tags: ['devices'], summary: 'Make a token that enrols one device', body: TokenBody } },
    async (request, reply) => {
      const { organizationId } = requireScope(request, 'devices:write');
      const created = await createEnrollmentToken(database, organizationId, {
        labels: request.body.labels ?? {},
        expiresInSeconds: request.body.expires_in_seconds ?? DEFAULT_EXPIRY_SECONDS,
        deviceIdentifier: request.body.device_identifier,
      });
      const { id, token, labels, deviceIdentifier, expiresAt } = created;
      return reply.code(201).send({
        id,
        token,
        labels,
        device_identifier: deviceIdentifier,
        expires_at: expiresAt.toISOString(),
        grpc_address: grpcUrl(),
      });
    },
  );
}

function registerKeyRoutes(app: App, keys: ApiKeys, base: string): void {
  const tags = ['api-keys'];
  app.post(
    base,
    { schema: { tags, summary: 'Make a key; it is shown once', body: KeyBody } },
    async (request, reply) => {
      const creator = requireScope(request, 'keys:write');
      const { name, scopes = creator.scopes } = request.body;
      const list = Array.isArray(scopes)
        ? (scopes as string[])
        : Object.entries(scopes).map(([resource, permission]) => `${resource}:${permission}`);
      const created = await keys.create(creator.organizationId, name, list, creator);
      return reply.code(201).send(createdJson(created));
    },
  );

  app.get(base, { schema: { tags, summary: 'List keys, without the keys themselves' } }, async (request) => {
    const { organizationId } = requireScope(request, 'keys:write');
    return (await keys.list(organizationId)).map(keyJson);
  });

  const revoke = async (request: Parameters<typeof requireScope>[0], id: string) => {
    const revoker = requireScope(request, 'keys:write');
    return keyJson(await keys.revoke(revoker.organizationId, id, revoker));
  };
  app.delete(`${base}/:id`, { schema: { tags, summary: 'Revoke a key', params: Id } }, (request) =>
    revoke(request, request.params.id),
  );
  app.post(`${base}/:id/revoke`, { schema: { tags, summary: 'Revoke a key', params: Id } }, (request) =>
    revoke(request, request.params.id),
  );

  app.post(
    `${base}/:id/rotate`,
    { schema: { tags, summary: 'Make a second live key of the same name and scopes', params: Id } },
    async (request, reply) => {
      const creator = requireScope(request, 'keys:write');
      return reply.code(201).send(createdJson(await keys.rotate(creator.organizationId, request.params.id, creator)));
    },
  );
}

function keyJson(row: ApiKey): Record<string, unknown> {
  return {
    id: row.id,
    name: row.name,
    prefix: row.prefix,
    scopes: row.scopes,
    created_at: row.created_at.toISOString(),
    last_used_at: row.last_used_at?.toISOString() ?? null,
    revoked_at: row.revoked_at?.toISOString() ?? null,
  };
}

function createdJson({ row, key }: CreatedKey): Record<string, unknown> {
  // The published clients read `api_key`.
  return { ...keyJson(row), key, api_key: key };
}
