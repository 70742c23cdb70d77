import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { RegistryClient, sha256 } from './testing/registry-client.js';

let client: RegistryClient;

beforeAll(async () => {
  client = await RegistryClient.start();
}, 240_000);
afterAll(() => client.stop());
beforeEach(() => client.newModel());

describe('models', () => {
  test('without limit and organization a page of 20; with the organization alone, all; 100 at most', async () => {
    for (let index = 0; index < 22; index++) await client.json('POST', '/models', { framework: 'pages' });
    const page = await client.json('GET', '/models?framework=pages');
    expect(page.body).toMatchObject({ total: 22, limit: 20, offset: 0 });
    expect(page.body['models']).toHaveLength(20);
    const all = await client.json('GET', '/models?framework=pages&org_id=default');
    expect(all.body['models']).toHaveLength(22);
    expect((await client.json('GET', '/models?framework=pages&limit=1&offset=21')).body['models']).toHaveLength(1);
    for (const query of ['limit=101', 'limit=0', 'limit=x', 'offset=-1', 'is_baseline=perhaps']) {
      const wrong = await client.json('GET', `/models?${query}`);
      expect(wrong).toMatchObject({ status: 400, body: { error: 'bad_request' } });
      expect(String(wrong.body['message'])).toContain(query.split('=')[0]);
    }
  });

  test('as documented: created without a name, listed by filters, changed, deleted', async () => {
    const created = await client.json('POST', '/models', {
      framework: 'pytorch',
      framework_version: '2.1.0',
      description: 'MNIST digit classifier - 3-layer CNN',
      is_baseline: true,
    });
    expect(created).toMatchObject({
      status: 201,
      body: { framework: 'pytorch', framework_version: '2.1.0', is_baseline: true, round_id: null, model_path: null },
    });
    expect(created.body['name']).toMatch(/^model-[0-9a-f]{10}$/);
    expect(created.body['created_at']).toMatch(/Z$/);
    const listed = await client.json('GET', '/models?framework=pytorch&is_baseline=true&limit=10');
    expect(listed.body).toMatchObject({ total: 1, models: [{ id: created.body['id'] }] });
    const path = `/models/${created.body['id']}`;
    expect(await client.json('PATCH', path, { name: 'digits', use_case: 'vision' })).toMatchObject({
      body: { name: 'digits', use_case: 'vision', framework: 'pytorch' },
    });
    expect(await client.json('GET', '/models?use_case=vision')).toMatchObject({ body: { total: 1 } });
    expect(await client.json('DELETE', path)).toMatchObject({ status: 200, body: { deleted: true } });
    expect(await client.json('GET', path)).toMatchObject({ status: 404, body: { code: 'model_not_found' } });
  });

  test('wrong fields are named', async () => {
    for (const [field, value] of Object.entries({
      name: 7,
      description: 'x'.repeat(1001),
      framework: {},
      is_baseline: 'perhaps',
    })) {
      const refused = await client.json('POST', '/models', { [field]: value });
      expect(refused).toMatchObject({ status: 400, body: { code: 'invalid_input' } });
      expect(String(refused.body['message'])).toContain(field);
    }
    expect(await client.json('PATCH', `/models/${client.modelId}`, { name: 'a/b' })).toMatchObject({ status: 400 });
  });

  test('names with spaces, slashes, unicode and great length in paths are found or cleanly not', async () => {
    await client.json('POST', '/models', { name: 'Größe 測試 model' });
    expect(await client.json('GET', `/models/${encodeURIComponent('größe 測試 model')}`)).toMatchObject({
      status: 200,
      body: { name: 'Größe 測試 model' },
    });
    for (const name of ['a%2Fb', 'x'.repeat(1000), '%F0%9F%98%80'.repeat(80), `${'%E6%B8%AC'.repeat(333)}x`, '%20']) {
      for (const path of [`/models/${name}`, `/models/${name}/versions/${name}`, `${client.base}/${name}/download`]) {
        expect([400, 404]).toContain((await client.json('GET', path)).status);
      }
    }
    expect([400, 404]).toContain((await client.json('GET', '/models/%E0%A4%A')).status);
  });

  test('what published clients read of an architecture stands beside our own', async () => {
    await client.coordinator.context.registry.setArchitecture(
      client.modelId,
      { name: 'logistic', output: { kind: 'multiclass', classes: 3 } },
      'num>0',
    );
    expect(await client.json('GET', `/models/${client.modelId}`)).toMatchObject({
      body: { architecture: { name: 'logistic', target_col: 'num', output_type: 'multiclass', output_dim: 3 } },
    });
  });
});

