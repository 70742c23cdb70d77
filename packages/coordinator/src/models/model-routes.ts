import { Type } from 'typebox';
import type { App } from '../http/app.js';
import { requireScope } from '../http/principal.js';
import type { Registry } from './registry.js';
import { modelJson, versionJson } from './wire.js';

const Id = Type.Object({ id: Type.String() });
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
const CreateBody = Type.Object({ name: Name, ...fields });
const PatchBody = Type.Object({ name: Type.Optional(Name), ...fields });
const ListQuery = Type.Object({
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
  offset: Type.Optional(Type.Integer({ minimum: 0, maximum: 2 ** 31 - 1 })),
  framework: Type.Optional(Type.String()),
  use_case: Type.Optional(Type.String()),
  is_baseline: Type.Optional(Type.Boolean()),
});

export function registerModelRoutes(app: App, { registry }: { readonly registry: Registry }): void {
  const { models, versions } = registry;

  app.get('/api/v1/models', { schema: { querystring: ListQuery } }, async (request) => {
    const { organizationId } = requireScope(request, 'models:read');
    const { limit, offset = 0, ...filter } = request.query;
    const page = await models.list(organizationId, { ...filter, offset, ...(limit === undefined ? {} : { limit }) });
    const newest = await versions.newestOf(page.models.map(({ id }) => id));
    return {
      models: page.models.map((model) => modelJson(model, newest.get(model.id))),
      total: page.total,
      limit: limit ?? page.total,
      offset,
    };
  });

  app.post('/api/v1/models', { schema: { body: CreateBody } }, async (request, reply) => {
    const { organizationId } = requireScope(request, 'models:write');
    return reply.code(201).send(modelJson(await models.create(organizationId, knownFields(request.body)), undefined));
  });

  app.post('/api/v1/models/ensure', { schema: { body: CreateBody } }, async (request, reply) => {
    const { organizationId } = requireScope(request, 'models:write');
    const { model, created } = await models.ensure(organizationId, knownFields(request.body));
    const newest = await versions.newestOf([model.id]);
    return reply.code(created ? 201 : 200).send(modelJson(model, newest.get(model.id)));
  });

  app.get('/api/v1/models/:id', { schema: { params: Id } }, async (request) => {
    const { organizationId } = requireScope(request, 'models:read');
    const model = await models.get(organizationId, request.params.id);
    const all = await versions.list(model.id);
    return { ...modelJson(model, all[0]), versions: all.map(versionJson) };
  });

  app.patch('/api/v1/models/:id', { schema: { params: Id, body: PatchBody } }, async (request) => {
    const { organizationId } = requireScope(request, 'models:write');
    const model = await models.get(organizationId, request.params.id);
    const updated = await models.update(model, knownFields(request.body));
    return modelJson(updated, (await versions.newestOf([model.id])).get(model.id));
  });

  app.delete('/api/v1/models/:id', { schema: { params: Id } }, async (request) => {
    const { organizationId } = requireScope(request, 'models:write');
    const model = await models.get(organizationId, request.params.id);
    await models.delete(model);
    return { id: model.id, deleted: true };
  });
}

/** What a body may set; the rest of it is not looked at. */
function knownFields<T extends Record<string, unknown>>(body: T): T {
  const { name, framework, framework_version, use_case, description, is_baseline } = body;
  const given = { name, framework, framework_version, use_case, description, is_baseline };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as T;
}
