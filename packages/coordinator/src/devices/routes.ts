import { OctomilError } from '@octomil/shared/errors';
import type { FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { Database } from '../database/database.js';
import { type App, commitChange, covers, requireScope } from '../http/index.js';
import type { DesiredSource } from './desired-source.js';
import { organizationFor, requireVoice } from './device-access.js';
import { factsOf } from './device-facts.js';
import { MAX_OFFSET, type RegisteredDevice } from './device-records.js';
import type { DeviceService } from './device-service.js';
import { deviceView } from './device-view.js';
import { checkLabels } from './enrollment.js';

export interface DeviceRoutesOptions {
  readonly database: Database;
  readonly devices: DeviceService;
  readonly desired: Pick<DesiredSource, 'devicesChanged'>;
}

const tags = ['devices'];
const Params = Type.Object({ id: Type.String({ maxLength: 140 }) });
const ListQuery = Type.Object({
  status: Type.Optional(Type.Union([Type.Literal('online'), Type.Literal('offline'), Type.Literal('revoked')])),
  /** `name=value`; more than one when all must hold. */
  label: Type.Optional(
    Type.Union([Type.String({ maxLength: 600 }), Type.Array(Type.String({ maxLength: 600 }), { maxItems: 16 })]),
  ),
  /** Name or id. */
  group: Type.Optional(Type.String({ minLength: 1, maxLength: 1000 })),
  /** How the device identifier begins. */
  search: Type.Optional(Type.String({ minLength: 1, maxLength: 128 })),
  /** `next_cursor` of the page before. */
  cursor: Type.Optional(Type.String({ minLength: 1, maxLength: 140 })),
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, default: 100 })),
  /** For deeper pages, use the cursor. */
  offset: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_OFFSET, default: 0 })),
});
const Registration = Type.Object(
  {
    device_identifier: Type.String(),
    /** Sent by clients that want a token of their own. */
    installation_id: Type.Optional(Type.Union([Type.String(), Type.Null()])),
    feature_schema: Type.Optional(Type.Union([Type.Array(Type.String()), Type.Null()])),
  },
  { additionalProperties: true },
);
const Heartbeat = Type.Object({ device_identifier: Type.String() }, { additionalProperties: true });
const Patch = Type.Object(
  { labels: Type.Record(Type.String(), Type.Union([Type.String(), Type.Null()]), { maxProperties: 64 }) },
  { additionalProperties: false },
);
const config = { audit: false, idempotent: false } as const;

