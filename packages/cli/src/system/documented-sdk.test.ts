// The snippets of the documented Python SDK page that are neither inference nor FederatedClient, in TypeScript, against a
// real coordinator and real agents. Only keys, names of files and what a fleet of two can do are others.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Client, type ClientOptions, Federation, ModelRegistry, OctomilClientError } from '@octomil/sdk';
import { type Fleet, GENERATED_TARGET, startFleet } from '../fleet/fleet.js';

const COPY = "require('node:fs').copyFileSync(process.argv[1], process.argv[2])";

let fleet: Fleet;
let folder: string;
let access: ClientOptions;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-documented-'));
  await writeFile(join(folder, 'model.pt'), 'weights');
  // Foreign files are converted by what an operator brings; these bring a copy.
  const command = [process.execPath, '-e', COPY, '{input}', '{output}'];
  const converters = ['onnx', 'tflite', 'coreml'].map((to) => ({ from: 'pytorch', to, command }));
  await writeFile(join(folder, 'converters.json'), JSON.stringify({ converters }));
  const environment = { OCTOMIL_CONVERTERS: join(folder, 'converters.json') };
  fleet = await startFleet({ agents: 2, coordinator: { environment } });
  access = { apiKey: fleet.apiKey, apiBase: fleet.apiBase };
}, 240_000);
afterAll(async () => {
  await fleet.stop();
  await rm(folder, { recursive: true });
}, 240_000);

/** A model with published versions, as the snippets take for granted. */
async function published(name: string, ...versions: string[]): Promise<string> {
  const { id } = await fleet.registry.ensureModel({ name });
  for (const version of versions) {
    const content = new Blob([`weights ${version}`]);
    await fleet.registry.uploadVersion({ modelId: id, version, fileName: 'model.onnx', content });
    await fleet.registry.publishVersion({ modelId: id, version });
  }
  return id;
}

test('quick start: deploy a new model version with a staged rollout', async () => {
  await published('my-classifier', '1.0.0', '2.0.0');
  // Deploy a new model version with a staged rollout
  const registry = new ModelRegistry(access);
  const rollout = await registry.createRollout({ modelId: 'my-classifier', version: '2.0.0', rolloutPercentage: 10 });
  expect(rollout).toMatchObject({ version: '2.0.0', status: 'active', rolloutPercentage: 10, targetPercentage: 100 });
  await registry.rollouts.delete({ modelId: 'my-classifier', rolloutId: rollout.id, force: true });
});

test('federation: train and deploy', async () => {
  await fleet.registry.ensureModel({ name: 'triage' });
  const first = await fleet.federation('my-federation').train({
    model: 'triage',
    rounds: 1,
    minUpdates: 2,
    newVersion: '1.0.0',
    architecture: 'logistic',
    target: GENERATED_TARGET,
  });
  expect(first.version).toBe('1.0.0');

  // Your org API key (edg_* prefix)
  const federation = new Federation({ ...access, name: 'my-federation' });
  const result = await federation.train({
    model: 'triage',
    rounds: 2,
    minUpdates: 2,
    algorithm: 'fedavg', // fedavg (default)
    baseVersion: '1.0.0', // default: latest
    newVersion: '1.1.0', // default: auto-generated
    updateFormat: 'delta', // "delta" or "weights"
  });
  expect(result).toMatchObject({ status: 'completed', version: '1.1.0' });
  expect(result.rounds).toHaveLength(2);

  const rollout = await federation.deploy({
    version: '1.1.0',
    rolloutPercentage: 10,
    targetPercentage: 100,
    incrementStep: 10,
  });
  expect(rollout).toMatchObject({
    modelId: result.modelId,
    version: '1.1.0',
    status: 'active',
    rolloutPercentage: 10,
    incrementStep: 10,
  });
}, 300_000);

