import { Type } from 'typebox';
import type { App } from '../http/app.js';
import { requireScope } from '../http/principal.js';
import type { Federation, Federations } from './federations.js';

const Id = Type.Object({ id: Type.String() });
// `org_id` comes from published clients; a key knows its organization, so it is not looked at.
const ListQuery = Type.Object({ org_id: Type.Optional(Type.String()), name: Type.Optional(Type.String()) });
const Body = Type.Object({
  org_id: Type.Optional(Type.String()),
  name: Type.String({ minLength: 1, maxLength: 200 }),
  description: Type.Optional(Type.Union([Type.String({ maxLength: 1000 }), Type.Null()])),
});

export function registerFederationRoutes(app: App, { federations }: { readonly federations: Federations }): void {
  app.get('/api/v1/federations', { schema: { querystring: ListQuery } }, async (request) => {
    const { organizationId } = requireScope(request, 'training:read');
    return (await federations.list(organizationId, request.query.name)).map(federationJson);
  });

  app.post('/api/v1/federations', { schema: { body: Body } }, async (request, reply) => {
    const { organizationId } = requireScope(request, 'training:write');
    const { name, description } = request.body;
    return reply.code(201).send(federationJson(await federations.create(organizationId, name, description ?? '')));
  });

  app.get('/api/v1/federations/:id', { schema: { params: Id } }, async (request) => {
    const { organizationId } = requireScope(request, 'training:read');
    return federationJson(await federations.get(organizationId, request.params.id));
  });

  app.get('/api/v1/federations/:id/members', { schema: { params: Id } }, async (request) => {
    const { organizationId } = requireScope(request, 'training:read');
    const { id } = await federations.get(organizationId, request.params.id);
    return (await federations.members(id)).map((member) => ({
      org_id: member.organization_id,
      status: member.status,
      joined_at: member.created_at.toISOString(),
    }));
  });
}

function federationJson(row: Federation): Record<string, unknown> {
  return {
    id: row.id,
    name: row.name,
    description: row.description,
    org_id: row.organization_id,
    created_at: row.created_at.toISOString(),
  };
}
