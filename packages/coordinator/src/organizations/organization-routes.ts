import { OctomilError } from '@octomil/shared/errors';
import type { FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { App } from '../http/app.js';
import { requireScope } from '../http/principal.js';
import { DEFAULT_ORGANIZATION } from './bootstrap.js';
import type { Organization, Organizations } from './organizations.js';

const tags = ['organizations'];
const Body = Type.Object({
  name: Type.String({
    minLength: 1,
    maxLength: 100,
    pattern: '^[^\\s\\u0000-\\u001f]([^\\u0000-\\u001f]*[^\\s\\u0000-\\u001f])?$',
  }),
});
const OrganizationJson = Type.Object({
  id: Type.String(),
  org_id: Type.String(),
  name: Type.String(),
  created_at: Type.String({ format: 'date-time' }),
});
const Created = Type.Intersect([OrganizationJson, Type.Object({ key: Type.String(), api_key: Type.String() })]);

/** Organizations: one's own, and for those who run the coordinator all of them. */
export function registerOrganizations(app: App, { organizations }: { readonly organizations: Organizations }): void {
  app.get(
    '/api/v1/organizations/me',
    { schema: { tags, summary: 'The organization of the key or device', response: { 200: OrganizationJson } } },
    async ({ principal }) => organizationJson(await organizations.get(principal?.organizationId ?? '')),
  );

  app.get(
    '/api/v1/organizations',
    { schema: { tags, summary: 'List organizations, for operators', response: { 200: Type.Array(OrganizationJson) } } },
    async (request) => {
      await requireOperator(request);
      return (await organizations.list()).map(organizationJson);
    },
  );

  app.post(
    '/api/v1/organizations',
    {
      schema: {
        tags,
        summary: 'Make an organization and its first key, for operators',
        body: Body,
        response: { 201: Created },
      },
    },
    async (request, reply) => {
      await requireOperator(request);
      const { organization, key } = await organizations.create(request.body.name);
      return reply.code(201).send({ ...organizationJson(organization), key, api_key: key });
    },
  );

  /** @throws OctomilError `forbidden` */
  async function requireOperator(request: FastifyRequest): Promise<void> {
    const { organizationId } = requireScope(request, 'admin');
    if (await organizations.isOperator(organizationId)) return;
    throw new OctomilError(
      'forbidden',
      `this needs an admin key of the organization "${DEFAULT_ORGANIZATION}", which runs this coordinator`,
    );
  }
}

function organizationJson({ id, name, created_at }: Organization) {
  return { id, org_id: id, name, created_at: created_at.toISOString() };
}
