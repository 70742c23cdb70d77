import { randomUUID } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Federation, Groups, ModelRegistry, Organization } from '@octomil/sdk';
import { type Fleet, GENERATED_TARGET, startFleet } from '../fleet/fleet.js';
import { octomil } from './octomil-command.js';
import { inTerminal, type TerminalResult } from './terminal.js';

let fleet: Fleet;
let foreignKey: string;
beforeAll(async () => {
  fleet = await startFleet({ agents: 2 });
  await fleet.registry.ensureModel({ name: 'risk' });
  const { database, keys } = fleet.coordinator.context;
  const foreigners = randomUUID();
  await database.kysely.insertInto('organizations').values({ id: foreigners, name: 'foreigners' }).execute();
  foreignKey = (await keys.create(foreigners, 'theirs', ['admin'])).key;
}, 240_000);
afterAll(() => fleet.stop(), 60_000);

const TRAINING = {
  model: 'risk',
  architecture: 'logistic',
  target: GENERATED_TARGET,
  minUpdates: 2,
  rounds: 1,
  seed: 7,
} as const;

interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

async function request(method: string, path: string, key: string, body?: unknown): Promise<Answer> {
  const answer = await fetch(`${fleet.restUrl}${path}`, {
    method,
    headers: { authorization: `Bearer ${key}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await answer.text();
  return { status: answer.status, body: text.startsWith('{') ? (JSON.parse(text) as Record<string, unknown>) : {} };
}

function command(args: readonly string[], key = fleet.apiKey): Promise<TerminalResult> {
  return inTerminal(args, { OCTOMIL_API_BASE: fleet.apiBase, OCTOMIL_API_KEY: key });
}

const train = (...more: string[]) => [
  ...['train', '--federation', 'fleet', '--model', 'risk', '--architecture', 'logistic'],
  ...['--target', GENERATED_TARGET, '--rounds', '1', ...more],
];

test('a wrong key: 401 with a body that every client reads, and one line in the terminal', async () => {
  const wrong = `edg_${'x'.repeat(43)}`;
  const { status, body } = await request('GET', '/api/v1/models', wrong);
  expect(status).toBe(401);
  expect(body).toEqual({
    error: 'unauthorized',
    code: 'invalid_api_key',
    message: expect.stringMatching(/key/),
    detail: body['message'],
    retryable: false,
    category: 'auth',
    request_id: expect.any(String),
  });
  expect(JSON.stringify(body)).not.toContain(wrong);
  // Once as a process of its own; the other tests call the same program in this one.
  const environment = { OCTOMIL_API_BASE: fleet.apiBase, OCTOMIL_API_KEY: wrong };
  const { exitCode, err } = await octomil(train(), { environment });
  expect(exitCode).toBe(1);
  expect(err).toMatch(/^error \[invalid_api_key\]: .+$/m);
});

test('no key at all is said before anything is sent', async () => {
  const { exitCode, err } = await command(['models', 'list'], '');
  expect(exitCode).toBe(1);
  expect(err).toMatch(/^error \[invalid_api_key\]: .*OCTOMIL_API_KEY/m);
});

test('a revoked key stops working at once', async () => {
  const made = await fleet.organization.createKey({ name: 'short-lived', scopes: ['models:read'] });
  const registry = new ModelRegistry({ apiBase: fleet.apiBase, apiKey: String(made['key']) });
  expect(await registry.model('risk')).toMatchObject({ name: 'risk' });
  await expect(registry.ensureModel({ name: 'more' })).rejects.toMatchObject({
    code: 'forbidden',
    reason: expect.stringContaining('models:write'),
  });
  await fleet.organization.revokeKey(String(made['id']));
  await expect(registry.model('risk')).rejects.toMatchObject({ status: 401, code: 'invalid_api_key' });
});

test('whatever belongs to one organization does not exist for another, on every route', async () => {
  const run = await fleet.federation().start({ ...TRAINING });
  const result = await run.result();
  const [round] = await run.rounds();
  const version = await fleet.registry.version('risk', result.version);
  const [device] = await fleet.organization.listDevices();
  const [key] = await fleet.organization.listKeys();
  const federation = await fleet.federation().id();
  const rollout = await fleet.registry.createRollout({ modelId: 'risk', version: version.version });
  const group = await new Groups({ apiBase: fleet.apiBase, apiKey: fleet.apiKey }).create({ name: 'ours' });
  const byRoute: Readonly<Record<string, string>> = {
    models: result.modelId,
    training: result.modelId,
    sessions: run.sessionId,
    rounds: String(round?.roundId),
    devices: String(device?.['id'] ?? device?.['deviceId']),
    federations: federation,
    keys: String(key?.['id']),
    'api-keys': String(key?.['id']),
    versions: String(version['version']),
    artifacts: 'weights',
    rollouts: String(rollout.id),
    'device-groups': group.id,
    personalized: String(device?.['id']),
  };
  const { body: openApi } = await request('GET', '/openapi.json', foreignKey);
  const paths = openApi['paths'] as Record<string, Record<string, unknown>>;
  const tried: string[] = [];
  const wrong: string[] = [];
  for (const [template, methods] of Object.entries(paths)) {
    // Transfers and artifacts are for devices, by their credential and a ticket; uploads and downloads by a signature.
    if (!template.includes('{') || /v1\/(transfers|uploads|downloads|artifacts)\//.test(template)) continue;
    const path = template.replace(
      /([\w-]+)\/\{\w+\}/g,
      (_, before: string) => `${before}/${byRoute[before] ?? before}`,
    );
    for (const method of Object.keys(methods)) {
      const name = `${method.toUpperCase()} ${template}`;
      tried.push(name);
      const { status, body } = await request(method.toUpperCase(), path, foreignKey, bodyFor(method, template));
      if (status !== 404 || String(body['message']).includes('/openapi.json'))
        wrong.push(`${name} (${path}): ${status} ${JSON.stringify(body)}`);
    }
  }
  expect(wrong).toEqual([]);
  expect(tried.length).toBeGreaterThan(20);
  // Nothing of it happened.
  expect((await run.session()).status).toBe('completed');
  expect((await fleet.registry.version('risk', result.version)).status).toBe('published');
  expect((await fleet.organization.listDevices()).map((row) => row['status'])).toEqual(['online', 'online']);

  const theirs = { apiBase: fleet.apiBase, apiKey: foreignKey };
  await expect(new ModelRegistry(theirs).model('risk')).rejects.toMatchObject({ code: 'model_not_found' });
  expect(await new Organization(theirs).listDevices()).toEqual([]);
  expect(await new Organization(theirs).listSessions()).toEqual([]);
  expect((await new Organization(theirs).listKeys()).map((row) => row['name'])).toEqual(['theirs']);
  await expect(new Federation({ ...theirs, name: 'fleet' }).train({ ...TRAINING })).rejects.toMatchObject({
    code: 'model_not_found',
  });
}, 240_000);

/** A body that passes the schema, so that what is answered is about whose row it is. */
function bodyFor(method: string, template: string): unknown {
  if (method === 'get' || method === 'delete') return undefined;
  return BODIES.find(([ending]) => template.endsWith(ending))?.[1] ?? {};
}

const BODIES: readonly (readonly [ending: string, body: unknown])[] = [
  ['/upload-url', { version: '9.0.0', format: 'safetensors', filename: 'w.safetensors' }],
  ['/confirm-upload', { version: '9.0.0', format: 'safetensors', storage_key: 'uploads/x', file_size: 8 }],
  ['/versions', { version: '9.0.0', format: 'safetensors', storage_path: 'uploads/x' }],
  ['/metrics', { metrics: { accuracy: 1 } }],
  ['/conversions', { formats: ['onnx'] }],
  ['/rollouts', { version: '1.0.0' }],
  ['/update-percentage', { percentage: 50 }],
  ['/invite', { org_ids: ['org'] }],
  ['/federations/{id}/models', { model_id: 'risk' }],
  ['/shared-identities', { allowed: true }],
  ['/personalized/{device_id}', { weights_data: 'AAAA' }],
  ['/devices/{id}', { labels: {} }],
  ['/devices', { devices: ['site-1'] }],
  ['/devices/remove', { devices: ['site-1'] }],
];

test.each([
  ['an unknown model', ['--model', 'nobody'], /^error \[model_not_found\]: there is no model "nobody"/m],
  ['an unknown base version', ['--base-version', '9.9.9'], /^error \[version_not_found\]: .*9\.9\.9/m],
  [
    'an unknown algorithm',
    ['--algorithm', 'fedmagic'],
    /^error \[invalid_input\]: .*fedmagic.*fedavg.*fedprox.*fedavgm.*fedadam.*fedyogi.*fedadagrad/m,
  ],
  [
    'an algorithm option that it has not',
    ['--algorithm-option', 'momentum=2'],
    /^error \[invalid_input\]: .*momentum/m,
  ],
  [
    'more updates than devices',
    ['--min-updates', '7'],
    /^error \[insufficient_devices\]: min_updates is 7, but only 2 /m,
  ],
  ['a target rule that is none', ['--target', 'num>'], /^error \[invalid_input\]: .*num>/m],
  ['an architecture that is none', ['--architecture', 'forest'], /^error \[invalid_input\]: .*forest.*logistic/m],
  ['a version that is none', ['--new-version', 'two'], /^error \[invalid_input\]: .*two.*semantic/m],
  [
    'a label that no device has',
    ['--label', 'ward=7'],
    /^error \[insufficient_devices\]: .*only 0 .*site-1: its label ward/m,
  ],
])('%s: exit code 1 and why', async (_what, more, message) => {
  const before = await fleet.organization.listSessions();
  const { exitCode, err, out } = await command(train(...more));
  expect({ exitCode, err }).toMatchObject({ exitCode: 1, err: expect.stringMatching(message) });
  expect(err.trim().split('\n')).toHaveLength(1);
  expect(out).toBe('');
  expect(await fleet.organization.listSessions()).toHaveLength(before.length);
});

test('nonsense on the command line is exit code 2 before anything is asked', async () => {
  const { exitCode, err } = await command(train('--rounds', 'many'));
  expect(exitCode).toBe(2);
  expect(err).toMatch(/--rounds/);
});

test('a body that is wrong in one place names it, its value and its limits', async () => {
  const { status, body } = await request('POST', '/api/v1/training/sessions', fleet.apiKey, {
    model: 'risk',
    rounds: 0,
  });
  expect(status).toBe(400);
  expect(body).toMatchObject({ code: 'invalid_input', message: expect.stringMatching(/rounds = 0.*1 to 10000/) });
  const unknown = await request('POST', '/api/v1/training/sessions', fleet.apiKey, { model: 'risk', min_update: 2 });
  expect(unknown.body).toMatchObject({
    code: 'invalid_input',
    message: expect.stringMatching(/min_update\b.*min_updates/),
  });
});

test('an unknown version to pull leaves no file', async () => {
  const file = join(fleet.folder, 'none.safetensors');
  const { exitCode, err } = await command(['pull', 'risk', '--version', '9.9.9', '--output', file]);
  expect(exitCode).toBe(1);
  expect(err).toMatch(/^error \[version_not_found\]: /m);
  expect((await readdir(fleet.folder)).filter((name) => name.includes('none'))).toEqual([]);
});
