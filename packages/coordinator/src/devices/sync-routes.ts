import { createHash } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';
import type { Logger } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import type { FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { Database } from '../database/database.js';
import { type App, requireDevice } from '../http/index.js';
import { sendArtifact } from '../models/send-artifact.js';
import type { SignedAddresses } from '../models/signed-address.js';
import type { DesiredModelFacts, DesiredSource } from './desired-source.js';
import { mayFetchFor, organizationFor, requireVoice } from './device-access.js';
import type { DeviceRecord } from './device-records.js';
import type { DeviceService } from './device-service.js';
import { readReports, resolveReports, type WireReport } from './reported-models.js';

export interface DeviceSyncRoutesOptions {
  readonly devices: DeviceService;
  readonly desired: DesiredSource;
  readonly database: Database;
  readonly objects: ObjectStore;
  /** Signs with the secret of a device (`DeviceService.downloadSecret`). */
  readonly addresses: SignedAddresses;
  /** Where the caller can reach this coordinator; the request's own address when undefined. */
  readonly publicUrl: string | undefined;
  readonly logger: Logger;
}

const tags = ['device-sync'];
const Params = Type.Object({ id: Type.String({ maxLength: 140 }) });
const ArtifactParams = Type.Object({ id: Type.String({ maxLength: 140 }) });
const TokenParams = Type.Object({ token: Type.String({ maxLength: 2000 }) });
const Models = Type.Array(Type.Unknown(), { maxItems: 1000 });
const OrNull = <T extends Type.TSchema>(schema: T) => Type.Optional(Type.Union([schema, Type.Null()]));
// Other fields are let through: clients describe themselves in them.
const DesiredBody = Type.Object({
  installedModels: OrNull(Models),
  knownStateVersion: OrNull(Type.String({ maxLength: 200 })),
});
const SyncBody = Type.Object({
  modelInventory: OrNull(Models),
  /** Versions by model, or a list of `{modelId, version}`. */
  activeVersions: Type.Optional(Type.Unknown()),
  knownStateVersion: OrNull(Type.String({ maxLength: 200 })),
  availableStorageBytes: OrNull(Type.Number({ minimum: 0 })),
});
const ObservedBody = Type.Object({ models: OrNull(Models) });
const DownloadBody = Type.Object({
  files: OrNull(Type.Array(Type.Object({ path: Type.String({ maxLength: 500 }) }), { maxItems: 1000 })),
  expiresInSeconds: OrNull(Type.Integer({ minimum: 1, maximum: 86_400 })),
});
const SCHEMA_VERSION = '1.12.0';
/** Devices without a session ask this often. */
const POLL_SECONDS = 60;
const DOWNLOAD_VALID_MS = 3_600_000;
const config = { audit: false, idempotent: false } as const;

/** What a device should run, for clients that ask instead of holding a session, and what they say they run. */
export function registerDeviceSyncRoutes(app: App, options: DeviceSyncRoutesOptions): void {
  const { devices, desired, database, objects, addresses, publicUrl, logger } = options;

  /** The device's id, for itself or for a key. @throws `device_not_registered`, `device_revoked`, `forbidden` */
  const deviceOf = async (request: FastifyRequest, device: string) => {
    const scopes = ['control:refresh', 'devices:heartbeat', 'devices:write'] as const;
    const reading = request.method === 'GET' ? (['devices:read'] as const) : [];
    const organizationId = organizationFor(request, device, ...scopes, ...reading);
    return devices.records.findActive(organizationId, device);
  };
  const originOf = (request: FastifyRequest): string => publicUrl ?? `${request.protocol}://${request.host}`;
  const signer =
    (request: FastifyRequest, deviceId: string, validMs: number) => async (versionId: string, sha256: string) => {
      const { token, expiresAt } = await addresses.sign(deviceId, JSON.stringify([versionId, sha256]), validMs);
      return { url: `${originOf(request)}/api/v1/artifacts/download/${token}`, expiresAt };
    };

  const manifestOf = async (
    request: FastifyRequest,
    device: Pick<DeviceRecord, 'id' | 'identity'>,
    model: DesiredModelFacts,
  ) => {
    const sign = mayFetchFor(request, device) ? signer(request, device.id, DOWNLOAD_VALID_MS) : undefined;
    const files = await Promise.all(
      model.artifacts.map(async ({ fileName, sha256, sizeBytes, format }) => {
        const address = await sign?.(model.versionId, sha256);
        return { path: fileName, size: sizeBytes, sha256, format, downloadUrl: address?.url ?? null };
      }),
    );
    // One file stands for all where a client reads only one: the largest holds the weights.
    const main = files.toSorted((a, b) => b.size - a.size)[0];
    return {
      artifactId: model.versionId,
      totalBytes: files.reduce((total, { size }) => total + size, 0),
      format: main?.format ?? null,
      files,
      downloadUrl: main?.downloadUrl ?? null,
      sizeBytes: main?.size ?? 0,
      sha256: main?.sha256 ?? null,
    };
  };

  const stateView = async (
    request: FastifyRequest,
    device: DeviceRecord,
    models: readonly DesiredModelFacts[],
    { known, inventory }: { known: string | null | undefined; inventory: readonly unknown[] },
  ) => {
    const stateVersion = digestOf(models);
    const now = new Date(devices.nowMs()).toISOString();
    return {
      schemaVersion: SCHEMA_VERSION,
      deviceId: device.id,
      generatedAt: now,
      serverTimestamp: now,
      stateVersion,
      stateChanged: known !== stateVersion,
      models: await Promise.all(
        models.map(async (model) => ({
          modelId: model.modelId,
          modelName: model.modelName,
          desiredVersion: model.version,
          versionId: model.versionId,
          deploymentId: String(model.rolloutId),
          rolloutId: String(model.rolloutId),
          activationPolicy: model.activation,
          artifactManifest: await manifestOf(request, device, model),
        })),
      ),
      gcEligibleArtifactIds: unwanted(inventory, models),
      nextPollIntervalSeconds: POLL_SECONDS,
    };
  };

  const desiredState = async (request: FastifyRequest, id: string, known: string | null | undefined) => {
    const device = await deviceOf(request, id);
    return stateView(request, device, await desired.desiredState(device.id), { known, inventory: [] });
  };

  app.get(
    '/api/v1/devices/:id/desired-state',
    { schema: { summary: 'What a device should run, and where to get it', tags, params: Params } },
    async (request) => desiredState(request, request.params.id, undefined),
  );

  app.post(
    '/api/v1/devices/:id/desired-state',
    {
      config,
      schema: {
        summary: 'What a device should run, asked with what it knows',
        tags,
        params: Params,
        body: DesiredBody,
      },
    },
    async (request) => desiredState(request, request.params.id, request.body.knownStateVersion),
  );

  app.post(
    '/api/v1/devices/:id/sync',
    {
      config,
      schema: { summary: 'Say what is installed, and learn what should be', tags, params: Params, body: SyncBody },
    },
    async (request) => {
      const device = await deviceOf(request, request.params.id);
      requireVoice(request, device);
      const { id: deviceId, organizationId } = device;
      const { modelInventory, activeVersions, knownStateVersion } = request.body;
      const models = await desired.desiredState(deviceId);
      const inventory = modelInventory ?? [];
      if (modelInventory !== undefined && modelInventory !== null) {
        const active = versionsByModel(activeVersions);
        const reports = readReports(modelInventory, 'modelInventory').map((report) => ({
          ...report,
          activeVersion: report.activeVersion ?? active.get(report.modelId) ?? null,
        }));
        await observe(organizationId, deviceId, reports, models);
      }
      return stateView(request, device, models, { known: knownStateVersion, inventory });
    },
  );

  const observe = async (
    organizationId: string,
    deviceId: string,
    reports: readonly WireReport[],
    models: readonly DesiredModelFacts[],
  ): Promise<number> => {
    const resolved = await resolveReports(database, organizationId, reports, models);
    if (resolved.length > 0) await desired.observeRaw(deviceId, resolved);
    await devices.records.noteInstalled(deviceId, { models: reports });
    return resolved.length;
  };

  app.post(
    '/api/v1/devices/:id/observed-state',
    { config, schema: { summary: 'Say what a device runs', tags, params: Params, body: ObservedBody } },
    async (request) => {
      const device = await deviceOf(request, request.params.id);
      requireVoice(request, device);
      const { id: deviceId, organizationId } = device;
      const reports = readReports(request.body.models ?? [], 'models');
      const count = await observe(organizationId, deviceId, reports, await desired.desiredState(deviceId));
      return { deviceId, status: 'ok', models: count, serverTimestamp: new Date(devices.nowMs()).toISOString() };
    },
  );

  app.get(
    '/api/v1/devices/:id/assignments',
    { schema: { summary: 'Models that a device should run, in short', tags, params: Params } },
    async (request) => {
      const { id: deviceId } = await deviceOf(request, request.params.id);
      const models = await desired.desiredState(deviceId);
      return {
        device_id: deviceId,
        updated: true,
        config_version: digestOf(models),
        assignments: models.map(({ modelId, modelName, version, rolloutId }) => ({
          model_id: modelId,
          model_name: modelName,
          version,
          rollout_id: rolloutId,
          config: {},
        })),
        assignments_changed: models.length > 0,
        rollouts_changed: models.length > 0,
      };
    },
  );

  /** The device that asks, and the model whose files it should have. @throws `not_found` */
  const wanted = async (request: FastifyRequest, artifactId: string) => {
    const { deviceId } = requireDevice(request);
    const model = (await desired.desiredState(deviceId)).find(({ versionId }) => versionId === artifactId);
    if (model !== undefined) return { deviceId, model };
    throw new OctomilError(
      'not_found',
      `this device should not run artifact ${JSON.stringify(artifactId)}; ask for its desired state`,
    );
  };

  app.get(
    '/api/v1/artifacts/:id/manifest',
    { schema: { summary: 'Files of a version that the calling device should run', tags, params: ArtifactParams } },
    async (request) => {
      const { deviceId, model } = await wanted(request, request.params.id);
      const device = { id: deviceId, identity: 'enrolled' } as const;
      return { ...(await manifestOf(request, device, model)), modelId: model.modelId, version: model.version };
    },
  );

  app.post(
    '/api/v1/artifacts/:id/download-urls',
    {
      config,
      schema: {
        summary: 'Addresses of those files that need no credential, for a while',
        tags,
        params: ArtifactParams,
        body: DownloadBody,
      },
    },
    async (request) => {
      const { deviceId, model } = await wanted(request, request.params.id);
      const { files: asked, expiresInSeconds } = request.body;
      const missing = asked?.find(({ path }) => !model.artifacts.some(({ fileName }) => fileName === path));
      if (missing !== undefined) {
        const paths = model.artifacts.map(({ fileName }) => fileName);
        throw new OctomilError(
          'not_found',
          `there is no file ${JSON.stringify(missing.path)}; there are ${paths.join(', ')}`,
        );
      }
      const validMs =
        expiresInSeconds === undefined || expiresInSeconds === null ? DOWNLOAD_VALID_MS : expiresInSeconds * 1000;
      const sign = signer(request, deviceId, validMs);
      const files = model.artifacts.filter(
        ({ fileName }) => asked === undefined || asked === null || asked.some(({ path }) => path === fileName),
      );
      return {
        artifactId: model.versionId,
        files: await Promise.all(
          files.map(async ({ fileName, sha256, sizeBytes }) => {
            const { url, expiresAt } = await sign(model.versionId, sha256);
            return { path: fileName, size: sizeBytes, sha256, url, expiresAt: expiresAt.toISOString() };
          }),
        ),
      };
    },
  );

  app.get(
    '/api/v1/artifacts/download/:token',
    {
      config: { access: 'public' },
      schema: { summary: 'The bytes behind a signed download address of a device', tags, params: TokenParams },
    },
    async (request, reply) => {
      const { keyId: deviceId, subject } = await addresses.verify(request.params.token);
      const [versionId = '', sha256 = ''] = JSON.parse(subject) as string[];
      const artifact = await database.kysely
        .selectFrom('artifacts')
        .selectAll()
        .where('version_id', '=', versionId)
        .where('sha256', '=', sha256)
        .executeTakeFirst();
      // Asked at each use: what was rolled back in the meantime is not given out any more.
      if (artifact === undefined || (await desired.desiredObject(deviceId, sha256)) === undefined) {
        throw new OctomilError('not_found', 'the device should no longer run this version; ask for its desired state');
      }
      const release = devices.onRevoked(deviceId, () => reply.raw.destroy());
      try {
        return await sendArtifact(request, reply, { objects, logger }, artifact, artifact.file_name);
      } finally {
        release();
      }
    },
  );
}

/** Equal for equal models, whoever computes it. */
function digestOf(models: readonly DesiredModelFacts[]): string {
  return createHash('sha256')
    .update(JSON.stringify(models.map(({ modelId, versionId, rolloutId }) => [modelId, versionId, rolloutId])))
    .digest('hex');
}

/** Artifacts that a device holds and should neither run nor runs still. */
function unwanted(inventory: readonly unknown[], models: readonly DesiredModelFacts[]): string[] {
  const held = inventory.flatMap((entry) => {
    const { artifactId, status } = (entry ?? {}) as { artifactId?: unknown; status?: unknown };
    return typeof artifactId === 'string' && status !== 'active' ? [artifactId] : [];
  });
  return [...new Set(held)].filter((id) => !models.some(({ versionId }) => versionId === id));
}

function versionsByModel(value: unknown): Map<string, string> {
  const pairs: [unknown, unknown][] = Array.isArray(value)
    ? value.map((entry) => {
        const { modelId, version } = (entry ?? {}) as { modelId?: unknown; version?: unknown };
        return [modelId, version];
      })
    : Object.entries(typeof value === 'object' && value !== null ? value : {});
  const found = new Map<string, string>();
  for (const [model, version] of pairs) {
    if (typeof model === 'string' && typeof version === 'string') found.set(model, version);
  }
  return found;
}
