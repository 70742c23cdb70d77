import multipart, { type MultipartFile } from '@fastify/multipart';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import { Value } from 'typebox/value';
import type { App } from '../http/app.js';
import { checkBodyShape } from '../http/body-shape.js';
import { discardRest } from '../http/discard-rest.js';
import { requireScope } from '../http/principal.js';
import { explainProblems } from '../http/schema-problems.js';
import { parseFormat, parseFormats } from './file-formats.js';
import type { RegisteredFiles } from './registered-files.js';
import type { Registry } from './registry.js';
import { Count, Description, Format, ModelParams, plainSha256, Sha256, VERSION_TAG } from './route-schemas.js';
import { layoutOf } from './upload-parts.js';
import type { Version } from './version-store.js';
import type { ReceivedFile, VersionUploads } from './version-upload.js';
import { COMPANION_FORMAT, numberedVersionJson, versionJson } from './wire.js';

const SemanticVersion = Type.Optional(Type.String({ minLength: 1, maxLength: 200 }));
const Formats = Type.Optional(Type.String({ maxLength: 1000 }));
const UploadForm = Type.Object({
  version: SemanticVersion,
  filename: Type.String({ minLength: 1, maxLength: 500 }),
  content_type: Type.Optional(Type.String({ maxLength: 200 })),
  size_bytes: Type.Optional(Count),
  part_size_bytes: Type.Optional(Count),
});
const ConfirmForm = Type.Object({
  version: SemanticVersion,
  storage_key: Type.String({ maxLength: 512 }),
  file_size: Count,
  description: Description,
  format: Format,
  formats: Formats,
  sha256: Type.Optional(Sha256),
});
const RegisterBody = Type.Object({
  version: SemanticVersion,
  storage_path: Type.String({ minLength: 1, maxLength: 512 }),
  format: Type.String({ minLength: 1, maxLength: 60 }),
  checksum: Type.Optional(Sha256),
  size_bytes: Type.Optional(Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })),
  description: Description,
  metrics: Type.Optional(Type.Record(Type.String({ maxLength: 200 }), Type.Unknown())),
});
/** Fields beside the files of the multipart form; others that published clients send are let through. */
const MultipartFields = Type.Object({
  version: SemanticVersion,
  format: Format,
  description: Description,
  formats: Formats,
});
const TokenParams = Type.Object({ token: Type.String() });
const PartParams = Type.Object({ token: Type.String(), number: Type.Integer({ minimum: 1 }) });
/** One file more than the two that are taken, so that it can be named. */
const FORM_LIMITS = { fieldSize: 64 * 1024, fields: 50, files: 3, fileSize: Number.POSITIVE_INFINITY };

export interface UploadRoutesOptions {
  readonly registry: Registry;
  readonly uploads: VersionUploads;
  readonly registered: RegisteredFiles;
  /** Where the caller can reach this coordinator; the request's own address when undefined. */
  readonly publicUrl: string | undefined;
}

