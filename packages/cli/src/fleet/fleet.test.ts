import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Federation, type TrainingEvent, type TrainingRun } from '@octomil/sdk';
import { entryPoint } from '@octomil/shared/runtime';
import { decodeWeights } from '@octomil/shared/tensors';
import { type Fleet, GENERATED_TARGET, startFleet } from './fleet.js';

let fleet: Fleet;
beforeAll(async () => {
  fleet = await startFleet({
    agents: [
      { name: 'site-1' },
      { name: 'site-2' },
      { name: 'site-3' },
      { name: 'closed', policy: { allow: [] }, labels: { kind: 'archive' } },
    ],
  });
  await fleet.registry.ensureModel({ name: 'risk' });
}, 240_000);
afterAll(() => fleet.stop(), 60_000);

const TRAINING = {
  model: 'risk',
  architecture: 'logistic',
  target: GENERATED_TARGET,
  minUpdates: 3,
  seed: 7,
  local: { epochs: 1, batchSize: 32, learningRate: 0.1, optimizer: 'sgd' },
} as const;

test('three sites train three rounds; the version has its lineage, its metrics and the promised bytes', async () => {
  const events: TrainingEvent[] = [];
  const result = await fleet.federation().train({ ...TRAINING, rounds: 3, onEvent: (event) => events.push(event) });
  expect(result).toMatchObject({ status: 'completed', version: '1.0.0' });
  expect(result.rounds.map((round) => [round.number, round.state])).toEqual([
    [1, 'completed'],
    [2, 'completed'],
    [3, 'completed'],
  ]);
  expect(Object.keys(result.metrics?.sites ?? {}).sort()).toEqual(['site-1', 'site-2', 'site-3']);
  expect(result.metrics?.overall?.auc).toBeGreaterThan(0.6);
  expect(result.rounds.at(-1)?.metrics).toEqual(result.metrics);
  expect(events.at(-1)?.type).toBe('end');
  expect(new Set(events.map((event) => event.id)).size).toBe(events.length);

  const pulled = await fleet.registry.pullModel({ model: 'risk', version: '1.0.0' });
  expect(createHash('sha256').update(pulled.bytes).digest('hex')).toBe(result.digest);
  expect(decodeWeights(pulled.bytes).length).toBeGreaterThan(0);
  const version = await fleet.registry.version('risk', '1.0.0');
  expect(version.status).toBe('published');
  expect(version['lineage']).toMatchObject({ strategy: 'fedavg' });
}, 240_000);

test('the next training starts from that version and makes the one after it', async () => {
  const result = await fleet.federation().train({ ...TRAINING, rounds: 1, publish: false, algorithm: 'fedprox' });
  const made = await fleet.registry.version('risk', result.version);
  const base = await fleet.registry.version('risk', '1.0.0');
  expect(made).toMatchObject({ status: 'draft', baseVersionId: base['id'] });
  expect(result.version).not.toBe('1.0.0');
}, 240_000);

async function firstEvent(run: TrainingRun, type: string): Promise<void> {
  for await (const event of run.events()) if (event.type === type) return;
}

test('a training waits for a lost agent and goes on when it is back', async () => {
  await fleet.agent('site-3').stop();
  const run = await fleet.federation().start({ ...TRAINING, rounds: 2 });
  await firstEvent(run, 'round');
  await fleet.agent('site-3').restart();
  const result = await run.result();
  expect(Object.keys(result.metrics?.sites ?? {})).toContain('site-3');
}, 240_000);

test('a cancelled training tells whoever waits for it, and leaves no version', async () => {
  const before = (await fleet.registry.versions('risk')).length;
  await fleet.agent('site-2').stop();
  try {
    const run = await fleet.federation().start({ ...TRAINING, rounds: 50 });
    const result = run.result();
    await firstEvent(run, 'round');
    await run.cancel();
    await expect(result).rejects.toMatchObject({ code: 'cancelled', details: { status: 'cancelled' } });
    await expect(run.resume()).rejects.toMatchObject({ code: 'wrong_state' });
  } finally {
    await fleet.agent('site-2').restart();
  }
  expect(await fleet.registry.versions('risk')).toHaveLength(before);
}, 240_000);

test('a name that is mistyped makes no federation, neither in a failing training nor in a dry run that nobody answers', async () => {
  const mistyped = fleet.federation('fleeet');
  await expect(mistyped.train({ ...TRAINING, minUpdates: 9 })).rejects.toMatchObject({ code: 'insufficient_devices' });
  const dry = await mistyped.train({ ...TRAINING, selector: { site: 'nowhere' }, dryRun: true });
  expect(dry.sites.map(({ eligible, reasonCode }) => [eligible, reasonCode])).toEqual(
    dry.sites.map(() => [false, 'selector']),
  );
  expect(dry.sites).toHaveLength(4);
  await expect(mistyped.sessions()).rejects.toMatchObject({ code: 'not_found' });
});

test('more updates than devices could ever give are refused, with their number', async () => {
  const training = fleet.federation().train({ ...TRAINING, minUpdates: 9 });
  await expect(training).rejects.toMatchObject({
    code: 'insufficient_devices',
    reason: expect.stringMatching(/\b3\b/),
  });
});

