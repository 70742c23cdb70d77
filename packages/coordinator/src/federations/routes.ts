import { OctomilError } from '@octomil/shared/errors';
import { Type } from 'typebox';
import type { App } from '../http/app.js';
import { requireScope } from '../http/principal.js';
import type { ModelStore } from '../models/index.js';
import type { Federation, FederationMember, Federations, SharedModel } from './federations.js';

export interface FederationRoutesOptions {
  readonly federations: Federations;
  /** For sharing: finds what is the caller's own. */
  readonly models: Pick<ModelStore, 'get'>;
}

const tags = ['federations'];
const Name = Type.String({ minLength: 1, maxLength: 1000 });
const Id = Type.Object({ id: Name });
const MemberParams = Type.Object({ id: Name, org_id: Name });
const ModelParams = Type.Object({ id: Name, model_id: Name });
// `org_id` comes from published clients; a key knows its organization, so it is not looked at.
const ListQuery = Type.Object({
  org_id: Type.Optional(Type.String()),
  name: Type.Optional(Type.String()),
  /** `invited`: invitations that wait for an answer, in place of what is owned or joined. */
  status: Type.Optional(Type.Union([Type.Literal('active'), Type.Literal('invited')])),
});
const Body = Type.Object({
  org_id: Type.Optional(Type.String()),
  name: Type.String({ minLength: 1, maxLength: 200 }),
  description: Type.Optional(Type.Union([Type.String({ maxLength: 1000 }), Type.Null()])),
});
const InviteBody = Type.Object({ org_ids: Type.Array(Name, { minItems: 1, maxItems: 1000 }) });
const JoinBody = Type.Union([Type.Null(), Type.Object({ org_id: Type.Optional(Type.Union([Name, Type.Null()])) })]);
const ShareBody = Type.Object({ model_id: Name });