/** How files become versions: in one form, in three steps, or by the key of a file that is here already. */
export function registerUploadRoutes(
  app: App,
  { registry, uploads, registered, publicUrl }: UploadRoutesOptions,
): void {
  const { models, versions } = registry;
  const base = '/api/v1/models/:id/versions';
  const tags = [VERSION_TAG];
  const modelOf = async (request: FastifyRequest, id: string) => {
    const key = requireScope(request, 'models:write');
    return { key, model: await models.get(key.organizationId, id) };
  };
  const answer = async ({ model_id, version }: Version) => versions.get(model_id, version);

  app.post(
    `${base}/upload-url`,
    {
      schema: {
        summary: 'Begins an upload: an address to PUT the bytes to',
        tags,
        params: ModelParams,
        body: UploadForm,
      },
    },
    async (request) => {
      const { key, model } = await modelOf(request, request.params.id);
      const { version = null, filename, size_bytes, part_size_bytes } = request.body;
      const target = await uploads.begin(key.keyId, model.id, {
        version,
        fileName: filename,
        ...(size_bytes === undefined ? {} : { sizeBytes: Number(size_bytes) }),
        ...(part_size_bytes === undefined ? {} : { partSizeBytes: Number(part_size_bytes) }),
      });
      const url = `${publicUrl ?? `${request.protocol}://${request.host}`}/api/v1/uploads/${target.token}`;
      const { partCount } = layoutOf(target.plan);
      const parts = Array.from({ length: partCount }, (_, index) => ({
        number: index + 1,
        url: `${url}/parts/${index + 1}`,
      }));
      return {
        upload_url: url,
        storage_key: target.storageKey,
        expires_at: target.expiresAt.toISOString(),
        ...(partCount === 0 ? {} : { part_size_bytes: target.plan.partSizeBytes, parts }),
        ...(target.direct ? { direct: true } : {}),
      };
    },
  );

  app.post(
    `${base}/confirm-upload`,
    { schema: { summary: 'Makes a version of what was uploaded', tags, params: ModelParams, body: ConfirmForm } },
    async (request, reply) => {
      const { key, model } = await modelOf(request, request.params.id);
      const { version = null, storage_key, file_size, description = '', format, formats = '', sha256 } = request.body;
      const confirmation = {
        version,
        storageKey: storage_key,
        sizeBytes: Number(file_size),
        description,
        formats: parseFormats(formats),
        createdBy: `key:${key.keyId}`,
        ...(format === undefined ? {} : { format: parseFormat(format) }),
        ...(sha256 === undefined ? {} : { sha256: plainSha256(sha256) }),
      };
      const made = await answer(await uploads.confirm(model.id, confirmation)).catch(async (error: unknown) => {
        if (toOctomilError(error).code !== 'version_not_found') throw error;
        // Its file was refused meanwhile, and asking again says why.
        return answer(await uploads.confirm(model.id, confirmation));
      });
      if (made.status === 'validating') {
        // What went past the coordinator counts when it was checked.
        request.auditNote = { resource: `models/${model.id}/versions/${made.version}` };
        reply.code(202);
      } else reply.code(201);
      return reply.send(versionJson(made));
    },
  );

  app.post(
    base,
    { schema: { summary: 'Makes a version of a file in the store', tags, params: ModelParams, body: RegisterBody } },
    async (request, reply) => {
      const { key, model } = await modelOf(request, request.params.id);
      const { version = null, storage_path, format, checksum, size_bytes, description = '', metrics } = request.body;
      const row = await registered.add(key, model, {
        version,
        storagePath: storage_path,
        format: parseFormat(format),
        description,
        ...(checksum === undefined ? {} : { sha256: plainSha256(checksum) }),
        ...(size_bytes === undefined ? {} : { sizeBytes: size_bytes }),
        ...(metrics === undefined ? {} : { metrics }),
      });
      return reply.code(201).send(versionJson(await answer(row)));
    },
  );

  // A scope of its own: only here are forms with files read.
  app.register(async (scope) => {
    await scope.register(multipart, { limits: FORM_LIMITS });
    scope.post(
      `${base}/upload`,
      {
        schema: {
          summary: 'Uploads a version in one form: file, and format, version, description, formats',
          tags,
          consumes: ['multipart/form-data'],
          params: ModelParams,
        },
      },
      async (request, reply) => {
        try {
          const { key, model } = await modelOf(request, (request.params as { id: string }).id);
          const { files, fields } = await readForm(request, uploads);
          const row = await versionOfForm(uploads, model.id, `key:${key.keyId}`, files, fields);
          return await reply.code(201).send(numberedVersionJson(await answer(row)));
        } catch (error) {
          discardRest(request.raw);
          throw error;
        }
      },
    );
  });

  // A scope of its own: whatever content type a client writes, the bytes are a stream.
  app.register(async (scope) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser('*', (_request, payload, done) => done(null, payload));
    const config = { access: 'public', audit: false, idempotent: false } as const;
    scope.put(
      '/api/v1/uploads/:token',
      { config, schema: { summary: 'Takes the bytes of an upload', tags, params: TokenParams } },
      (request) =>
        reading(request, async (source) => ({
          size_bytes: await uploads.receive((request.params as { token: string }).token, source),
        })),
    );
    scope.put(
      '/api/v1/uploads/:token/parts/:number',
      { config, schema: { summary: 'Takes one part of an upload', tags, params: PartParams } },
      (request) =>
        reading(request, async (source) => {
          const { token, number } = request.params as { token: string; number: number };
          return { number, size_bytes: await uploads.receivePart(token, number, source) };
        }),
    );
    scope.post(
      '/api/v1/uploads/:token/direct',
      {
        config,
        schema: {
          summary: 'Requests that send missing parts straight to the bucket; none: they come here',
          tags,
          params: TokenParams,
        },
      },
      async (request, reply) => {
        discardRest(request.raw);
        const { parts, received, more, arrived, inOrder } = await uploads.requests(
          (request.params as { token: string }).token,
        );
        // Whoever has them may send these parts.
        reply.header('cache-control', 'no-store');
        return {
          parts: parts.map(({ number, method, url, headers }) => ({ number: number + 1, method, url, headers })),
          received_parts: received.map((number) => number + 1),
          more,
          arrived,
          in_order: inOrder,
        };
      },
    );
    scope.get(
      '/api/v1/uploads/:token',
      { config, schema: { summary: 'What has arrived of an upload', tags, params: TokenParams } },
      async (request) => {
        const { plan, receivedBytes, parts, expiresAt, state, versionId, problem } = await uploads.progress(
          (request.params as { token: string }).token,
        );
        return {
          state,
          version_id: versionId,
          code: problem?.code ?? null,
          reason: problem?.reason ?? null,
          size_bytes: plan.sizeBytes ?? null,
          part_size_bytes: plan.partSizeBytes ?? null,
          part_count: layoutOf(plan).partCount,
          received_bytes: receivedBytes,
          received_parts: parts,
          expires_at: expiresAt.toISOString(),
        };
      },
    );
  });
}