/** Devices over REST: what an organization sees of its own, and what published clients say of themselves. */
export function registerDeviceRoutes(app: App, { database, devices, desired }: DeviceRoutesOptions): void {
  const { records, tokens } = devices;

  app.get(
    '/api/v1/devices',
    { schema: { summary: 'List devices, newest first', tags, querystring: ListQuery } },
    async (request) => {
      const { organizationId } = requireScope(request, 'devices:read');
      const { label, group, limit = 100, offset = 0, ...exact } = request.query;
      const groupId = group === undefined ? undefined : (await devices.groups.get(organizationId, group)).id;
      const found = await records.list(organizationId, {
        ...exact,
        limit,
        offset,
        ...(label === undefined ? {} : { labels: readLabels([label].flat()) }),
        ...(groupId === undefined ? {} : { groupId }),
      });
      return {
        devices: found.devices.map(deviceView),
        total: found.total,
        total_is_exact: found.totalIsExact,
        next_cursor: found.nextCursor,
        limit,
        offset,
      };
    },
  );

  app.get('/api/v1/devices/:id', { schema: { summary: 'One device', tags, params: Params } }, async (request) => {
    const organizationId = organizationFor(request, request.params.id, 'devices:read');
    const { record, groups, models } = await records.details(organizationId, request.params.id);
    return { ...deviceView(record), groups, models };
  });

  app.patch(
    '/api/v1/devices/:id',
    {
      schema: { summary: "Set or take away labels; they win over the device's own", tags, params: Params, body: Patch },
    },
    async (request, reply) => {
      const { organizationId } = requireScope(request, 'devices:write');
      const { labels } = request.body;
      checkLabels(Object.fromEntries(Object.entries(labels).map(([name, value]) => [name, value ?? ''])));
      const device = await commitChange(request, reply, database, async (transaction) =>
        deviceView(await records.patchLabels(organizationId, request.params.id, labels, transaction)),
      );
      desired.devicesChanged([String(device['id'])]);
      return device;
    },
  );

  app.post(
    '/api/v1/devices/:id/revoke',
    { schema: { summary: 'End a device: its session, tokens and downloads, at once', tags, params: Params } },
    async (request) => {
      const { organizationId } = requireScope(request, 'devices:write');
      const { id } = await records.find(organizationId, request.params.id);
      await devices.revoke(organizationId, id);
      desired.devicesChanged([id]);
      return deviceView(await records.find(organizationId, id));
    },
  );

  app.post(
    '/api/v1/devices/register',
    {
      config: { idempotent: false },
      schema: { summary: 'Register a device, or find it again by its identifier', tags, body: Registration },
    },
    async (request, reply) => {
      const { body } = request;
      const device = await registeredBy(request, body.device_identifier);
      const wantsToken = typeof body.installation_id === 'string' || isNodeClient(request);
      // A device with a credential of its own is not spoken for by whoever holds the organization's key.
      const pair =
        wantsToken && device.identity === 'shared' && request.principal?.kind === 'key'
          ? await tokens.issue(device.id, ['devices:heartbeat', 'control:refresh', 'telemetry:write'])
          : undefined;
      // A device that is found again is no change, however often it says that it is there.
      request.auditNote = {
        changed: device.isNew || pair !== undefined,
        resource: `devices/${device.id}`,
        details: { new_device: device.isNew, tokens_issued: pair !== undefined },
      };
      desired.devicesChanged([device.id]);
      reply.code(201);
      return {
        ...deviceView(device),
        status: 'active',
        metadata: {},
        ...(pair === undefined
          ? {}
          : { access_token: pair.accessToken, expires_at: expiryFor(request, pair.accessExpiresAt) }),
      };
    },
  );

  const registeredBy = async (request: FastifyRequest, identifier: string): Promise<RegisteredDevice> => {
    const { principal } = request;
    const facts = factsOf(request.body);
    if (principal?.kind !== 'device') {
      return records.register(requireScope(request, 'devices:register').organizationId, identifier, facts);
    }
    const organizationId = organizationFor(request, principal.deviceId, 'devices:register');
    const own = await records.findActive(organizationId, principal.deviceId);
    if (own.identifier !== identifier) {
      throw new OctomilError('forbidden', `this token is of device ${own.identifier}, not of ${identifier}`);
    }
    await records.heartbeat(organizationId, own.id, facts);
    return { ...(await records.find(organizationId, own.id)), isNew: false };
  };

  const beat = async (request: FastifyRequest, organizationId: string, device: string) => {
    const { principal } = request;
    const narrow = principal?.kind === 'key' && !covers(principal.scopes, 'devices:write');
    if (narrow) requireVoice(request, await records.find(organizationId, device));
    const now = await records.heartbeat(organizationId, device, factsOf(request.body));
    return { status: 'ok', server_time: now.toISOString(), metadata: {} };
  };

  app.post(
    '/api/v1/devices/:id/heartbeat',
    { config, schema: { summary: 'Say that a device is alive, and how it is', tags, params: Params } },
    async (request) => {
      const { id } = request.params;
      return beat(request, organizationFor(request, id, 'devices:heartbeat'), id);
    },
  );

  app.post(
    '/api/v1/devices/heartbeat',
    { config, schema: { summary: 'The same, by device identifier', tags, body: Heartbeat } },
    async (request) => {
      const { principal } = request;
      const { device_identifier: identifier } = request.body;
      if (principal?.kind !== 'device') {
        return beat(request, requireScope(request, 'devices:heartbeat').organizationId, identifier);
      }
      const organizationId = organizationFor(request, principal.deviceId, 'devices:heartbeat');
      const { id } = await records.find(organizationId, identifier);
      return beat(request, organizationFor(request, id, 'devices:heartbeat'), id);
    },
  );
}

/** The Node client signs in by `X-API-Key`; the Python client sends everything as a bearer. */
function isNodeClient({ headers }: FastifyRequest): boolean {
  return headers.authorization === undefined && headers['x-api-key'] !== undefined;
}

/** The Python client takes seconds since 1970 and fails on text; the Node client takes text and fails on numbers. */
function expiryFor(request: FastifyRequest, at: Date): string | number {
  return isNodeClient(request) ? at.toISOString() : at.getTime() / 1000;
}

/** @throws `invalid_input` for what is not `name=value` */
function readLabels(labels: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    labels.map((label) => {
      const at = label.indexOf('=');
      if (at > 0 && label.isWellFormed()) return [label.slice(0, at), label.slice(at + 1)];
      throw new OctomilError(
        'invalid_input',
        `label ${JSON.stringify(label.slice(0, 100))} is not of the form name=value`,
        {
          details: { field: 'label' },
        },
      );
    }),
  );
}
