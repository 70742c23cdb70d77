import { OctomilError } from '@octomil/shared/errors';
import type { Logger } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import type { FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { App } from '../http/app.js';
import { requireScope } from '../http/principal.js';
import type { DirectDownloads } from '../transfers/index.js';
import { contentDisposition } from './content-disposition.js';
import { parseFormat } from './file-formats.js';
import type { Model } from './model-store.js';
import { artifactOf, type Registry } from './registry.js';
import { Format, OrgId, VERSION_TAG, VersionParams } from './route-schemas.js';
import { requireBytes, sendArtifact } from './send-artifact.js';
import { requireReadable } from './shared-view.js';
import type { SignedAddresses } from './signed-address.js';
import type { Artifact, VersionWithArtifacts } from './version-store.js';
import { mainArtifact } from './wire.js';

/** What is smaller is sooner here than asked for twice. */
const DIRECT_FROM_BYTES = 1024 * 1024;
const DOWNLOAD_VALID_SECONDS = 3600;

const DownloadQuery = Type.Object({ format: Format });
const AddressQuery = Type.Object({
  format: Format,
  /** Default 3,600. */
  expires_in_seconds: Type.Optional(Type.Integer({ minimum: 1, maximum: 86_400 })),
});
const PullBody = Type.Object({
  name: Type.String({ minLength: 1, maxLength: 1000 }),
  /** Default `latest`. */
  tag: Type.Optional(Type.String({ minLength: 1, maxLength: 200 })),
  /** Default `onnx`. */
  format: Format,
  org_id: OrgId,
});
const TokenParams = Type.Object({ token: Type.String() });

export interface DownloadRoutesOptions {
  readonly registry: Registry;
  readonly objects: ObjectStore;
  readonly addresses: SignedAddresses;
  /** Default: bytes come from here. */
  readonly downloads?: DirectDownloads;
  /** Where the caller can reach this coordinator; the request's own address when undefined. */
  readonly publicUrl: string | undefined;
  readonly logger: Logger;
}

/** The bytes of versions: with a key, or by an address that is valid for a while. */
export function registerDownloadRoutes(app: App, options: DownloadRoutesOptions): void {
  const { registry, objects, addresses, downloads, publicUrl, logger } = options;
  const { models, versions } = registry;
  const base = '/api/v1/models/:id/versions/:version';
  const tags = [VERSION_TAG];

  const fileOf = async (request: FastifyRequest, id: string, name: string, format: string | undefined) => {
    const key = requireScope(request, 'models:read');
    const model = await models.getReadable(key.organizationId, id);
    const version = requireReadable(key.organizationId, model, await versions.get(model.id, name));
    return { key, model, version, artifact: chooseArtifact(version, format) };
  };
  const addressOf = async (
    request: FastifyRequest,
    { keyId, organizationId }: { readonly keyId: string; readonly organizationId: string },
    artifact: Artifact,
    { validSeconds, fileName }: { readonly validSeconds: number; readonly fileName: string },
  ) => {
    await requireBytes(objects, artifact);
    const subject = JSON.stringify([artifact.version_id, artifact.format, organizationId]);
    const { token, expiresAt } = await addresses.sign(keyId, subject, validSeconds * 1000);
    const origin = publicUrl ?? `${request.protocol}://${request.host}`;
    const own = { url: `${origin}/api/v1/downloads/${token}`, expiresAt: expiresAt.toISOString() };
    const direct = await downloads?.address(artifact.object_key, validSeconds * 1000, contentDisposition(fileName));
    if (direct === undefined) return { ...own, elsewhere: {} };
    return {
      url: direct.url,
      expiresAt: new Date(direct.expiresAtMs).toISOString(),
      // For who cannot reach the bucket.
      elsewhere: { direct: true, coordinator_url: own.url, coordinator_url_expires_at: own.expiresAt },
    };
  };

  app.get(
    `${base}/download`,
    { schema: { summary: 'The bytes of a version', tags, params: VersionParams, querystring: DownloadQuery } },
    async (request, reply) => {
      const { id, version: name } = request.params;
      const { model, version, artifact } = await fileOf(request, id, name, request.query.format);
      const direct = downloads?.offered === true && artifact.size_bytes >= DIRECT_FROM_BYTES;
      if (direct && request.headers['x-octomil-accept-direct'] === '1') {
        // Who says that it knows what this means asks download-url for the bytes.
        await requireBytes(objects, artifact);
        reply
          .header('x-octomil-direct', '1')
          .header('x-octomil-size', artifact.size_bytes)
          .header('x-model-hash', `sha256:${artifact.sha256}`)
          .header('etag', `"${artifact.sha256}"`)
          .header('content-disposition', contentDisposition(fileNameOf(model, version, artifact)));
        return { direct: true };
      }
      return sendArtifact(request, reply, { objects, logger }, artifact, fileNameOf(model, version, artifact));
    },
  );

  app.get(
    `${base}/download-url`,
    {
      schema: {
        summary: 'An address to get the bytes of a version from without a key, for a while',
        tags,
        params: VersionParams,
        querystring: AddressQuery,
      },
    },
    async (request, reply) => {
      const { id, version: name } = request.params;
      const { format = 'onnx', expires_in_seconds = DOWNLOAD_VALID_SECONDS } = request.query;
      const { key, model, version, artifact } = await fileOf(request, id, name, format);
      const fileName = fileNameOf(model, version, artifact);
      const asked = { validSeconds: expires_in_seconds, fileName };
      const { url, expiresAt, elsewhere } = await addressOf(request, key, artifact, asked);
      reply.header('cache-control', 'no-store');
      return {
        url,
        expires_at: expiresAt,
        model_id: model.id,
        version: version.version,
        format: artifact.format,
        file_name: fileName,
        size_bytes: artifact.size_bytes,
        checksum: artifact.sha256,
        ...elsewhere,
      };
    },
  );

  app.post(
    '/api/v1/registry/pull',
    {
      // Changes nothing.
      config: { audit: false, idempotent: false },
      schema: { summary: 'Where to get a model by name and tag', tags, body: PullBody },
    },
    async (request) => {
      const { name, tag = 'latest', format = 'onnx' } = request.body;
      const { key, model, version, artifact } = await fileOf(request, name, tag, format);
      const { url, expiresAt, elsewhere } = await addressOf(request, key, artifact, {
        validSeconds: DOWNLOAD_VALID_SECONDS,
        fileName: fileNameOf(model, version, artifact),
      });
      return {
        name: model.name,
        tag: version.version,
        model_id: model.id,
        format: artifact.format,
        download_url: url,
        expires_at: expiresAt,
        size_bytes: artifact.size_bytes,
        checksum: artifact.sha256,
        ...elsewhere,
      };
    },
  );

  app.get(
    '/api/v1/downloads/:token',
    { config: { access: 'public' }, schema: { summary: 'The bytes behind a download-url', tags, params: TokenParams } },
    async (request, reply) => {
      const { subject } = await addresses.verify(request.params.token);
      const [versionId = '', format = '', organizationId] = JSON.parse(subject) as string[];
      const found = await versions.byId(versionId);
      const artifact = found === undefined ? undefined : artifactOf(found.version, format);
      if (found === undefined || artifact === undefined) {
        throw new OctomilError('version_not_found', 'the version behind this address was deleted');
      }
      // Asked at each use: what is no longer shared is not given out any more.
      if (organizationId !== undefined) {
        requireReadable(
          organizationId,
          await models.getReadable(organizationId, found.version.model_id),
          found.version,
        );
      }
      return sendArtifact(
        request,
        reply,
        { objects, logger },
        artifact,
        fileNameOf(found.model, found.version, artifact),
      );
    },
  );
}

function fileNameOf({ name }: Pick<Model, 'name'>, { version }: VersionWithArtifacts, { file_name }: Artifact): string {
  return `${name}-${version}-${file_name}`;
}

/** @throws OctomilError `format_not_ready` with the reason, and the formats that there are */
function chooseArtifact(version: VersionWithArtifacts, wanted: string | undefined): Artifact {
  const format = wanted === undefined || wanted === '' ? 'original' : parseFormat(wanted);
  const artifact = artifactOf(version, format) ?? (format === 'original' ? mainArtifact(version) : undefined);
  if (artifact !== undefined) return artifact;
  const formats = version.artifacts.map((known) => known.format);
  const conversion = version.conversions.find((known) => known.format === format);
  const reason =
    conversion === undefined
      ? `nobody asked for it; POST …/versions/${version.version}/conversions or "octomil versions formats --add ${format}" does`
      : `its conversion is ${conversion.state}${conversion.reason === null ? '' : `: ${conversion.reason}`}`;
  throw new OctomilError(
    'format_not_ready',
    `version ${version.version} has no ${format} (${reason}); it has ${formats.join(', ') || 'no files'}`,
    { details: { formats, state: conversion?.state ?? null, reason_code: conversion?.reason_code ?? null } },
  );
}
