import { createHash, randomUUID } from 'node:crypto';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { JsonObject } from '../database/tables.js';
import type { App } from '../http/app.js';
import { checkBodyShape } from '../http/body-shape.js';
import { discardRest } from '../http/discard-rest.js';
import { requireScope, requireTokenScope, type Scope } from '../http/principal.js';
import type { TrainingEngine } from './engine.js';
import { AggregateBody } from './open-aggregate.js';
import { BaseBody } from './open-bases.js';
import type { OpenDevice } from './open-store.js';
import { discardBody, type UploadBody, type UploadHeader } from './open-updates.js';
import { MAX_PROJECTION_CELLS, projectionMatrix } from './projection.js';
import type { Caller } from './session-service.js';

export interface OpenRoutesOptions {
  readonly engine: TrainingEngine;
  /** Bytes of a JSON body with base64 weights; more goes to `/training/updates`. Default 64 MiB. */
  readonly maxInlineBytes?: number;
}

const tags = ['training'];
const Name = Type.String({ minLength: 1, maxLength: 1_000 });
const DeviceId = Type.String({ minLength: 1, maxLength: 200 });
const Format = Type.Union([Type.Literal('weights'), Type.Literal('delta')]);
const OrNull = <T extends Type.TSchema>(schema: T) => Type.Optional(Type.Union([schema, Type.Null()]));
const Samples = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
const Metrics = Type.Record(Type.String(), Type.Unknown());

const WeightsBody = Type.Object({
  model_id: Name,
  version: Name,
  device_id: DeviceId,
  weights_data: Type.String({ minLength: 1 }),
  sample_count: OrNull(Samples),
  metrics: OrNull(Metrics),
  update_format: OrNull(Format),
  round_id: OrNull(DeviceId),
  detected_features: OrNull(Type.Array(Type.String({ maxLength: 1_000 }), { maxItems: 10_000 })),
});
const UpdateQuery = Type.Object({
  model_id: Name,
  version: Name,
  device_id: DeviceId,
  sample_count: Type.Optional(Samples),
  update_format: Type.Optional(Format),
  round_id: Type.Optional(DeviceId),
  sha256: Type.Optional(Type.String({ pattern: '^[0-9a-fA-F]{64}$' })),
});
const RoundsQuery = Type.Object({ device_id: DeviceId, status: Type.Optional(Type.Literal('active')) });
const Id = Type.Object({ id: Type.String({ maxLength: 1_000 }) });
const Projection = Type.Object({
  features: Type.Array(Type.String({ maxLength: 1_000 }), { minItems: 1, maxItems: 100_000 }),
  n_features: Type.Optional(Type.Integer({ minimum: 1 })),
  input_dim: Type.Integer({ minimum: 1, maximum: 100_000 }),
});
const DeviceParams = Type.Object({ device_id: DeviceId });
const PersonalizedBody = Type.Object({
  weights_data: Type.String({ minLength: 1 }),
  metrics: OrNull(Metrics),
  model_id: OrNull(Name),
  version: OrNull(Name),
});
const PersonalizedQuery = Type.Object({ model_id: Type.Optional(Name) });
const SharedIdentities = Type.Object({ allowed: Type.Boolean() });

/** A body that sends no byte for so long is given up. */
const IDLE_MS = 60_000;

