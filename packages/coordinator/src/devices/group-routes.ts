import { Type } from 'typebox';
import { type App, requireScope } from '../http/index.js';
import type { DesiredSource } from './desired-source.js';
import type { DeviceGroup } from './device-groups.js';
import { MAX_COUNTED, MAX_OFFSET } from './device-records.js';
import type { DeviceService } from './device-service.js';
import { deviceView } from './device-view.js';

const tags = ['device-groups'];
const Params = Type.Object({ id: Type.String({ maxLength: 1000 }) });
const MemberParams = Type.Object({ id: Type.String({ maxLength: 1000 }), device_id: Type.String({ maxLength: 1000 }) });
const Page = Type.Object({
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
  offset: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_OFFSET })),
});
const MemberPage = Type.Object({
  cursor: Type.Optional(Type.String({ minLength: 1, maxLength: 140 })),
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
  offset: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_OFFSET })),
});
const Name = Type.String({ minLength: 1, maxLength: 200, pattern: '\\S' });
const Description = Type.Optional(Type.String({ maxLength: 1000 }));
const Members = Type.Object({
  /** Ids or identifiers. */
  devices: Type.Array(Type.String({ minLength: 1, maxLength: 140 }), { minItems: 1, maxItems: 10_000 }),
});

function view(group: DeviceGroup): Record<string, unknown> {
  return {
    id: group.id,
    org_id: group.organizationId,
    name: group.name,
    description: group.description,
    device_count: Math.min(group.deviceCount, MAX_COUNTED),
    device_count_is_exact: group.deviceCount <= MAX_COUNTED,
    created_at: group.createdAt.toISOString(),
  };
}

export interface DeviceGroupRoutesOptions {
  readonly devices: DeviceService;
  readonly desired: Pick<DesiredSource, 'devicesChanged'>;
}

/** Groups of an organization's devices. */
export function registerDeviceGroupRoutes(app: App, { devices, desired }: DeviceGroupRoutesOptions): void {
  const { groups, records } = devices;
  const base = '/api/v1/device-groups';

  app.get(
    base,
    { schema: { summary: 'List the groups of devices by name', tags, querystring: Page } },
    async (request) => {
      const { organizationId } = requireScope(request, 'devices:read');
      const { limit = 100, offset = 0 } = request.query;
      return { groups: (await groups.list(organizationId, { limit, offset })).map(view), limit, offset };
    },
  );

  app.post(
    base,
    {
      schema: {
        summary: 'Make a group of devices',
        tags,
        body: Type.Object({ name: Name, description: Description }),
      },
    },
    async (request, reply) => {
      const { organizationId } = requireScope(request, 'devices:write');
      const { name, description = '' } = request.body;
      return reply.code(201).send(view(await groups.create(organizationId, { name, description })));
    },
  );

  app.get(`${base}/:id`, { schema: { summary: 'One group of devices', tags, params: Params } }, async (request) => {
    const { organizationId } = requireScope(request, 'devices:read');
    return view(await groups.get(organizationId, request.params.id));
  });

  app.patch(
    `${base}/:id`,
    {
      schema: {
        summary: 'Rename or describe a group of devices',
        tags,
        params: Params,
        body: Type.Object({ name: Type.Optional(Name), description: Description }),
      },
    },
    async (request) => {
      const { organizationId } = requireScope(request, 'devices:write');
      const { name, description } = request.body;
      const fields = { ...(name === undefined ? {} : { name }), ...(description === undefined ? {} : { description }) };
      return view(await groups.update(organizationId, request.params.id, fields));
    },
  );

  app.delete(
    `${base}/:id`,
    { schema: { summary: 'Delete a group; its devices stay', tags, params: Params } },
    async (request) => {
      const { organizationId } = requireScope(request, 'devices:write');
      const { id } = await groups.delete(organizationId, request.params.id);
      return { id, deleted: true };
    },
  );

  app.get(
    `${base}/:id/devices`,
    { schema: { summary: 'Devices of a group, newest first', tags, params: Params, querystring: MemberPage } },
    async (request) => {
      const { organizationId } = requireScope(request, 'devices:read');
      const { id } = await groups.get(organizationId, request.params.id);
      const { limit = 100, offset = 0, cursor } = request.query;
      const page = await records.list(organizationId, {
        groupId: id,
        limit,
        offset,
        ...(cursor === undefined ? {} : { cursor }),
      });
      return {
        devices: page.devices.map(deviceView),
        total: page.total,
        total_is_exact: page.totalIsExact,
        next_cursor: page.nextCursor,
        limit,
        offset,
      };
    },
  );

  const change = async (organizationId: string, name: string, how: 'add' | 'remove', ids: readonly string[]) => {
    const group = await groups.get(organizationId, name);
    const changed = await groups[how](group, ids);
    // What they should run may have changed with it.
    desired.devicesChanged(changed);
    return { ...view(await groups.get(organizationId, group.id)), changed: changed.length };
  };

  app.post(
    `${base}/:id/devices`,
    { schema: { summary: 'Add devices to a group: all of them or none', tags, params: Params, body: Members } },
    async (request) => {
      const { organizationId } = requireScope(request, 'devices:write');
      return change(organizationId, request.params.id, 'add', request.body.devices);
    },
  );

  app.post(
    `${base}/:id/devices/remove`,
    { schema: { summary: 'Take devices out of a group', tags, params: Params, body: Members } },
    async (request) => {
      const { organizationId } = requireScope(request, 'devices:write');
      return change(organizationId, request.params.id, 'remove', request.body.devices);
    },
  );

  app.delete(
    `${base}/:id/devices/:device_id`,
    { schema: { summary: 'Take one device out of a group', tags, params: MemberParams } },
    async (request) => {
      const { organizationId } = requireScope(request, 'devices:write');
      return change(organizationId, request.params.id, 'remove', [request.params.device_id]);
    },
  );
}
