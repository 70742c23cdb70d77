import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { FakeCoordinator } from '../testing/fake-coordinator.js';
import type { Rollout } from './rollout.js';
import { RolloutsApi } from './rollouts-api.js';

let coordinator: FakeCoordinator;
let rollouts: RolloutsApi;
beforeEach(async () => {
  coordinator = new FakeCoordinator();
  await coordinator.start();
  rollouts = new RolloutsApi({ apiKey: 'edg_t', apiBase: coordinator.apiBase, timing: coordinator.timing });
});
afterEach(() => coordinator.stop());

const AT = { modelId: 'model 1', rolloutId: 7 } as const;
const ANSWER = { id: '7', status: 'active', rollout_percentage: 10 };

test('create asks for a draft in the words of the wire; keys that are data stay as they are', async () => {
  coordinator.json(201, { ...ANSWER, status: 'draft', health: { max_metric_drop: { metric: 'auc', drop: 0.01 } } });
  const rollout = await rollouts.create({
    modelId: 'model 1',
    version: '2.0.0',
    rolloutPercentage: 10,
    advanceEverySeconds: 60,
    selector: { labels: { siteKind: 'clinic' }, capabilities: { memoryMb: { min: 4096 } } },
    health: { minDevices: 3, maxMetricDrop: { metric: 'auc', drop: 0.01 }, onBreach: 'pause' },
  });
  expect(coordinator.requests[0]?.path).toBe('/api/v1/models/model%201/rollouts');
  expect(JSON.parse(coordinator.requests[0]?.body ?? '')).toEqual({
    version: '2.0.0',
    start_immediately: false,
    rollout_percentage: 10,
    advance_every_seconds: 60,
    selector: { labels: { siteKind: 'clinic' }, capabilities: { memoryMb: { min: 4096 } } },
    health: { min_devices: 3, max_metric_drop: { metric: 'auc', drop: 0.01 }, on_breach: 'pause' },
  });
  expect(rollout).toMatchObject({ id: 7, rolloutPercentage: 10, health: { maxMetricDrop: { drop: 0.01 } } });
});

test.each([
  ['start', () => rollouts.start(AT), {}],
  ['advance', () => rollouts.advance({ ...AT, customIncrement: 25 }), { custom_increment: 25 }],
  ['pause', () => rollouts.pause({ ...AT, reason: 'lunch' }), { reason: 'lunch' }],
  ['resume', () => rollouts.resume(AT), {}],
  [
    'update-percentage',
    () => rollouts.updatePercentage({ ...AT, percentage: 50, reason: 'fine' }),
    { percentage: 50, reason: 'fine' },
  ],
  ['rollback', () => rollouts.rollback(AT), {}],
])('%s is a POST of its own', async (action, act, body) => {
  coordinator.json(200, ANSWER);
  await expect(act()).resolves.toMatchObject({ id: 7, status: 'active' });
  expect(coordinator.requests[0]).toMatchObject({
    method: 'POST',
    path: `/api/v1/models/model%201/rollouts/7/${action}`,
    body: JSON.stringify(body),
  });
});

test('lists, filters and deletes', async () => {
  coordinator.json(200, [ANSWER]).json(200, [ANSWER]).json(200, {});
  await expect(rollouts.list({ modelId: 'm', statusFilter: 'active' })).resolves.toHaveLength(1);
  await expect(rollouts.active({ modelId: 'm' })).resolves.toHaveLength(1);
  await rollouts.delete({ modelId: 'm', rolloutId: 7, force: true });
  expect(coordinator.requests.map(({ method, path }) => `${method} ${path}`)).toEqual([
    'GET /api/v1/models/m/rollouts?status_filter=active',
    'GET /api/v1/models/m/rollouts/active',
    'DELETE /api/v1/models/m/rollouts/7?force=true',
  ]);
});

test('affected devices come page after page', async () => {
  coordinator
    .json(200, { devices: [{ device_id: 'a' }, { device_id: 'b' }], next_cursor: 'b' })
    .json(200, { devices: [{ device_id: 'c' }], next_cursor: null });
  const seen: string[] = [];
  for await (const { deviceId } of rollouts.affectedDevices({ ...AT, pageSize: 2 })) seen.push(deviceId);
  expect(seen).toEqual(['a', 'b', 'c']);
  expect(coordinator.requests.map(({ path }) => path.replace(/^.*affected/, ''))).toEqual([
    '-devices?limit=2',
    '-devices?limit=2&cursor=b',
  ]);
});

test('watch shows each change once, until nothing changes any more', async () => {
  for (const [share, status] of [
    [10, 'active'],
    [10, 'active'],
    [20, 'active'],
    [20, 'rolling_back'],
    [0, 'rolled_back'],
  ]) {
    coordinator.json(200, { id: 7, status, rollout_percentage: share });
  }
  const seen: Rollout[] = [];
  for await (const rollout of rollouts.watch({ ...AT, intervalMs: 5 })) seen.push(rollout);
  expect(seen.map(({ status }) => status)).toEqual(['active', 'active', 'rolling_back', 'rolled_back']);
  expect(coordinator.waitsMs).toEqual([5, 5, 5, 5]);
});

test('watch ends with its signal', async () => {
  const controller = new AbortController();
  coordinator.json(200, ANSWER);
  const watching = rollouts.watch({ ...AT, signal: controller.signal });
  await watching.next();
  controller.abort();
  await expect(watching.next()).rejects.toMatchObject({ code: 'cancelled' });
});
