import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { encodeModelDocument, initialWeights, modelDocument, parseArchitecture } from '@octomil/shared/models';
import { encodeWeights, type NamedTensor } from '@octomil/shared/tensors';
import { type Fleet, startFleet } from '../fleet/fleet.js';
import { inTerminal, type TerminalResult } from './terminal.js';

const DOCUMENT = modelDocument(parseArchitecture({ name: 'mlp', hidden: [3] }), 4);
const WARDS = ['ward-1', 'ward-2', 'ward-3'];

let fleet: Fleet;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-story-'));
  fleet = await startFleet({ agents: WARDS.map((name) => ({ name })) });
  await mkdir(join(folder, 'empty'));
  await writeModel('good', (weight) => weight);
  await writeModel('better', (weight) => weight * 2);
  await writeModel('broken', () => Number.NaN);
}, 240_000);
afterAll(async () => {
  await fleet.stop();
  await rm(folder, { recursive: true });
}, 240_000);

async function writeModel(name: string, change: (weight: number) => number): Promise<void> {
  const weights = initialWeights(DOCUMENT.architecture, 4, 7).map(
    (tensor): NamedTensor => ({ ...tensor, data: tensor.data.map(change) }),
  );
  await mkdir(join(folder, name));
  await writeFile(join(folder, name, 'model.json'), encodeModelDocument(DOCUMENT));
  await writeFile(join(folder, name, 'model.safetensors'), encodeWeights(weights));
}

/** What a person types after `octomil`. */
function octomil(...args: string[]): Promise<TerminalResult> {
  return inTerminal(args, {
    OCTOMIL_API_BASE: fleet.apiBase,
    OCTOMIL_API_KEY: fleet.apiKey,
    OCTOMIL_CREDENTIALS: join(folder, 'home', 'credentials'),
  });
}

async function push(name: string, version: string): Promise<void> {
  const pushed = await octomil('push', join(folder, name), '-m', 'risk', '-v', version, '-f', 'onnx', '--publish');
  expect(pushed).toMatchObject({ exitCode: 0, out: expect.stringContaining(`risk ${version} is published.`) });
}

test('a version is pushed and deployed, a bad one after it is rolled back by itself, and the history says why', async () => {
  await push('good', '1.0.0');
  const versions = await octomil('versions', 'list', 'risk');
  expect(versions.out).toMatch(/1\.0\.0 +published +(?=.*safetensors)(?=.*model\.json)(?=.*onnx)/);

  const stages = ['--rollout', '40', '--increment', '60', '--every', '1'];
  const deployed = await octomil('deploy', 'risk', '-v', '1.0.0', ...stages, '--min-devices', '0', '--reason', 'first');
  expect(deployed).toMatchObject({ exitCode: 0, err: '' });
  expect(deployed.out).toMatch(/^Rollout \d+ of risk 1\.0\.0 is active: 40 % of the devices now, 100 % in the end\.$/m);
  const watched = await octomil('rollouts', 'watch', 'risk');
  expect(watched).toMatchObject({ exitCode: 0, err: '' });
  expect(watched.out).toMatch(/^stage \d+ {2}100 % {2}completed/m);

  for (const ward of WARDS) {
    await until(async () => /risk +1\.0\.0 +1\.0\.0 +active/.test((await octomil('devices', 'show', ward)).out));
  }

  await push('broken', '2.0.0');
  const bad = await octomil('deploy', 'risk', '--rollout', '100', '--watch');
  expect(bad.exitCode).toBe(1);
  expect(bad.out).toMatch(/Rollout \d+ of risk 2\.0\.0/);
  expect(bad.out).toMatch(/^stage \d+ {2}100 % {2}rolled_back.*could not activate the version/m);
  for (const ward of WARDS) {
    await until(async () => /risk +1\.0\.0 +1\.0\.0 +active/.test((await octomil('devices', 'show', ward)).out));
  }

  const history = await octomil('rollouts', 'history', 'risk');
  expect(history.out).toMatch(/key:\S+ +completed +100 %/);
  expect(history.out).toMatch(/coordinator +roll\w+ .*could not activate the version/);
  const listed = JSON.parse((await octomil('rollouts', 'list', 'risk', '--json')).out) as Record<string, unknown>[];
  expect(listed.map(({ version, status }) => [version, status])).toEqual([
    ['2.0.0', 'rolled_back'],
    ['1.0.0', 'completed'],
  ]);
  const audited = await octomil('audit', 'list', '--actor', 'coordinator');
  expect(audited.out).toMatch(/coordinator +rollout\./);
}, 300_000);

