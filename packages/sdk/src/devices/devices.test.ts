import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { FakeCoordinator } from '../testing/fake-coordinator.js';
import { Devices } from './devices.js';
import { Groups } from './groups.js';

let coordinator: FakeCoordinator;
beforeEach(async () => {
  coordinator = new FakeCoordinator();
  await coordinator.start();
});
afterEach(() => coordinator.stop());

const options = () => ({ apiKey: 'edg_t', apiBase: coordinator.apiBase, timing: coordinator.timing });
const row = (index: number) => ({ id: `d${index}`, device_identifier: `ward-${index}`, status: 'online', labels: {} });

test('devices come page after page by cursor, with the filters on every page', async () => {
  const first = Array.from({ length: 1000 }, (_, index) => row(index));
  coordinator.json(200, { devices: first, next_cursor: 'd999' }).json(200, { devices: [row(1000)], next_cursor: null });
  const devices = await new Devices(options()).list({ status: 'online', labels: { land: 'ch', ward: 'a b' } });
  expect(devices).toHaveLength(1001);
  expect(devices.at(-1)).toMatchObject({ id: 'd1000', deviceIdentifier: 'ward-1000' });
  expect(coordinator.requests.map(({ path }) => path)).toEqual([
    '/api/v1/devices?status=online&label=land%3Dch&label=ward%3Da+b&limit=1000&offset=0',
    '/api/v1/devices?status=online&label=land%3Dch&label=ward%3Da+b&limit=1000&cursor=d999',
  ]);
});

test('a limit over several pages asks for the rest only', async () => {
  coordinator.json(200, { devices: Array.from({ length: 1000 }, (_, index) => row(index)), next_cursor: 'x' });
  coordinator.json(200, { devices: [row(1), row(2)], next_cursor: 'y' });
  await expect(new Devices(options()).list({ limit: 1002 })).resolves.toHaveLength(1002);
  expect(coordinator.requests[1]?.path).toBe('/api/v1/devices?limit=2&cursor=x');
});

test('labels are set and taken away; their names are data', async () => {
  coordinator.json(200, row(1));
  await new Devices(options()).setLabels({ deviceId: 'ward/1', labels: { siteKind: 'clinic', old: null } });
  expect(coordinator.requests[0]).toMatchObject({
    method: 'PATCH',
    path: '/api/v1/devices/ward%2F1',
    body: '{"labels":{"siteKind":"clinic","old":null}}',
  });
});

test('groups take devices in and let them go', async () => {
  const groups = new Groups(options());
  const answer = { id: 'g1', name: 'wards' };
  coordinator
    .json(201, answer)
    .json(200, answer)
    .json(200, answer)
    .json(200, { devices: [row(1)], next_cursor: null });
  await groups.create({ name: 'wards' });
  await groups.addDevices({ group: 'wards', devices: ['ward-1'] });
  await groups.removeDevices({ group: 'wards', devices: ['ward-2'] });
  for await (const { id } of groups.devices({ group: 'wards' })) expect(id).toBe('d1');
  expect(coordinator.requests.map(({ method, path, body }) => `${method} ${path} ${body}`)).toEqual([
    'POST /api/v1/device-groups {"name":"wards"}',
    'POST /api/v1/device-groups/wards/devices {"devices":["ward-1"]}',
    'POST /api/v1/device-groups/wards/devices/remove {"devices":["ward-2"]}',
    'GET /api/v1/device-groups/wards/devices?limit=1000&offset=0 ',
  ]);
});
