import type { FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { Database } from '../database/database.js';
import { type App, requireScope } from '../http/index.js';
import type { Registry, VersionWithArtifacts } from '../models/index.js';
import { requireReadable } from '../models/shared-view.js';
import type { ConversionService } from './conversion-service.js';
import type { Conversion } from './conversion-store.js';

const Format = Type.String({ pattern: '^[a-z0-9][a-z0-9._-]{0,39}$' });
const VersionParams = Type.Object({ id: Type.String(), version: Type.String() });
const FormatParams = Type.Object({ id: Type.String(), version: Type.String(), format: Format });
const RequestBody = Type.Object({ formats: Type.Array(Format, { minItems: 1, maxItems: 16 }) });
const tags = ['versions'];

export interface ConversionRoutesOptions {
  readonly registry: Registry;
  readonly database: Database;
  readonly conversions: ConversionService;
}

export function registerConversionRoutes(app: App, { registry, database, conversions }: ConversionRoutesOptions): void {
  const base = '/api/v1/models/:id/versions/:version/conversions';
  const { models, versions } = registry;
  const own = async (request: FastifyRequest, id: string, version: string): Promise<VersionWithArtifacts> => {
    const { organizationId } = requireScope(request, 'models:write');
    return versions.get((await models.get(organizationId, id)).id, version);
  };
  const answer = async ({ id, model_id, version }: VersionWithArtifacts) => {
    const [rows, now] = await Promise.all([conversions.statusOf([id]), versions.get(model_id, version)]);
    return { version, status: now.status, conversions: (rows.get(id) ?? []).map(conversionJson) };
  };

  app.get(
    base,
    { schema: { summary: 'Lists the formats that a version was asked for', tags, params: VersionParams } },
    async (request) => {
      const { organizationId } = requireScope(request, 'models:read');
      const model = await models.getReadable(organizationId, request.params.id);
      return answer(requireReadable(organizationId, model, await versions.get(model.id, request.params.version)));
    },
  );

  app.post(
    base,
    {
      schema: {
        summary: 'Asks for formats of a version, or for another try of those that failed',
        tags,
        params: VersionParams,
        body: RequestBody,
      },
    },
    async (request, reply) => {
      const version = await own(request, request.params.id, request.params.version);
      await database.transact((transaction) => conversions.request(version.id, request.body.formats, transaction));
      await conversions.wake(version.id);
      return reply.code(202).send(await answer(version));
    },
  );

  app.delete(
    `${base}/:format`,
    { schema: { summary: 'Drops a conversion that waits or failed', tags, params: FormatParams } },
    async (request) => {
      const version = await own(request, request.params.id, request.params.version);
      await conversions.drop(version.id, request.params.format);
      return answer(version);
    },
  );
}

export function conversionJson(row: Conversion) {
  return {
    format: row.format,
    state: row.state,
    attempt: row.attempt,
    reason_code: row.reason_code,
    reason: row.reason,
    created_at: row.created_at.toISOString(),
    updated_at: row.updated_at.toISOString(),
  };
}