test('a rollout by hand: a draft for one group, started, raised, paused, resumed and rolled back', async () => {
  await push('better', '3.0.0');
  expect((await octomil('groups', 'create', 'pilots', '-d', 'who goes first')).exitCode).toBe(0);
  expect((await octomil('groups', 'add', 'pilots', 'ward-1', 'ward-2')).out).toBe('ward-1, ward-2 are in pilots.\n');
  expect((await octomil('groups', 'show', 'pilots')).out).toMatch(/ward-1 +online/);

  const draft = await octomil('deploy', 'risk', '-r', '10', '-g', 'pilots', '--min-devices', '0', '--draft');
  expect(draft.out).toMatch(/3\.0\.0 is a draft: 10 %/);
  const steps: [string[], RegExp][] = [
    [['start', 'risk'], /is active at 10 %/],
    [['advance', 'risk', '--to', '50', '--reason', 'looks well'], /is active at 50 %/],
    [['pause', 'risk', '--reason', 'weekend'], /is paused at 50 %/],
    [['resume', 'risk'], /is active at 50 %/],
    [['advance', 'risk', '--increment', '20'], /is active at 70 %/],
    [['rollback', 'risk', '--reason', 'changed our mind'], /is roll\w+ at \d+ %/],
  ];
  for (const [words, expected] of steps) {
    const { exitCode, out, err } = await octomil('rollouts', ...words);
    expect([words, exitCode, err]).toEqual([words, 0, '']);
    expect(out).toMatch(expected);
  }
  expect((await octomil('rollouts', 'history', 'risk')).out).toMatch(/paused +50 % +weekend/);
  expect((await octomil('rollouts', 'watch', 'risk')).exitCode).toBe(1);
  const again = await octomil('rollouts', 'advance', 'risk');
  expect(again).toMatchObject({ exitCode: 1, err: expect.stringMatching(/^error \[wrong_state\]: .*rolled_back/) });
  const [{ id }] = JSON.parse((await octomil('rollouts', 'list', 'risk', '--json')).out) as [{ id: number }];
  expect((await octomil('rollouts', 'delete', 'risk', String(id))).out).toBe(`Rollout ${id} is deleted.\n`);
}, 240_000);

test('what is pulled is what was pushed; what cannot be is said', async () => {
  const file = join(folder, 'pulled.safetensors');
  expect((await octomil('pull', 'risk', '-v', '1.0.0', '-o', file)).exitCode).toBe(0);
  expect(await readFile(file)).toEqual(await readFile(join(folder, 'good', 'model.safetensors')));
  // Once more, the same: nothing has to be sent, and nothing is changed.
  const again = await octomil('push', join(folder, 'good'), '-m', 'risk', '-v', '1.0.0');
  expect(again.out).toContain('risk 1.0.0 is published.');
  const other = await octomil('push', join(folder, 'better'), '-m', 'risk', '-v', '1.0.0');
  expect(other.err).toMatch(/^error \[conflict\]: risk 1\.0\.0 has another safetensors file/);
  for (const [words, message] of [
    [['pull', 'risk', '-f', 'coreml'], /format_not_ready|not_found/],
    [['push', join(folder, 'none'), '-m', 'risk'], /not_found\]: there is no file or folder/],
    [['push', join(folder, 'empty'), '-m', 'nothing'], /invalid_input\]: .* has no model file/],
    [['rollouts', 'show', 'risk', 'newest'], /invalid_input\]: a rollout is named by its number/],
    [['deploy', 'risk', '-v', '9.9.9'], /version_not_found/],
    [['deploy', 'risk', '--group', 'nobody'], /not_found\]: .*nobody/],
    [['devices', 'label', 'ward-1', 'site'], /invalid_input\]: label "site" is none/],
    [['models', 'update', 'risk'], /invalid_input\]: nothing to change/],
  ] as const) {
    const { exitCode, err } = await octomil(...words);
    expect([words, exitCode]).toEqual([words, 1]);
    expect(err).toMatch(message);
  }
}, 240_000);

async function until(condition: () => Promise<boolean>): Promise<void> {
  for (let looks = 0; !(await condition()); looks++) {
    expect([looks < 400, String(condition)]).toEqual([true, String(condition)]);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