describe('a version', () => {
  test('is found by number, name and latest; published, given figures, deprecated, deleted', async () => {
    await client.upload({ version: '1.0.0' });
    await client.upload({ version: '1.1.0-rc.1' });
    expect(await client.json('GET', `${client.base}/2`)).toMatchObject({
      body: { version: '1.1.0-rc.1', sequence: 2 },
    });
    expect(await client.json('GET', `${client.base}/latest`)).toMatchObject({
      status: 404,
      body: { code: 'version_not_found' },
    });
    expect(await client.json('GET', `${client.base}/9`)).toMatchObject({ status: 404 });
    expect(await client.json('GET', `${client.base}/not-a-version`)).toMatchObject({ status: 404 });
    expect(await client.json('POST', `${client.base}/7.0.0/publish`, {})).toMatchObject({ status: 404 });
    expect(await client.json('POST', `${client.base}/1.0.0/publish`, {})).toMatchObject({
      body: { status: 'published' },
    });
    expect(await client.json('POST', `${client.base}/1/publish`)).toMatchObject({ status: 200 });
    expect(await client.json('GET', `${client.base}/latest`)).toMatchObject({ body: { version: '1.0.0' } });
    expect(await client.json('GET', `${client.base}?status=published`)).toMatchObject({
      body: { total: 1, versions: [{ version: '1.0.0' }], limit: 100, offset: 0 },
    });
    expect(await client.json('GET', `${client.base}?limit=1&offset=1`)).toMatchObject({
      body: { versions: [{ version: '1.0.0' }] },
    });
    expect(await client.json('GET', `${client.base}?status=wrong`)).toMatchObject({ status: 400 });
    await client.json('PATCH', `${client.base}/1.0.0/metrics`, { metrics: { accuracy: 0.8, loss: 0.5 } });
    expect(await client.json('PATCH', `${client.base}/1.0.0/metrics`, { metrics: { loss: 0.4 } })).toMatchObject({
      body: { metrics: { accuracy: 0.8, loss: 0.4 } },
    });
    const wrong = await client.json('PATCH', `${client.base}/1.0.0/metrics`, { metrics: 'good' });
    expect(wrong.status).toBe(400);
    expect(String(wrong.body['message'])).toContain('metrics');
    expect(await client.json('DELETE', `${client.base}/1.0.0`)).toMatchObject({
      status: 409,
      body: { details: { status: 'published' } },
    });
    expect(await client.json('POST', `${client.base}/1.0.0/deprecate`, {})).toMatchObject({
      body: { status: 'deprecated' },
    });
    expect(await client.json('POST', `${client.base}/1.0.0/publish`, {})).toMatchObject({
      status: 409,
      body: { details: { status: 'deprecated' } },
    });
    const { body } = await client.json('GET', `${client.base}/1.0.0`);
    expect(await client.json('DELETE', `${client.base}/1.0.0`)).toMatchObject({ status: 200, body: { deleted: true } });
    expect(await client.json('GET', `${client.base}/1.0.0`)).toMatchObject({ status: 404 });
    expect(await client.storedKeys(String(body['model_path']))).toEqual([]);
  });

  test('a file that two versions are made of goes with the last', async () => {
    const bytes = randomBytes(64);
    const path = `artifacts/${sha256(bytes)}`;
    await client.upload({ version: '1.0.0' }, bytes);
    await client.upload({ version: '2.0.0' }, bytes);
    await client.json('DELETE', `${client.base}/1.0.0`);
    expect(await client.storedKeys(path)).toEqual([path]);
    await client.json('DELETE', `/models/${client.modelId}`);
    expect(await client.storedKeys(path)).toEqual([]);
  });

  test('in use by a rollout or a device it stays, and so does its model', async () => {
    const { database, organizationId } = client.coordinator.context;
    const { body } = await client.upload({ version: '1.0.0' });
    const rollout = await database.kysely
      .insertInto('rollouts')
      .values({
        organization_id: organizationId,
        model_id: client.modelId,
        version_id: String(body['id']),
        previous_version_id: null,
        state: 'paused',
        share_ratio: 0.1,
        initial_ratio: 0.1,
        target_ratio: 1,
        increment_ratio: 0.1,
        advance_every_seconds: null,
        placement_offset: 0,
        selector: '{}',
        gates: '{}',
        reason_code: null,
        reason: null,
        created_by: 'key:test',
      })
      .returning('id')
      .executeTakeFirstOrThrow();
    for (const path of [`${client.base}/1.0.0`, `/models/${client.modelId}`]) {
      const refused = await client.json('DELETE', path);
      expect(refused).toMatchObject({ status: 409, body: { code: 'wrong_state', details: { kind: 'rollout' } } });
      expect(String(refused.body['message'])).toContain(`rollout ${rollout.id} (paused)`);
    }
    await database.kysely.updateTable('rollouts').set({ state: 'rolled_back' }).where('id', '=', rollout.id).execute();
    expect(await client.json('DELETE', `/models/${client.modelId}`)).toMatchObject({ status: 200 });
  });

  test('a converting version names the formats that publishing waits for, and their downloads why', async () => {
    const { database } = client.coordinator.context;
    const { body } = await client.upload({ version: '1.0.0' });
    const id = String(body['id']);
    await database.kysely.updateTable('versions').set({ status: 'converting' }).where('id', '=', id).execute();
    await database.kysely
      .insertInto('conversions')
      .values({
        version_id: id,
        format: 'tflite',
        state: 'failed',
        reason_code: 'conversion_failed',
        reason: 'no room',
        owner: null,
      })
      .execute();
    const refused = await client.json('POST', `${client.base}/1.0.0/publish`, {});
    expect(refused).toMatchObject({ status: 409, body: { details: { status: 'converting', formats: ['tflite'] } } });
    expect(String(refused.body['message'])).toContain('tflite is failed: no room');
    const missing = await client.json('GET', `${client.base}/1.0.0/download?format=tflite`);
    expect(missing).toMatchObject({
      status: 404,
      body: { code: 'format_not_ready', details: { state: 'failed', formats: ['pytorch'] } },
    });
    expect(String(missing.body['message'])).toContain('no room');
    // Somebody has the file after all.
    const brought = await client.upload({ version: '1.0.0' }, randomBytes(9), 'model.tflite');
    expect(brought).toMatchObject({ status: 201, body: { status: 'draft', conversions: [], format: 'pytorch' } });
    expect(await client.json('POST', `${client.base}/1.0.0/publish`, {})).toMatchObject({ status: 200 });
  });
});

