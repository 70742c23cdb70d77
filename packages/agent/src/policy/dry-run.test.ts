import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { parseAgentConfig } from '../config/load-config.js';
import { dryRun } from './dry-run.js';
import { explainPolicy, ownTrainerStates } from './explain.js';
import { setPaused } from './paused.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-policy-'));
  const lines = Array.from({ length: 100 }, (_, row) => `${20 + (row % 50)},${row % 7},${row},${row % 2}`);
  await writeFile(join(folder, 'site.csv'), ['age,visits,secret,sick', ...lines].join('\n'));
  await writeFile(join(folder, 'train.py'), 'print(1)');
});
afterAll(() => rm(folder, { recursive: true }));

function configWith(policy: Record<string, unknown>) {
  const rule = {
    name: 'heart',
    federations: ['heart'],
    models: ['risk'],
    data_sets: ['*'],
    columns: ['age', 'visits', 'sick'],
  };
  return parseAgentConfig(
    {
      coordinator: 'grpc://127.0.0.1:1',
      device_identifier: 'd',
      state_dir: 'state',
      data_sets: { patients: 'site.csv' },
      trainers: { mine: { command: ['python3', 'train.py'] } },
      policy: { allow: [rule], ...policy },
    },
    { folder, environment: {} },
  );
}

const asked = { federation: 'heart', model: 'risk' };

test('a dry run shows what would leave: no column that the rule does not name, no exact count', async () => {
  const report = await dryRun(configWith({}), { ...asked, target: 'sick' });
  expect(report.rule).toBe('heart');
  expect(report.siteSummary.dataSets).toMatchObject([{ name: 'patients', rowCount: 100 }]);
  expect(JSON.stringify(report.statistics)).toContain('visits');
  expect(JSON.stringify(report)).not.toContain('secret');
  expect(report.update).toMatchObject({ sizeBytes: expect.any(Number), sampleCount: expect.any(Number) });
  await expect(dryRun(configWith({}), { ...asked, target: 'secret' })).rejects.toMatchObject({ code: 'policy_denied' });
  const paused = dryRun(configWith({ paused: true }), { ...asked, target: 'sick' });
  await expect(paused).rejects.toMatchObject({ code: 'policy_denied' });
}, 240_000);

// One pixel each, black and white.
const PIXELS = [
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4AWNgAAAAAgABc3UBGAAAAABJRU5ErkJggg==',
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4AWP4DwABAQEAiuJTfQAAAABJRU5ErkJggg==',
];

test('a dry run on pictures tells how many there are and how bright they are, and no name of a file', async () => {
  for (let i = 0; i < 60; i++) {
    const label = i % 2 === 0 ? 'ill' : 'well';
    await mkdir(join(folder, 'scans', label), { recursive: true });
    await writeFile(join(folder, 'scans', label, `smith${i}.png`), Buffer.from(PIXELS[i % 2] ?? '', 'base64'));
  }
  const rule = { name: 'scans', federations: ['*'], models: ['*'], data_sets: ['*'], columns: ['image', 'label'] };
  const config = parseAgentConfig(
    {
      ...{ coordinator: 'grpc://127.0.0.1:1', device_identifier: 'd', state_dir: 'state' },
      data_sets: { scans: { path: 'scans', images: {} } },
      policy: { allow: [rule] },
    },
    { folder, environment: {} },
  );
  const report = await dryRun(config, { ...asked, target: 'label' });
  expect(report.siteSummary.dataSets).toMatchObject([{ name: 'scans', rowCount: 60, format: 'images', problem: '' }]);
  expect(report.statistics).toMatchObject({
    columns: [
      { name: 'image', seen: 'image', count: 60, image: { moments: [{ count: 60, mean: 0.5, deviation: 0.5 }] } },
    ],
  });
  expect(JSON.stringify(report)).not.toContain('smith');
}, 240_000);

test('a pause holds until it is ended, over what the policy says', async () => {
  const config = configWith({});
  const question = { ...asked, dataSet: 'patients' };
  await setPaused(config.stateDir, true);
  expect(await explainPolicy(config, question)).toMatchObject({
    allowed: false,
    reason: expect.stringContaining('octomil agent resume'),
  });
  await setPaused(config.stateDir, false);
  expect(await explainPolicy(config, question)).toMatchObject({ allowed: true });
});

test('a decision is explained down to the digest of the code that would have to be allowed', async () => {
  const question = { ...asked, dataSet: 'patients' };
  expect(await explainPolicy(configWith({}), question)).toMatchObject({ allowed: true, rule: 'heart' });
  expect(await explainPolicy(configWith({}), { ...question, model: 'x' })).toMatchObject({
    allowed: false,
    rule: null,
  });
  expect(await explainPolicy(configWith({}), question, 'theirs')).toMatchObject({
    allowed: false,
    reason: expect.stringMatching(/no "theirs"/),
  });
  const [mine] = await ownTrainerStates(configWith({}));
  const sha256 = mine?.sha256 ?? '';
  expect(mine).toMatchObject({ trainer: 'mine', allowed: false, files: [{ name: 'train.py', sizeBytes: 8 }] });
  const refused = await explainPolicy(configWith({}), question, 'mine');
  expect(refused).toMatchObject({ allowed: false, codeSha256: sha256, reason: expect.stringContaining(sha256) });
  const allowing = configWith({ code: { allow: [{ trainer: 'mine', sha256 }] } });
  expect(await explainPolicy(allowing, question, 'mine')).toMatchObject({ allowed: true, codeSha256: sha256 });
});
