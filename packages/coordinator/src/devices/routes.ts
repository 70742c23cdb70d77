import type { FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import { type App, requireScope, type Scope } from '../http/index.js';
import type { DeviceRecord, DeviceRecords } from './device-records.js';
import type { DeviceService } from './device-service.js';

export interface DeviceRoutesOptions {
  readonly devices: DeviceService;
}

const DeviceParams = Type.Object({ id: Type.String({ maxLength: 140 }) });
const ListQuery = Type.Object({
  status: Type.Optional(Type.Union([Type.Literal('online'), Type.Literal('offline'), Type.Literal('revoked')])),
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, default: 100 })),
  offset: Type.Optional(Type.Integer({ minimum: 0, default: 0 })),
});
const Registration = Type.Object({ device_identifier: Type.String() }, { additionalProperties: true });
const Heartbeat = Type.Object({ device_identifier: Type.String() }, { additionalProperties: true });

/** What a published client may say of its machine, as far as it is kept. */
const KEPT_FACTS = [
  'platform',
  'os_version',
  'sdk',
  'sdk_version',
  'manufacturer',
  'model',
  'cpu_architecture',
  'gpu_available',
  'total_memory_mb',
  'available_storage_mb',
];

function facts(body: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    KEPT_FACTS.flatMap((name) => {
      const value = body[name];
      const keep =
        typeof value === 'number' || typeof value === 'boolean' || (typeof value === 'string' && value.length <= 200);
      return keep ? [[name, value]] : [];
    }),
  );
}

function view(device: DeviceRecord): Record<string, unknown> {
  const { capabilities, site } = device;
  return {
    id: device.id,
    device_id: device.id,
    device_identifier: device.identifier,
    org_id: device.organizationId,
    status: device.status,
    labels: device.labels,
    agent_version: device.agentVersion,
    host: device.host,
    last_seen_at: device.lastSeenAt?.toISOString() ?? null,
    created_at: device.createdAt.toISOString(),
    revoked_at: device.revokedAt?.toISOString() ?? null,
    platform: capabilities.platform ?? null,
    trainers: capabilities.trainers ?? [],
    compute_backends: capabilities.computeBackends ?? [],
    data_sets: (site.dataSets ?? []).map(({ name, rowCount, format, problem }) => ({
      name,
      row_count: rowCount,
      format,
      problem: problem === '' ? null : problem,
    })),
    policy_rules: (site.policyRules ?? []).map(({ name, federations, models, dataSets }) => ({
      name,
      federations,
      models,
      data_sets: dataSets,
    })),
  };
}

/** A key with the scope, or the device itself. */
function organizationFor(request: FastifyRequest, deviceId: string | undefined, scope: Scope): string {
  const { principal } = request;
  if (principal?.kind === 'device' && principal.deviceId === deviceId) return principal.organizationId;
  return requireScope(request, scope).organizationId;
}

/** Devices over REST: what an organization sees of its own, and what published clients say of themselves. */
export function registerDeviceRoutes(app: App, { devices }: DeviceRoutesOptions): void {
  const records: DeviceRecords = devices.records;

  app.get('/api/v1/devices', { schema: { querystring: ListQuery } }, async (request) => {
    const { organizationId } = requireScope(request, 'devices:read');
    const { status, limit = 100, offset = 0 } = request.query;
    const found = await records.list(organizationId, { limit, offset, ...(status === undefined ? {} : { status }) });
    return { devices: found.devices.map(view), total: found.total, limit, offset };
  });

  app.get('/api/v1/devices/:id', { schema: { params: DeviceParams } }, async (request) => {
    const organizationId = organizationFor(request, request.params.id, 'devices:read');
    return view(await records.find(organizationId, request.params.id));
  });

  app.post('/api/v1/devices/:id/revoke', { schema: { params: DeviceParams } }, async (request) => {
    const { organizationId } = requireScope(request, 'devices:write');
    const { id } = await records.find(organizationId, request.params.id);
    await devices.revoke(organizationId, id);
    return view(await records.find(organizationId, id));
  });

  app.post('/api/v1/devices/register', { schema: { body: Registration } }, async (request, reply) => {
    const { organizationId } = requireScope(request, 'devices:register');
    const device = await records.register(organizationId, request.body.device_identifier, facts(request.body));
    reply.code(201);
    return { ...view(device), status: 'active', metadata: {} };
  });

  const config = { audit: false } as const;
  app.post('/api/v1/devices/:id/heartbeat', { config, schema: { params: DeviceParams } }, async (request) => {
    const organizationId = organizationFor(request, request.params.id, 'devices:heartbeat');
    const now = await records.heartbeat(organizationId, request.params.id);
    return { status: 'ok', server_time: now.toISOString(), metadata: {} };
  });

  app.post('/api/v1/devices/heartbeat', { config, schema: { body: Heartbeat } }, async (request) => {
    const { organizationId } = requireScope(request, 'devices:heartbeat');
    const now = await records.heartbeat(organizationId, request.body.device_identifier);
    return { status: 'ok', server_time: now.toISOString(), metadata: {} };
  });
}