test.each([
  [{ model: 'nobody' }, 'model_not_found'],
  [{ baseVersion: '9.9.9' }, 'version_not_found'],
  [{ algorithm: 'fedmagic' }, 'invalid_input'],
])('refuses %j', async (change, code) => {
  await expect(fleet.federation().train({ ...TRAINING, ...change })).rejects.toMatchObject({ code });
});

test('a wrong key is told so', async () => {
  const stranger = new Federation({ apiBase: fleet.apiBase, apiKey: `edg_${'x'.repeat(43)}`, name: 'fleet' });
  await expect(stranger.train(TRAINING)).rejects.toMatchObject({ status: 401 });
});

test('a dry run shows who would take part, who refuses by which rule, and who has which column', async () => {
  const report = await fleet.federation().train({ ...TRAINING, dryRun: true });
  const bySite = Object.fromEntries(report.sites.map((site) => [site.name, site]));
  expect(bySite['site-1']).toMatchObject({ eligible: true, reason: null });
  expect(bySite['closed']).toMatchObject({ eligible: false, reason: expect.any(String) });
  const columns = report['columns'] as { column: string; sites: Record<string, number | null> }[];
  // The generated hospitals, in order: one lacks max_heart_rate, one cholesterol.
  expect(columns.find(({ column }) => column === 'max_heart_rate')?.sites).toMatchObject({ 'site-1': null });
  expect(columns.find(({ column }) => column === 'age')?.sites).toMatchObject({ 'site-1': 1, 'site-2': 1 });
}, 240_000);

/** The real command against this fleet. */
function octomil(...args: string[]): Promise<string> {
  const main = entryPoint(import.meta.url, '../main');
  return new Promise((resolve, reject) => {
    const env = { ...process.env, OCTOMIL_API_BASE: fleet.apiBase, OCTOMIL_API_KEY: fleet.apiKey };
    execFile(
      process.execPath,
      [...main.execArgv, main.path, ...args],
      { env, cwd: fleet.folder },
      (error, out, err) => {
        if (error === null) resolve(out);
        else reject(new Error(`${out}\n${err}`, { cause: error }));
      },
    );
  });
}

test('the command line trains, shows what happened and pulls', async () => {
  const request = ['--model', 'risk', '--federation', 'fleet', '--target', GENERATED_TARGET, '--min-updates', '3'];
  const dry = await octomil('train', ...request, '--dry-run');
  expect(dry).toMatch(/closed +no/);
  expect(dry).toMatch(/site-1 +yes/);
  expect(dry).toMatch(/max_heart_rate +–/);

  const trained = await octomil('train', ...request, '--rounds', '1', '--new-version', '3.0.0', '--json');
  const lines = trained
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  const result = lines.at(-1) as { event: string; version: string; digest: string; sessionId: string };
  expect(result).toMatchObject({ event: 'result', version: '3.0.0' });
  expect(lines.map((line) => line['event'])).toEqual(expect.arrayContaining(['round', 'update', 'version', 'end']));

  const plain = await octomil('train', ...request, '--rounds', '1');
  expect(plain).toMatch(/round 1\/1: loss \d\.\d+ {2}accuracy/);
  expect(plain).toMatch(/SHA-256 [0-9a-f]{64}/);

  const sessions = JSON.parse(await octomil('sessions', 'list', '--json')) as { sessionId: string; status: string }[];
  expect(sessions.find(({ sessionId }) => sessionId === result.sessionId)?.status).toBe('completed');
  expect(await octomil('rounds', 'list', result.sessionId)).toMatch(/train +completed/);

  const file = join(fleet.folder, 'risk.safetensors');
  await octomil('pull', 'risk', '--version', '3.0.0', '--output', file);
  expect(
    createHash('sha256')
      .update(await readFile(file))
      .digest('hex'),
  ).toBe(result.digest);
  await octomil('push', file, '--model', 'risk', '--version', '4.0.0');
  await octomil('versions', 'publish', 'risk', '4.0.0');
  expect(await octomil('models', 'show', 'risk')).toMatch(/4\.0\.0 +published/);
}, 240_000);

test('the command line makes, lists and revokes keys, mints tokens and shows devices', async () => {
  const made = JSON.parse(await octomil('keys', 'create', 'ci', '--json')) as { id: string; key: string };
  expect(made.key).toMatch(/^edg_/);
  const rotated = JSON.parse(await octomil('keys', 'rotate', made.id, '--json')) as { key: string };
  expect(rotated.key).not.toBe(made.key);
  await octomil('keys', 'revoke', made.id);
  const listed = await octomil('keys', 'list');
  expect(listed).toContain(made.id);
  expect(listed).not.toContain(made.key);
  expect(await octomil('enroll', '--device', 'hospital-009')).toMatch(
    /enrols hospital-009, once[\s\S]*enrollment_token: oet_/,
  );
  const minted = JSON.parse(await octomil('enroll', '--device', 'hospital-009', '--json')) as Record<string, unknown>;
  expect(minted['deviceIdentifier']).toBe('hospital-009');
  expect(await octomil('devices', 'list')).toMatch(/site-1 +online/);
}, 240_000);
