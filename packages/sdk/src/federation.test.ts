import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { Federation } from './federation.js';
import { FakeCoordinator } from './testing/fake-coordinator.js';

let coordinator: FakeCoordinator;
let federation: Federation;

beforeEach(async () => {
  coordinator = new FakeCoordinator();
  await coordinator.start();
  federation = new Federation({
    name: 'cardio & co',
    apiKey: 'edg_test',
    apiBase: coordinator.apiBase,
    timing: coordinator.timing,
  });
});
afterEach(() => coordinator.stop());

const END = 'id: 1\nevent: end\ndata: {"state":"any"}\n\n';

test('asks in the words of the wire, once per federation for its id', async () => {
  coordinator
    .json(200, [{ id: 'f1', name: 'cardio & co' }])
    .json(201, { session_id: 's1', status: 'running' })
    .json(201, { session_id: 's2', status: 'running' });
  const run = await federation.start({
    model: 'heart',
    minUpdates: 3,
    algorithm: 'fedprox',
    algorithmOptions: { proximalMu: 0.1 },
    missingMarkers: { cholLevel: [0] },
    local: { batchSize: 16, learningRate: 0.1 },
    holdout: { share: 0.2, entityColumn: 'patientId' },
    selector: { siteKind: 'hospital' },
  });
  await federation.start({ model: 'heart' });
  expect(run.sessionId).toBe('s1');
  expect(coordinator.requests.map((request) => request.path)).toEqual([
    '/api/v1/federations?name=cardio+%26+co',
    '/api/v1/training/sessions',
    '/api/v1/training/sessions',
  ]);
  // Names of columns and labels are data and stay as they are.
  expect(JSON.parse(coordinator.requests[1]?.body ?? '')).toEqual({
    federation: 'f1',
    model: 'heart',
    min_updates: 3,
    strategy: 'fedprox',
    strategy_options: { proximal_mu: 0.1 },
    missing_markers: { cholLevel: [0] },
    local: { batch_size: 16, learning_rate: 0.1 },
    holdout: { share: 0.2, entity_column: 'patientId' },
    selector: { siteKind: 'hospital' },
  });
});

test('makes the federation when there is none, and asks again after a failure', async () => {
  coordinator.json(500, {}).json(200, []).json(201, { id: 'f2' });
  await expect(federation.id()).rejects.toMatchObject({ status: 500 });
  await expect(federation.id()).resolves.toBe('f2');
  expect(coordinator.requests[2]).toMatchObject({ method: 'POST', body: '{"name":"cardio & co"}' });
});

test('a training asks for the federation that is not there, and no longer once it is', async () => {
  coordinator
    .json(200, [])
    .json(404, {})
    .json(200, [])
    .json(201, { session_id: 's1', status: 'running' })
    .json(200, [{ id: 'f3' }])
    .json(201, { session_id: 's2', status: 'running' });
  await expect(federation.start({ model: 'nobody' })).rejects.toMatchObject({ status: 404 });
  await federation.start({ model: 'heart' });
  await federation.start({ model: 'heart' });
  expect(coordinator.requests.filter(({ method }) => method === 'POST').map(({ path, body }) => [path, body])).toEqual([
    ['/api/v1/training/sessions', '{"federation":"cardio & co","model":"nobody","create_federation":true}'],
    ['/api/v1/training/sessions', '{"federation":"cardio & co","model":"heart","create_federation":true}'],
    ['/api/v1/training/sessions', '{"federation":"f3","model":"heart"}'],
  ]);
});

test('train fails with the reason of the session, which names the sites', async () => {
  const reason = 'round 1 had 1 of 3 updates: basel timed out, zurich refused (rule "none")';
  coordinator
    .json(200, [{ id: 'f1' }])
    .json(201, { session_id: 's1', status: 'running' })
    .events(END)
    .json(200, { session_id: 's1', status: 'failed', reason_code: 'insufficient_updates', reason });
  await expect(federation.train({ model: 'heart' })).rejects.toMatchObject({
    code: 'insufficient_updates',
    reason,
    details: { sessionId: 's1', status: 'failed' },
  });
});

test('a result is not lost because the coordinator is away for ten seconds when the session has ended', async () => {
  const away = (times: number) => {
    for (let time = 0; time < times; time += 1) coordinator.next((_request, response) => response.destroy());
  };
  coordinator
    .json(200, [{ id: 'f1' }])
    .json(201, { session_id: 's1', status: 'running' })
    .events(END);
  away(6);
  coordinator.json(200, { session_id: 's1', model_id: 'm1', status: 'completed', result_version: '1.0.0' });
  away(6);
  coordinator.json(200, { rounds: [] });
  away(6);
  coordinator.json(200, { artifacts: [{ format: 'safetensors', sha256: 'sha256:ab' }] });
  await expect(federation.train({ model: 'heart' })).resolves.toMatchObject({ version: '1.0.0', digest: 'ab' });
});