async function reading<T>(
  request: FastifyRequest,
  work: (source: AsyncIterable<Uint8Array>) => Promise<T>,
): Promise<T> {
  try {
    // Leaving the loop must not cut the connection: who sends could not read why (a full disk, a file too large).
    return await work(request.raw.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>);
  } catch (error) {
    discardRest(request.raw);
    throw error;
  }
}

interface Form {
  readonly files: ReadonlyMap<string, ReceivedFile>;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** Files go to the store while they arrive, in whichever order the form has its fields. */
async function readForm(request: FastifyRequest, uploads: VersionUploads): Promise<Form> {
  if (!request.isMultipart()) {
    throw new OctomilError('invalid_input', 'file is missing: send a form as multipart/form-data, with the field file');
  }
  const files = new Map<string, ReceivedFile>();
  const fields: Record<string, unknown> = {};
  try {
    for await (const part of request.parts()) {
      if (part.type === 'field') fields[part.fieldname] = part.value;
      else if ((part.fieldname === 'file' || part.fieldname === COMPANION_FORMAT) && !files.has(part.fieldname)) {
        files.set(part.fieldname, await uploads.receiveFile(part.file, part.filename ?? 'file', formatOfPart(part)));
      } else {
        throw new OctomilError(
          'invalid_input',
          `${part.fieldname.slice(0, 100)} is a file; the form takes one file and one ${COMPANION_FORMAT}`,
        );
      }
    }
    checkBodyShape(fields);
    return { files, fields };
  } catch (error) {
    await uploads.discard([...files.values()]);
    throw asBadForm(error);
  }
}

/** The parser of forms throws errors without a code. */
function asBadForm(thrown: unknown): unknown {
  if (!(thrown instanceof Error) || thrown.name !== 'Error' || 'code' in thrown || 'statusCode' in thrown)
    return thrown;
  return new OctomilError('invalid_input', `the form cannot be read: ${thrown.message}; send it whole`, {
    cause: thrown,
  });
}

function formatOfPart({ fieldname }: MultipartFile): string | undefined {
  return fieldname === COMPANION_FORMAT ? COMPANION_FORMAT : undefined;
}

async function versionOfForm(
  uploads: VersionUploads,
  modelId: string,
  createdBy: string,
  files: Form['files'],
  fields: Form['fields'],
): Promise<Version> {
  const all = [...files.values()];
  try {
    const file = files.get('file');
    if (file === undefined) throw new OctomilError('invalid_input', 'file is missing in the form');
    if (!Value.Check(MultipartFields, fields)) {
      const { reason, field } = explainProblems(Value.Errors(MultipartFields, fields));
      throw new OctomilError('invalid_input', `body: ${reason}`, { details: { field } });
    }
    const { version, format, description = '', formats = '' } = fields;
    const main = format === undefined || format === '' ? file : { ...file, format: parseFormat(format) };
    return await uploads.createVersion(
      modelId,
      { version: version ?? null, description, formats: parseFormats(formats), createdBy },
      [main, ...all.filter((other) => other !== file)],
    );
  } finally {
    await uploads.discard(all);
  }
}