export function registerFederationRoutes(app: App, { federations, models }: FederationRoutesOptions): void {
  const base = '/api/v1/federations';

  app.get(
    base,
    { schema: { summary: 'List federations: owned ones, then joined ones', tags, querystring: ListQuery } },
    async (request) => {
      const { organizationId } = requireScope(request, 'training:read');
      const { name, status } = request.query;
      const filter = { invited: status === 'invited', ...(name === undefined ? {} : { name }) };
      return (await federations.list(organizationId, filter)).map(federationJson);
    },
  );

  app.post(base, { schema: { summary: 'Make a federation', tags, body: Body } }, async (request, reply) => {
    const { organizationId } = requireScope(request, 'training:write');
    const { name, description } = request.body;
    return reply.code(201).send(federationJson(await federations.create(organizationId, name, description ?? '')));
  });

  app.get(`${base}/:id`, { schema: { summary: 'One federation', tags, params: Id } }, async (request) => {
    const { organizationId } = requireScope(request, 'training:read');
    return federationJson(await federations.get(organizationId, request.params.id));
  });

  app.get(
    `${base}/:id/members`,
    { schema: { summary: 'Members; invitations too for the owner', tags, params: Id } },
    async (request) => {
      const { organizationId } = requireScope(request, 'training:read');
      return (await federations.members(await federations.joined(organizationId, request.params.id))).map(memberJson);
    },
  );

  app.post(
    `${base}/:id/invite`,
    { schema: { summary: 'Invite organizations: all of them or none', tags, params: Id, body: InviteBody } },
    async (request) => {
      const { organizationId } = requireScope(request, 'training:write');
      const federation = await federations.owned(organizationId, request.params.id);
      return (await federations.invite(federation, request.body.org_ids)).map(memberJson);
    },
  );

  app.post(
    `${base}/:id/join`,
    { schema: { summary: 'Take up an invitation', tags, params: Id, body: JoinBody } },
    async (request) => {
      const { organizationId } = requireScope(request, 'training:write');
      const named = request.body?.org_id ?? organizationId;
      if (named !== organizationId) {
        throw new OctomilError(
          'forbidden',
          `org_id ${JSON.stringify(named.slice(0, 100))} is not this key's organization; leave it out, or use a key of that one`,
          { details: { field: 'org_id' } },
        );
      }
      return memberJson(await federations.join(organizationId, request.params.id));
    },
  );

  app.post(
    `${base}/:id/leave`,
    { schema: { summary: 'Leave a federation, or turn an invitation down', tags, params: Id } },
    async (request) => {
      const { organizationId } = requireScope(request, 'training:write');
      const federation = await federations.get(organizationId, request.params.id);
      await federations.remove(federation, organizationId);
      return { federation_id: federation.id, org_id: organizationId, status: 'left' };
    },
  );

  app.delete(
    `${base}/:id/members/:org_id`,
    { schema: { summary: 'Take an organization out of a federation', tags, params: MemberParams } },
    async (request) => {
      const { organizationId } = requireScope(request, 'training:write');
      const { id, org_id: member } = request.params;
      const federation = await (member === organizationId
        ? federations.get(organizationId, id)
        : federations.owned(organizationId, id));
      await federations.remove(federation, member);
      return { federation_id: federation.id, org_id: member, status: 'removed' };
    },
  );

  app.get(
    `${base}/:id/models`,
    { schema: { summary: 'Models that members share', tags, params: Id } },
    async (request) => {
      const { organizationId } = requireScope(request, 'training:read');
      const { id } = await federations.joined(organizationId, request.params.id);
      return (await federations.models(id)).map(sharedJson);
    },
  );

  app.post(
    `${base}/:id/models`,
    { schema: { summary: 'Let the members read one of your models', tags, params: Id, body: ShareBody } },
    async (request, reply) => {
      const { organizationId } = requireScope(request, 'models:write');
      const federation = await federations.joined(organizationId, request.params.id);
      const { id } = await models.get(organizationId, request.body.model_id);
      await federations.share(federation, id, organizationId);
      const shared = (await federations.models(federation.id)).find((model) => model.id === id);
      return reply
        .code(201)
        .send({ federation_id: federation.id, ...(shared === undefined ? {} : sharedJson(shared)) });
    },
  );

  app.delete(
    `${base}/:id/models/:model_id`,
    { schema: { summary: 'Share a model no longer', tags, params: ModelParams } },
    async (request) => {
      const { organizationId } = requireScope(request, 'models:write');
      const federation = await federations.joined(organizationId, request.params.id);
      const { model_id: name } = request.params;
      const found = (await federations.models(federation.id)).find(
        (model) => model.id === name || (model.name === name && model.sharedBy === organizationId),
      );
      if (found === undefined) {
        throw new OctomilError(
          'model_not_found',
          `no model "${name.slice(0, 200)}" is shared with federation "${federation.name}"`,
        );
      }
      if (found.sharedBy !== organizationId && federation.membership !== 'owner') {
        throw new OctomilError(
          'forbidden',
          `model "${found.name}" is another member's; its owner, or the federation's, may do this`,
        );
      }
      await federations.unshare(federation, found.id);
      return { federation_id: federation.id, model_id: found.id, shared: false };
    },
  );

  app.get(
    `${base}/:id/privacy`,
    { schema: { summary: 'The privacy budget; none is accounted for yet, and the answer says so', tags, params: Id } },
    async (request) => {
      const { organizationId } = requireScope(request, 'training:read');
      const { id } = await federations.joined(organizationId, request.params.id);
      // A number here would be taken for a guarantee. Rounds without noise have no finite epsilon.
      return {
        federation_id: id,
        mechanism: 'none',
        accounted: false,
        epsilon: null,
        delta: null,
        rounds_consumed: 0,
        budget_remaining: null,
        message:
          'no noise is added to updates and no privacy budget is kept: there is no differential privacy guarantee',
      };
    },
  );
}

function federationJson(row: Federation): Record<string, unknown> {
  return {
    id: row.id,
    name: row.name,
    description: row.description,
    org_id: row.organization_id,
    membership: row.membership,
    shared_identities: row.shared_identities,
    created_at: row.created_at.toISOString(),
  };
}

function memberJson(row: FederationMember): Record<string, unknown> {
  const joinedAt = row.joined_at ?? (row.status === 'active' ? row.created_at : null);
  return {
    federation_id: row.federation_id,
    org_id: row.organization_id,
    status: row.status,
    invited_by: row.invited_by,
    invited_at: row.created_at.toISOString(),
    joined_at: joinedAt?.toISOString() ?? null,
  };
}

function sharedJson(model: SharedModel): Record<string, unknown> {
  return {
    id: model.id,
    model_id: model.id,
    name: model.name,
    framework: model.framework,
    description: model.description,
    org_id: model.sharedBy,
    shared_at: model.sharedAt.toISOString(),
  };
}