test('train does not wait for ever on a session that paused for want of updates', async () => {
  coordinator
    .json(200, [{ id: 'f1' }])
    .json(201, { session_id: 's1', status: 'running' })
    .events('id: 1\nevent: session\ndata: {"state":"paused"}\n\n')
    .json(200, { session_id: 's1', status: 'paused', reason_code: 'insufficient_updates', reason: 'basel is silent' });
  await expect(federation.train({ model: 'heart' })).rejects.toMatchObject({
    code: 'insufficient_updates',
    reason: expect.stringContaining('can be resumed'),
  });
});

test('aborting train cancels the session that it started', async () => {
  const controller = new AbortController();
  coordinator
    .json(200, [{ id: 'f1' }])
    .json(201, { session_id: 's1', status: 'running' })
    .next((_request, response) => {
      response.writeHead(200).write(': connected\n\n', () => controller.abort());
    })
    .json(200, { session_id: 's1', status: 'cancelled' });
  await expect(federation.train({ model: 'heart', signal: controller.signal })).rejects.toMatchObject({
    code: 'cancelled',
    reason: expect.stringMatching(/training session s1 is cancelled/),
  });
  expect(coordinator.requests.at(-1)).toMatchObject({ method: 'POST', path: '/api/v1/training/sessions/s1/cancel' });
});

test('aborting train names a session that could not be cancelled', async () => {
  const controller = new AbortController();
  coordinator
    .json(200, [{ id: 'f1' }])
    .json(201, { session_id: 's1', status: 'running' })
    .next((_request, response) => {
      response.writeHead(200).write(': connected\n\n', () => controller.abort());
    })
    .json(409, { code: 'wrong_state', message: 'session s1 is completed' });
  await expect(federation.train({ model: 'heart', signal: controller.signal })).rejects.toMatchObject({
    code: 'cancelled',
    reason: expect.stringMatching(/session s1 could not be cancelled.*s1 is completed.*octomil sessions show s1/),
  });
});

test('deploy takes what was trained last, and starts at once', async () => {
  coordinator
    .json(200, [{ id: 'f1' }])
    .json(201, { session_id: 's1', status: 'running' })
    .events(END)
    .json(200, { session_id: 's1', model_id: 'm1', status: 'completed', result_version: '1.1.0' })
    .json(200, { rounds: [] })
    .json(200, { artifacts: [] })
    .json(201, { id: 1, status: 'active' });
  await federation.train({ model: 'heart' });
  await expect(federation.deploy({ rolloutPercentage: 10 })).resolves.toMatchObject({ id: 1 });
  expect(coordinator.requests.at(-1)?.path).toBe('/api/v1/models/m1/rollouts');
  expect(JSON.parse(coordinator.requests.at(-1)?.body ?? '')).toEqual({
    version: '1.1.0',
    rollout_percentage: 10,
    start_immediately: true,
  });
});

test('deploy of another model takes its latest version, and without any model says so', async () => {
  await expect(federation.deploy({ version: '1.1.0' })).rejects.toMatchObject({ code: 'invalid_input' });
  coordinator.json(200, { version: '2.0.0' }).json(201, { id: 2, status: 'draft' });
  await federation.deploy({ model: 'lungs', startImmediately: false });
  expect(coordinator.requests.map(({ path }) => path)).toEqual([
    '/api/v1/models/lungs/versions/latest',
    '/api/v1/models/lungs/rollouts',
  ]);
  expect(JSON.parse(coordinator.requests[1]?.body ?? '')).toEqual({ version: '2.0.0', start_immediately: false });
});

test('invites, joins, names members and shares models', async () => {
  const { apiBase } = coordinator;
  const foreign = new Federation({ id: 'f9', apiKey: 'edg_test', apiBase, orgId: 'clinic' });
  const member = { org_id: 'clinic', status: 'invited', joined_at: null };
  coordinator
    .json(200, [member])
    .json(200, { ...member, status: 'active' })
    .json(200, [member])
    .json(201, {});
  coordinator.json(200, [{ id: 'm1', name: 'heart' }]);
  await expect(foreign.invite({ orgIds: ['clinic'] })).resolves.toMatchObject([{ orgId: 'clinic', status: 'invited' }]);
  await expect(foreign.join()).resolves.toMatchObject({ status: 'active' });
  await expect(foreign.members()).resolves.toHaveLength(1);
  await foreign.shareModel({ model: 'heart' });
  await expect(foreign.models()).resolves.toMatchObject([{ name: 'heart' }]);
  expect(coordinator.requests.map(({ method, path, body }) => `${method} ${path} ${body}`)).toEqual([
    'POST /api/v1/federations/f9/invite {"org_ids":["clinic"]}',
    'POST /api/v1/federations/f9/join {"org_id":"clinic"}',
    'GET /api/v1/federations/f9/members ',
    'POST /api/v1/federations/f9/models {"model_id":"heart"}',
    'GET /api/v1/federations/f9/models ',
  ]);
});