test('lineage leads back to the first', async () => {
  const { database } = client.coordinator.context;
  const first = await client.upload({ version: '1.0.0' });
  const second = await client.upload({ version: '1.1.0' });
  await database.kysely
    .updateTable('versions')
    .set({ base_version_id: String(first.body['id']) })
    .where('id', '=', String(second.body['id']))
    .execute();
  const lineage = await client.json('GET', `${client.base}/1.1.0/lineage`);
  expect(lineage).toMatchObject({
    status: 200,
    body: {
      version: '1.1.0',
      chain: [
        { version: '1.1.0', origin: 'upload', rounds: 0, participants: 0 },
        { version: '1.0.0', base_version_id: null, digests: { pytorch: String(first.body['model_hash']).slice(7) } },
      ],
    },
  });
  expect(await client.json('DELETE', `${client.base}/1.0.0`)).toMatchObject({
    status: 409,
    body: { details: { kind: 'version' } },
  });
});

test('foreign models and versions are not found, by any route and with any key', async () => {
  await client.upload({ version: '1.0.0' });
  const { base, modelId } = client;
  const { body } = await client.form(`${base}/upload-url`, { version: '2.0.0', filename: 'a.pt' });
  const routes: readonly (readonly [string, string, unknown?])[] = [
    ['GET', `/models/${modelId}`],
    ['PATCH', `/models/${modelId}`, { description: 'mine' }],
    ['DELETE', `/models/${modelId}`],
    ['GET', base],
    ['POST', base, { version: '9.0.0', storage_path: 'artifacts/x', format: 'onnx' }],
    ['POST', `${base}/upload-url`, { version: '9.0.0', filename: 'a.pt' }],
    ['POST', `${base}/confirm-upload`, { version: '2.0.0', storage_key: body['storage_key'], file_size: 1 }],
    ['GET', `${base}/1.0.0`],
    ['DELETE', `${base}/1.0.0`],
    ['GET', `${base}/1.0.0/lineage`],
    ['POST', `${base}/1.0.0/publish`],
    ['POST', `${base}/1.0.0/deprecate`],
    ['PATCH', `${base}/1.0.0/metrics`, { metrics: {} }],
    ['GET', `${base}/1.0.0/download`],
    ['GET', `${base}/1.0.0/download-url?format=pytorch`],
    ['POST', '/registry/pull', { name: modelId, tag: '1.0.0', format: 'pytorch' }],
  ];
  await client.asOutsider(async () => {
    for (const [method, path, json] of routes) {
      expect([path, await client.json(method, path, json)]).toMatchObject([
        path,
        { status: 404, body: { code: 'model_not_found' } },
      ]);
    }
    expect((await client.upload({ version: '9.0.0' })).status).toBe(404);
    expect((await client.json('GET', '/models?org_id=x')).body).toMatchObject({ models: [], total: 0 });
  });
  const own = client.key;
  client.key = String((await client.json('POST', '/keys', { name: 'reader', scopes: ['models:read'] })).body['key']);
  try {
    for (const [method, path, json] of routes) {
      const writes = method !== 'GET' && path !== '/registry/pull';
      expect([path, (await client.json(method, path, json).catch(() => ({ status: 200 }))).status]).toEqual([
        path,
        writes ? 403 : 200,
      ]);
    }
    expect((await client.upload({ version: '9.0.0' })).status).toBe(403);
  } finally {
    client.key = own;
  }
});