/** REST routes of open admission: what published clients and `FederatedClient` call to train unasked. */
export function registerOpenRoutes(app: App, { engine, maxInlineBytes = 64 * 1024 * 1024 }: OpenRoutesOptions): void {
  const { open: service } = engine;
  const { store } = service;

  app.post(
    '/api/v1/training/weights',
    {
      bodyLimit: maxInlineBytes,
      // One update of a device counts in a round whatever it repeats; its answer need not be kept as well.
      config: { audit: false, idempotent: false },
      errorHandler: (error, request, reply) => {
        if ((error as { code?: unknown }).code !== 'FST_ERR_CTP_BODY_TOO_LARGE') throw error;
        discardRest(request.raw);
        reply.header('connection', 'close');
        throw tooLarge(maxInlineBytes);
      },
      schema: {
        tags,
        summary: 'Upload an update as base64 in JSON (safetensors, torch zip or .npy)',
        body: WeightsBody,
      },
    },
    async (request) => {
      const { body } = request;
      const caller = callerFor(request, body.device_id);
      const header: UploadHeader = {
        model: body.model_id,
        version: body.version,
        deviceId: body.device_id,
        sampleCount: body.sample_count ?? 0,
        metrics: body.metrics ?? {},
        format: body.update_format ?? 'weights',
        roundId: body.round_id ?? undefined,
        detectedFeatures: body.detected_features ?? undefined,
      };
      return service.updates.accept(header, { kind: 'bytes', bytes: fromBase64(body.weights_data) }, caller);
    },
  );

  app.post(
    '/api/v1/training/updates',
    {
      config: { audit: false, idempotent: false },
      schema: {
        tags,
        summary: 'Upload an update as raw bytes, of any size that the model has; metrics in X-Octomil-Metrics',
        querystring: UpdateQuery,
      },
    },
    async (request) => {
      const { query } = request;
      const caller = callerFor(request, query.device_id);
      const header: UploadHeader = {
        model: query.model_id,
        version: query.version,
        deviceId: query.device_id,
        sampleCount: query.sample_count ?? 0,
        metrics: metricsHeader(request),
        format: query.update_format ?? 'weights',
        roundId: query.round_id,
        sha256: query.sha256,
      };
      let body: UploadBody | undefined;
      try {
        // Refused before its bytes are read, where that can be done.
        await store.device(caller.organizationId, header.deviceId);
        const limitBytes = await service.updates.limitBytes(header, caller);
        body = await receive(request, await engine.temporaryFolder(), limitBytes);
        return await service.updates.accept(header, body, caller);
      } catch (error) {
        discardRest(request.raw);
        throw error;
      } finally {
        if (body !== undefined) await discardBody(body);
      }
    },
  );

  app.post(
    '/api/v1/training/aggregate',
    { schema: { tags, summary: 'Make a version of the updates uploaded since the last time', body: AggregateBody } },
    async (request) => {
      const { organizationId, keyId } = requireScope(request, 'training:write');
      return service.aggregate.aggregate(request.body, { organizationId, name: keyId });
    },
  );

  app.post(
    '/api/v1/training/bases',
    { schema: { tags, summary: 'Make the first version of a model from the columns of one site', body: BaseBody } },
    async (request) => {
      const { organizationId, keyId } = requireScope(request, 'training:write');
      return service.firstBase(request.body, { organizationId, name: keyId });
    },
  );

  app.get(
    '/api/v1/training/rounds',
    { schema: { tags, summary: 'Rounds that a device could answer now', querystring: RoundsQuery } },
    async (request) => {
      const { organizationId } = callerFor(request, request.query.device_id, 'training:read');
      return { rounds: await service.rounds.of(await store.device(organizationId, request.query.device_id)) };
    },
  );

  app.get(
    '/api/v1/training/rounds/:id/status',
    { schema: { tags, summary: 'A round and what it asks of clients', params: Id } },
    async (request) => {
      const { principal } = request;
      if (principal?.kind === 'device') requireTokenScope(principal, 'devices:write');
      const { organizationId } = principal?.kind === 'device' ? principal : requireScope(request, 'training:read');
      return service.rounds.status(request.params.id, { organizationId });
    },
  );

  app.post(
    '/api/v1/feature-alignment/projection-matrix',
    {
      config: { audit: false, idempotent: false },
      schema: { tags, summary: 'Project features by the hash of their names', body: Projection },
    },
    async (request) => {
      const { features, n_features: count = features.length, input_dim: dim } = request.body;
      if (count !== features.length) {
        throw new OctomilError('invalid_input', `n_features is ${count}, but features has ${features.length} names`, {
          details: { field: 'n_features', value: count },
        });
      }
      if (count * dim > MAX_PROJECTION_CELLS) {
        throw new OctomilError(
          'too_large',
          `a matrix of ${count} × ${dim} has more than ${MAX_PROJECTION_CELLS} numbers; take fewer columns`,
        );
      }
      return { matrix: projectionMatrix(features, dim), n_features: count, input_dim: dim, rule: 'sha256-name-hash' };
    },
  );

  /** The device itself, or a key of its organization. */
  const owner = async (request: FastifyRequest, reference: string, scope: Scope): Promise<OpenDevice> =>
    store.device(callerFor(request, reference, scope).organizationId, reference);

  app.get(
    '/api/v1/training/personalized/:device_id',
    {
      schema: { tags, summary: "A device's own model", params: DeviceParams, querystring: PersonalizedQuery },
    },
    async (request) => {
      const device = await owner(request, request.params.device_id, 'training:read');
      return service.personalized.get(device, request.query.model_id, maxInlineBytes);
    },
  );

  app.post(
    '/api/v1/training/personalized/:device_id',
    {
      bodyLimit: maxInlineBytes,
      config: { audit: false, idempotent: false },
      schema: { tags, summary: "Store a device's own model", params: DeviceParams, body: PersonalizedBody },
    },
    async (request) => {
      const device = await owner(request, request.params.device_id, 'training:write');
      const { weights_data: data, metrics, model_id: model, version } = request.body;
      return service.personalized.put(device, model ?? '', {
        bytes: fromBase64(data),
        version: version ?? '',
        metrics: metrics ?? {},
      });
    },
  );

  app.put(
    '/api/v1/training/federations/:id/shared-identities',
    {
      schema: {
        tags,
        summary: 'Whether devices that were only registered may take part in a federation',
        params: Id,
        body: SharedIdentities,
      },
    },
    async (request): Promise<JsonObject> => {
      const { organizationId } = requireScope(request, 'training:write');
      const { allowed } = request.body;
      const id = await store.setSharedIdentities(organizationId, request.params.id, allowed);
      if (id === undefined) {
        throw new OctomilError('not_found', `there is no federation "${request.params.id.slice(0, 200)}" of yours`);
      }
      return { federation_id: id, allowed };
    },
  );
}

