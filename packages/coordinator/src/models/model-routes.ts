import { randomBytes } from 'node:crypto';
import { Type } from 'typebox';
import type { Database } from '../database/database.js';
import type { App } from '../http/app.js';
import { requireScope } from '../http/principal.js';
import { commitChange } from '../http/recorded-change.js';
import type { Registry } from './registry.js';
import type { Removal } from './removal.js';
import { MODEL_TAG, ModelParams, Offset, OrgId } from './route-schemas.js';
import { versionFor } from './shared-view.js';
import { modelJson, numberedVersionJson } from './wire.js';

const DEFAULT_LIMIT = 20;

const Text = (maxLength: number) => Type.Optional(Type.Union([Type.String({ maxLength }), Type.Null()]));
const fields = {
  framework: Text(100),
  framework_version: Text(100),
  use_case: Text(200),
  description: Type.Optional(Type.String({ maxLength: 1000 })),
  is_baseline: Type.Optional(Type.Boolean()),
};
const Name = Type.String({ minLength: 1, maxLength: 200, pattern: '^[^/\\\\\\s][^/\\\\\\u0000-\\u001f]*$' });
// Unknown fields are let through: published clients send `model_contract` and others that nothing here needs.
const CreateBody = Type.Object({ name: Type.Optional(Name), ...fields });
const EnsureBody = Type.Object({ name: Name, ...fields });
const PatchBody = Type.Object({ name: Type.Optional(Name), ...fields });
const OrganizationQuery = Type.Object({ org_id: OrgId });
const ListQuery = Type.Object({
  org_id: OrgId,
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 100 })),
  offset: Offset,
  framework: Type.Optional(Type.String({ maxLength: 100 })),
  use_case: Type.Optional(Type.String({ maxLength: 200 })),
  is_baseline: Type.Optional(Type.Boolean()),
});

export interface ModelRoutesOptions {
  readonly database: Database;
  readonly registry: Registry;
  readonly removal: Removal;
}

export function registerModelRoutes(app: App, { database, registry, removal }: ModelRoutesOptions): void {
  const { models, versions } = registry;
  const tags = [MODEL_TAG];
  const schema = <T extends object>(summary: string, parts: T): T & { summary: string; tags: string[] } => ({
    summary,
    tags,
    ...parts,
  });

  app.get(
    '/api/v1/models',
    { schema: schema('Lists models, newest first; with org_id and no limit, all of them', { querystring: ListQuery }) },
    async (request) => {
      const { organizationId } = requireScope(request, 'models:read');
      const { limit: given, offset = 0, org_id, ...filter } = request.query;
      // Published clients look for a name in one answer: they send the organization and no limit.
      const limit = given ?? (org_id === undefined ? DEFAULT_LIMIT : undefined);
      const page = await models.list(organizationId, { ...filter, offset, ...(limit === undefined ? {} : { limit }) });
      const newest = await versions.newestOf(page.models.map(({ id }) => id));
      return {
        models: page.models.map((model) => modelJson(model, newest.get(model.id))),
        total: page.total,
        limit: limit ?? page.total,
        offset,
      };
    },
  );

  app.post(
    '/api/v1/models',
    {
      schema: schema('Creates a model; without a name it gets one', {
        querystring: OrganizationQuery,
        body: CreateBody,
      }),
    },
    async (request, reply) => {
      const { organizationId } = requireScope(request, 'models:write');
      const given = knownFields(request.body);
      const name = given.name ?? `model-${randomBytes(5).toString('hex')}`;
      return commitChange(request, reply.code(201), database, async (transaction) =>
        modelJson(await models.create(organizationId, { ...given, name }, transaction), undefined),
      );
    },
  );

  app.post(
    '/api/v1/models/ensure',
    { schema: schema('The model of this name, created when there is none', { body: EnsureBody }) },
    async (request, reply) => {
      const { organizationId } = requireScope(request, 'models:write');
      const { model, created } = await models.ensure(organizationId, knownFields(request.body));
      const newest = await versions.newestOf([model.id]);
      return reply.code(created ? 201 : 200).send(modelJson(model, newest.get(model.id)));
    },
  );

  app.get(
    '/api/v1/models/:id',
    { schema: schema('A model with its versions', { params: ModelParams }) },
    async (request) => {
      const { organizationId } = requireScope(request, 'models:read');
      const { id } = request.params;
      // Most ask by id: its versions are read beside it, and shown only to who may read the model.
      const [model, listed] = await Promise.all([models.getReadable(organizationId, id), versions.list(id)]);
      const found = model.id === id ? listed : await versions.list(model.id);
      const all = found.flatMap((row) => versionFor(organizationId, model, row) ?? []);
      return { ...modelJson(model, all[0]), versions: all.map(numberedVersionJson) };
    },
  );

  app.patch(
    '/api/v1/models/:id',
    { schema: schema('Changes what is said of a model', { params: ModelParams, body: PatchBody }) },
    async (request, reply) => {
      const { organizationId } = requireScope(request, 'models:write');
      const model = await models.get(organizationId, request.params.id);
      const newest = (await versions.newestOf([model.id])).get(model.id);
      return commitChange(request, reply, database, async (transaction) =>
        modelJson(await models.update(model, knownFields(request.body), transaction), newest),
      );
    },
  );

  app.delete(
    '/api/v1/models/:id',
    { schema: schema('Deletes a model with its versions, unless one is in use', { params: ModelParams }) },
    async (request) => {
      const { organizationId } = requireScope(request, 'models:write');
      const model = await models.get(organizationId, request.params.id);
      await removal.deleteModel(model);
      return { id: model.id, deleted: true };
    },
  );
}

/** What a body may set; the rest of it is not looked at. */
function knownFields<T extends Record<string, unknown>>(body: T): T {
  const { name, framework, framework_version, use_case, description, is_baseline } = body;
  const given = { name, framework, framework_version, use_case, description, is_baseline };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as T;
}