test('what a federation shares its members can read, and only its owner change', async () => {
  await client.upload({ version: '1.0.0' });
  await client.json('POST', `${client.base}/1.0.0/publish`);
  await client.upload({ version: '1.1.0' });
  const { kysely } = client.coordinator.context.database;
  const { body } = await client.json('POST', '/federations', { name: 'sharing' });
  const federation = String(body['id']);
  await client.asOutsider(async (organizationId) => {
    const member = { federation_id: federation, organization_id: organizationId, status: 'invited' as const };
    await kysely
      .insertInto('federation_members')
      .values({ ...member, invited_by: null })
      .execute();
    const shared = {
      federation_id: federation,
      model_id: client.modelId,
      shared_by: client.coordinator.organizationId,
    };
    await kysely.insertInto('federation_models').values(shared).execute();
    expect(await client.json('GET', `/models/${client.modelId}`)).toMatchObject({ status: 404 });
    await kysely
      .updateTable('federation_members')
      .set({ status: 'active' })
      .where('organization_id', '=', organizationId)
      .execute();
    expect(await client.json('GET', `/models/${client.modelId}`)).toMatchObject({ status: 200 });
    expect((await client.download(`${client.base}/1.0.0/download`)).status).toBe(200);
    // A draft is the owner's alone.
    expect((await client.download(`${client.base}/1.1.0/download`)).status).toBe(404);
    expect(await client.json('DELETE', `/models/${client.modelId}`)).toMatchObject({ status: 403 });
    expect(await client.json('POST', `${client.base}/1.0.0/publish`)).toMatchObject({ status: 403 });
  });
  expect(await client.json('DELETE', `/models/${client.modelId}`)).toMatchObject({ status: 200 });
});

test('a trained model leaves its trainings when it is deleted, and its name is free', async () => {
  const { kysely } = client.coordinator.context.database;
  const { body: model } = await client.json('GET', `/models/${client.modelId}`);
  const made = await client.upload({ version: '1.0.0' });
  const { body: federation } = await client.json('POST', '/federations', { name: 'training' });
  const session = {
    id: client.modelId,
    organization_id: client.coordinator.organizationId,
    federation_id: String(federation['id']),
    model_id: client.modelId,
    config: '{}',
    base_version_id: String(made.body['id']),
    new_version: null,
    result_version_id: null,
    feature_spec_hash: null,
    reason_code: null,
    reason: null,
    created_by: 'key:test',
  };
  await kysely
    .insertInto('training_sessions')
    .values({ ...session, state: 'paused', admission: 'assigned' })
    .execute();
  for (const path of [`/models/${client.modelId}`, `${client.base}/1.0.0`]) {
    expect(await client.json('DELETE', path)).toMatchObject({
      status: 409,
      body: { details: { kind: 'training_session' } },
    });
  }
  await kysely.updateTable('training_sessions').set({ state: 'cancelled' }).where('id', '=', session.id).execute();
  expect(await client.json('DELETE', `/models/${client.modelId}`)).toMatchObject({ status: 200 });
  for (const name of [client.modelId, String(model['name'])]) {
    expect(await client.json('GET', `/models/${encodeURIComponent(name)}`)).toMatchObject({ status: 404 });
  }
  expect(await client.storedKeys(String(made.body['model_path']))).toEqual([]);
  expect(await client.json('POST', '/models', { name: model['name'] })).toMatchObject({ status: 201 });
  const kept = await kysely.selectFrom('training_sessions').selectAll().where('id', '=', session.id).execute();
  expect(kept).toMatchObject([{ base_version_id: null, state: 'cancelled' }]);
});