/**
 * Who speaks for a device: itself, or a key of its organization.
 *
 * @throws `device_not_registered` for another device, `forbidden` for an access token that was not made to train with
 */
function callerFor(request: FastifyRequest, deviceId: string, scope: Scope = 'training:write'): Caller {
  const { principal } = request;
  if (principal?.kind === 'device') {
    if (principal.deviceId === deviceId) {
      requireTokenScope(principal, 'devices:write');
      return { organizationId: principal.organizationId, name: principal.deviceId };
    }
    throw new OctomilError(
      'device_not_registered',
      `there is no device "${deviceId.slice(0, 140)}" that this credential speaks for`,
    );
  }
  const { organizationId, keyId } = requireScope(request, scope);
  return { organizationId, name: keyId };
}

function tooLarge(limitBytes: number): OctomilError {
  return new OctomilError(
    'too_large',
    `the body has more than ${limitBytes} bytes; send the same file as application/octet-stream to POST /api/v1/training/updates, which takes updates of any size that the model has`,
    { details: { limitBytes } },
  );
}

/** @throws `invalid_input` for a text that is not base64 */
function fromBase64(text: string): Uint8Array {
  // Node skips what is no base64; a file with holes must not pass for one without.
  if (/^[A-Za-z0-9+/]+={0,2}$/.test(text)) return Buffer.from(text, 'base64');
  throw new OctomilError('invalid_input', 'weights_data is not base64', { details: { field: 'weights_data' } });
}

/** @throws `invalid_input` for a header that is not a JSON object */
function metricsHeader(request: FastifyRequest): JsonObject {
  const text = request.headers['x-octomil-metrics'];
  if (typeof text !== 'string' || text === '') return {};
  try {
    const metrics: unknown = JSON.parse(text);
    checkBodyShape(metrics);
    if (typeof metrics === 'object' && metrics !== null && !Array.isArray(metrics)) return metrics as JsonObject;
  } catch (error) {
    if (error instanceof OctomilError) throw error;
  }
  throw new OctomilError(
    'invalid_input',
    'the header X-Octomil-Metrics must be a JSON object, such as {"loss": 0.42}',
    {
      details: { field: 'metrics' },
    },
  );
}

/** Writes the request's body to a file, hashing as it goes. @throws `too_large`, `request_timeout`, `invalid_input` */
async function receive(request: FastifyRequest, folder: string, limitBytes: number): Promise<UploadBody> {
  const announced = Number(request.headers['content-length'] ?? 0);
  const refuse = (bytes: number): OctomilError =>
    new OctomilError(
      'too_large',
      `the update has ${bytes} bytes or more; one for this model has at most ${limitBytes}`,
      {
        details: { limitBytes },
      },
    );
  if (announced > limitBytes) throw refuse(announced);
  const path = join(folder, `${randomUUID()}.upload`);
  const hash = createHash('sha256');
  let sizeBytes = 0;
  const file = await open(path, 'wx', 0o600);
  request.raw.setTimeout(IDLE_MS, () => request.raw.destroy());
  try {
    // Leaving the loop must not cut the connection: who sends could not read why.
    for await (const chunk of request.raw.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>) {
      sizeBytes += chunk.length;
      if (sizeBytes > limitBytes) throw refuse(sizeBytes);
      hash.update(chunk);
      for (let done = 0; done < chunk.length; ) done += (await file.write(chunk, done)).bytesWritten;
    }
    if (sizeBytes === 0) throw new OctomilError('invalid_input', 'the body is empty; send the bytes of the update');
    return { kind: 'file', path, sha256: hash.digest('hex'), sizeBytes };
  } catch (error) {
    await discardBody({ kind: 'file', path, sha256: '', sizeBytes });
    const known = toOctomilError(error);
    if (known.code !== 'internal') throw known;
    throw new OctomilError('transfer_incomplete', 'the connection ended within the update; send it again', {
      cause: error,
    });
  } finally {
    request.raw.setTimeout(0);
    await file.close();
  }
}
