import { OctomilError } from '@octomil/shared/errors';
import type { FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { Database } from '../database/database.js';
import type { App } from '../http/app.js';
import { requireScope } from '../http/principal.js';
import { commitChange } from '../http/recorded-change.js';
import { lineageJson } from './lineage.js';
import type { Registry } from './registry.js';
import type { Removal } from './removal.js';
import { ModelParams, Offset, VERSION_TAG, VersionParams } from './route-schemas.js';
import { requireReadable, versionFor } from './shared-view.js';
import { parseVersionName } from './version-number.js';
import type { VersionWithArtifacts } from './version-store.js';
import type { VersionUploads } from './version-upload.js';
import { versionJson } from './wire.js';

const DEFAULT_LIMIT = 100;

const Status = Type.Union([
  Type.Literal('validating'),
  Type.Literal('converting'),
  Type.Literal('draft'),
  Type.Literal('published'),
  Type.Literal('deprecated'),
]);
const ListQuery = Type.Object({
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
  offset: Offset,
  status: Type.Optional(Status),
});
const MetricsBody = Type.Object({ metrics: Type.Record(Type.String({ maxLength: 200 }), Type.Unknown()) });

export interface VersionRoutesOptions {
  readonly registry: Registry;
  readonly database: Database;
  readonly uploads: VersionUploads;
  readonly removal: Removal;
}

/** Versions and what is known of them; their bytes come and go by other routes. */
export function registerVersionRoutes(app: App, { registry, database, uploads, removal }: VersionRoutesOptions): void {
  const { models, versions } = registry;
  const base = '/api/v1/models/:id/versions';
  const tags = [VERSION_TAG];

  const readable = async (request: FastifyRequest, id: string, version: string): Promise<VersionWithArtifacts> => {
    const { organizationId } = requireScope(request, 'models:read');
    // Most ask by the model's id: the version is read beside it, and shown only to who may read the model.
    const [model, beside] = await Promise.all([models.getReadable(organizationId, id), versions.find(id, version)]);
    const isIts = beside !== undefined && model.id === id;
    return requireReadable(organizationId, model, isIts ? beside : await versions.get(model.id, version));
  };
  const own = async (request: FastifyRequest, id: string, version: string): Promise<VersionWithArtifacts> => {
    const { organizationId } = requireScope(request, 'models:write');
    return versions.get((await models.get(organizationId, id)).id, version);
  };
  const again = async ({ model_id, version }: VersionWithArtifacts) =>
    versionJson(await versions.get(model_id, version));

  app.get(
    base,
    { schema: { summary: 'Lists versions, newest first', tags, params: ModelParams, querystring: ListQuery } },
    async (request) => {
      const { organizationId } = requireScope(request, 'models:read');
      const model = await models.getReadable(organizationId, request.params.id);
      const { limit = DEFAULT_LIMIT, offset = 0, status } = request.query;
      const isOwn = model.organization_id === organizationId;
      // Of another member's model, only what was published is shown.
      const seen = isOwn || status === 'deprecated' ? status : 'published';
      const filter = seen === undefined ? {} : { status: seen };
      const [page, total] = await Promise.all([
        versions.list(model.id, { ...filter, limit, offset }),
        versions.count(model.id, seen),
      ]);
      const readable = page.flatMap((version) => versionFor(organizationId, model, version) ?? []);
      return { versions: readable.map(versionJson), total, limit, offset };
    },
  );

  app.get(
    `${base}/:version`,
    { schema: { summary: 'A version by number, semantic version or latest', tags, params: VersionParams } },
    async (request) => versionJson(await readable(request, request.params.id, request.params.version)),
  );

  app.get(
    `${base}/:version/lineage`,
    { schema: { summary: 'How a version came to be, back to the first', tags, params: VersionParams } },
    async (request) => {
      // It names the sites that took part: for the owner alone.
      const { organizationId } = requireScope(request, 'models:read');
      const model = await models.get(organizationId, request.params.id);
      const version = await versions.get(model.id, request.params.version);
      const chain = await lineageJson(database, version.id);
      return { model_id: version.model_id, version_id: version.id, version: version.version, chain };
    },
  );

  app.post(
    `${base}/:version/publish`,
    { schema: { summary: 'Publishes a version', tags, params: VersionParams } },
    async (request) => {
      const { organizationId } = requireScope(request, 'models:write');
      const model = await models.get(organizationId, request.params.id);
      const version = await versions.find(model.id, request.params.version);
      if (version === undefined) {
        await refuseUnfinished(uploads, model.id, request.params.version);
        return again(await versions.get(model.id, request.params.version));
      }
      await versions.publish(version);
      return again(version);
    },
  );

  app.post(
    `${base}/:version/deprecate`,
    { schema: { summary: 'Deprecates a version: it stays, and is no latest any more', tags, params: VersionParams } },
    async (request, reply) => {
      const version = await own(request, request.params.id, request.params.version);
      return commitChange(request, reply, database, async (transaction) => {
        await versions.deprecate(version, transaction);
        return versionJson({ ...version, status: 'deprecated' });
      });
    },
  );

  app.patch(
    `${base}/:version/metrics`,
    { schema: { summary: 'Adds figures to a version', tags, params: VersionParams, body: MetricsBody } },
    async (request, reply) => {
      const version = await own(request, request.params.id, request.params.version);
      return commitChange(request, reply, database, async (transaction) =>
        versionJson(await versions.addMetrics(version, request.body.metrics, transaction)),
      );
    },
  );

  app.delete(
    `${base}/:version`,
    { schema: { summary: 'Deletes a draft or deprecated version that nothing uses', tags, params: VersionParams } },
    async (request) => {
      const version = await own(request, request.params.id, request.params.version);
      await removal.deleteVersion(version);
      return { id: version.id, model_id: version.model_id, version: version.version, deleted: true };
    },
  );
}

/** @throws OctomilError `wrong_state` when there is an upload of this version that nobody confirmed */
async function refuseUnfinished(uploads: VersionUploads, modelId: string, name: string): Promise<void> {
  const wanted = parseVersionName(name);
  if (wanted === 'latest' || 'sequence' in wanted || !/^\d/.test(wanted.version)) return;
  if (!(await uploads.isUnfinished(modelId, wanted.version))) return;
  throw new OctomilError(
    'wrong_state',
    `the upload of version ${wanted.version} is not finished; confirm it before publishing`,
    { details: { status: 'uploading' } },
  );
}