test('ModelRegistry: version, upload, convert, publish, roll out', async () => {
  // Your org API key (edg_* prefix) - used for model registry operations
  const registry = new ModelRegistry(access);
  // Create model
  const model = await registry.ensureModel({
    name: 'mnist',
    framework: 'pytorch',
    useCase: 'image_classification',
  });
  // Upload version with auto-conversion
  const uploaded = await registry.uploadVersionFromPath({
    modelId: model.id,
    filePath: join(folder, 'model.pt'),
    version: '1.0.0',
    formats: 'onnx,tflite,coreml',
  });
  // "The version stays in converting state until all formats are ready."
  expect(uploaded.status).toBe('converting');
  await registry.conversions.ready({ modelId: model.id, version: '1.0.0', intervalMs: 100 });
  const states = await registry.conversions.status({ modelId: model.id, version: '1.0.0' });
  expect(states.map(({ format, state }) => `${format} ${state}`).sort()).toEqual([
    'coreml ready',
    'onnx ready',
    'tflite ready',
  ]);
  // Publish
  await registry.publishVersion({ modelId: model.id, version: '1.0.0' });
  // Rollout
  const rollout = await registry.createRollout({ modelId: model.id, version: '1.0.0', rolloutPercentage: 10 });
  expect(rollout.status).toBe('active');
  // "ensure_model is idempotent: it creates the model if it doesn't exist, or returns the existing one."
  await expect(registry.ensureModel({ name: 'MNIST' })).resolves.toMatchObject({
    id: model.id,
    useCase: 'image_classification',
  });
});

test('rollouts: create, manage, inspect, delete', async () => {
  await published('model-123', '1.0.0', '2.0.0');
  const client = new Client({ ...access, orgId: 'your-org-id' });
  // Create
  const rollout = await client.rollouts.create({ modelId: 'model-123', version: '2.0.0', rolloutPercentage: 10 });
  expect(rollout.status).toBe('draft');
  const at = { modelId: 'model-123', rolloutId: rollout.id } as const;
  // The page leaves out that what `create` makes is a draft.
  await client.rollouts.start(at);
  // Manage
  expect(await client.rollouts.advance(at)).toMatchObject({ status: 'active', rolloutPercentage: 20 });
  expect(await client.rollouts.pause(at)).toMatchObject({ status: 'paused' });
  expect(await client.rollouts.resume(at)).toMatchObject({ status: 'active' });
  expect(await client.rollouts.updatePercentage({ ...at, percentage: 50 })).toMatchObject({ rolloutPercentage: 50 });
  // Inspect
  expect(await client.rollouts.list({ modelId: 'model-123', statusFilter: 'active' })).toMatchObject([
    { id: rollout.id },
  ]);
  expect((await client.rollouts.getAffectedDevices(at)).devices.length).toBeLessThanOrEqual(2);
  const history = await client.rollouts.getStatusHistory(at);
  expect(history.map(({ toStatus }) => toStatus)).toEqual(['draft', 'active', 'active', 'paused', 'active', 'active']);
  expect(history.every(({ actor }) => actor.startsWith('key:'))).toBe(true);
  // Delete
  await client.rollouts.delete({ ...at, force: true });
  await expect(client.rollouts.get(at)).rejects.toMatchObject({ code: 'not_found', status: 404 });
});

test('error handling', async () => {
  const federation = new Federation({ ...access, name: 'my-federation' });
  let printed = '';
  try {
    await federation.train({ model: 'nonexistent' });
  } catch (error) {
    if (!(error instanceof OctomilClientError)) throw error;
    printed = `Training failed: ${error}`;
    expect(error).toMatchObject({ status: 404, code: 'model_not_found', retryClass: 'never' });
    expect(error.requestId).toEqual(expect.any(String));
  }
  expect(printed).toContain('Training failed: OctomilClientError: [model_not_found]');
});

test('the environment stands in for arguments, as the page says of Client', async () => {
  const names = { OCTOMIL_SERVER_KEY: fleet.apiKey, OCTOMIL_API_BASE: fleet.apiBase, OCTOMIL_ORG_ID: 'my-org' };
  const before = { ...process.env };
  try {
    delete process.env['OCTOMIL_API_KEY'];
    Object.assign(process.env, names);
    expect((await new Client().registry.listModels()).length).toBeGreaterThan(0);
  } finally {
    for (const name of ['OCTOMIL_API_KEY', ...Object.keys(names)]) {
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    }
  }
});
