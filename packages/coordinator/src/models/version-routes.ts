import { Readable } from 'node:stream';
import { OctomilError } from '@octomil/shared/errors';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { App } from '../http/app.js';
import { parseByteRange } from '../http/byte-range.js';
import { discardRest } from '../http/discard-rest.js';
import { errorBody } from '../http/error-answer.js';
import { type KeyPrincipal, requireScope, type Scope } from '../http/principal.js';
import type { Model } from './model-store.js';
import type { Registry } from './registry.js';
import { artifactOf } from './registry.js';
import type { Artifact, VersionWithArtifacts } from './version-store.js';
import type { VersionUploads } from './version-upload.js';
import { mainArtifact, versionJson } from './wire.js';

const Id = Type.Object({ id: Type.String() });
const IdVersion = Type.Object({ id: Type.String(), version: Type.String() });
const Status = Type.Union([Type.Literal('draft'), Type.Literal('published'), Type.Literal('deprecated')]);
const ListQuery = Type.Object({
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
  offset: Type.Optional(Type.Integer({ minimum: 0, maximum: 2 ** 31 - 1 })),
  status: Type.Optional(Status),
});
const UploadForm = Type.Object({
  version: Type.String(),
  filename: Type.String({ minLength: 1, maxLength: 500 }),
  content_type: Type.Optional(Type.String()),
});
const ConfirmForm = Type.Object({
  version: Type.String(),
  storage_key: Type.String(),
  // Forms hold text.
  file_size: Type.Union([Type.Integer({ minimum: 0 }), Type.String({ pattern: '^[0-9]{1,15}$' })]),
  description: Type.Optional(Type.String({ maxLength: 1000 })),
});
const DownloadQuery = Type.Object({ format: Type.Optional(Type.String()) });

export interface VersionRoutesOptions {
  readonly registry: Registry;
  readonly uploads: VersionUploads;
  /** Where the caller can reach this coordinator; the request's own address when undefined. */
  readonly publicUrl: string | undefined;
}

export function registerVersionRoutes(app: App, { registry, uploads, publicUrl }: VersionRoutesOptions): void {
  const { models, versions, objects } = registry;
  const base = '/api/v1/models/:id/versions';
  const modelOf = async (
    request: FastifyRequest,
    scope: Scope,
    id: string,
  ): Promise<{ key: KeyPrincipal; model: Model }> => {
    const key = requireScope(request, scope);
    return { key, model: await models.get(key.organizationId, id) };
  };

  app.get(base, { schema: { params: Id, querystring: ListQuery } }, async (request) => {
    const { model } = await modelOf(request, 'models:read', request.params.id);
    return { versions: (await versions.list(model.id, request.query)).map(versionJson) };
  });

  app.get(`${base}/:version`, { schema: { params: IdVersion } }, async (request) => {
    const { model } = await modelOf(request, 'models:read', request.params.id);
    return versionJson(await versions.get(model.id, request.params.version));
  });

  for (const [path, status] of [
    ['publish', 'published'],
    ['deprecate', 'deprecated'],
  ] as const) {
    app.post(`${base}/:version/${path}`, { schema: { params: IdVersion } }, async (request) => {
      const { model } = await modelOf(request, 'models:write', request.params.id);
      const version = await versions.get(model.id, request.params.version);
      await versions.setStatus(version, status);
      return versionJson(await versions.get(model.id, version.version));
    });
  }

  app.post(`${base}/upload-url`, { schema: { params: Id, body: UploadForm } }, async (request) => {
    const { key, model } = await modelOf(request, 'models:write', request.params.id);
    const { version, filename } = request.body;
    const { storageKey, token } = await uploads.begin(key.keyId, model.id, version, filename);
    const origin = publicUrl ?? `${request.protocol}://${request.host}`;
    return { upload_url: `${origin}/api/v1/uploads/${token}`, storage_key: storageKey };
  });

  app.post(`${base}/confirm-upload`, { schema: { params: Id, body: ConfirmForm } }, async (request, reply) => {
    const { model } = await modelOf(request, 'models:write', request.params.id);
    const { version, storage_key: storageKey, file_size, description = '' } = request.body;
    const sizeBytes = Number(file_size);
    const row = await uploads.confirm(model.id, { version, storageKey, sizeBytes, description });
    return reply.code(201).send(versionJson(await versions.get(model.id, row.version)));
  });

  app.get(
    `${base}/:version/download`,
    { schema: { params: IdVersion, querystring: DownloadQuery } },
    async (request, reply) => {
      const { model } = await modelOf(request, 'models:read', request.params.id);
      const version = await versions.get(model.id, request.params.version);
      const artifact = chooseArtifact(version, request.query.format);
      const { name } = model;
      return sendArtifact(request, reply, artifact, `${name}-${version.version}`, (range) =>
        Readable.from(objects.read(artifact.object_key, range)),
      );
    },
  );

  // A scope of its own: whatever content type a client writes, the bytes are a stream.
  app.register(async (scope) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser('*', (_request, payload, done) => done(null, payload));
    scope.put(
      '/api/v1/uploads/:token',
      { config: { access: 'public' }, schema: { params: Type.Object({ token: Type.String() }) } },
      async (request) => {
        // Leaving the loop must not cut the connection: who sends could not read why (a full disk, a file too large).
        const source = request.raw.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>;
        try {
          return { size_bytes: await uploads.receive((request.params as { token: string }).token, source) };
        } catch (error) {
          discardRest(request.raw);
          throw error;
        }
      },
    );
  });
}

/** @throws OctomilError `not_found` naming the formats that there are */
function chooseArtifact(version: VersionWithArtifacts, format: string | undefined): Artifact {
  const artifact = format === undefined || format === 'original' ? mainArtifact(version) : artifactOf(version, format);
  if (artifact !== undefined) return artifact;
  const formats = version.artifacts.map((known) => known.format);
  throw new OctomilError(
    'not_found',
    `version ${version.version} has no ${format ?? 'file'}; it has ${formats.join(', ') || 'no files'}`,
    { details: { formats } },
  );
}

function sendArtifact(
  request: FastifyRequest,
  reply: FastifyReply,
  artifact: Artifact,
  stem: string,
  open: (range: { start: number; end: number } | undefined) => Readable,
): FastifyReply {
  const etag = `"${artifact.sha256}"`;
  const fileName = `${stem}-${artifact.file_name}`.replaceAll(/[^A-Za-z0-9._-]/g, '_');
  reply
    .header('etag', etag)
    .header('accept-ranges', 'bytes')
    .header('x-model-hash', `sha256:${artifact.sha256}`)
    .header('content-disposition', `attachment; filename="${fileName}"`);
  if (request.headers['if-none-match'] === etag) return reply.code(304).send();
  // A range of another content would not fit what the client holds.
  const ifRange = request.headers['if-range'];
  const wanted = ifRange === undefined || ifRange === etag ? request.headers.range : undefined;
  let range: { start: number; end: number } | undefined;
  try {
    range = parseByteRange(wanted, artifact.size_bytes);
  } catch (error) {
    if (!(error instanceof OctomilError)) throw error;
    reply.header('content-range', `bytes */${artifact.size_bytes}`);
    return reply.code(416).send(errorBody(error, 416, request.id));
  }
  reply.type('application/octet-stream');
  if (range === undefined) return reply.header('content-length', artifact.size_bytes).send(open(undefined));
  return reply
    .code(206)
    .header('content-length', range.end - range.start)
    .header('content-range', `bytes ${range.start}-${range.end - 1}/${artifact.size_bytes}`)
    .send(open(range));
}
