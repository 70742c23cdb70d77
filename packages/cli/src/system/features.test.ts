import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { Client, type FeatureProposal } from '@octomil/sdk';
import { encodeRows } from '@octomil/shared/features';
import { parseModelDocument } from '@octomil/shared/models';
import { InProcessTrainer } from '@octomil/shared/training';
import { type Fleet, GENERATED_TARGET, startFleet } from '../fleet/fleet.js';
import { type CommandResult, octomil } from './octomil-command.js';

jest.setTimeout(120_000);

let fleet: Fleet;
let folder: string;
let client: Client;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-features-'));
  fleet = await startFleet({ agents: 2 });
  client = new Client({ apiBase: fleet.apiBase, apiKey: fleet.apiKey });
  await fleet.registry.ensureModel({ name: 'risk' });
}, 300_000);
afterAll(async () => {
  await fleet.stop();
  await rm(folder, { recursive: true, force: true });
}, 240_000);

function run(...args: string[]): Promise<CommandResult> {
  const environment = { OCTOMIL_API_BASE: fleet.apiBase, OCTOMIL_API_KEY: fleet.apiKey };
  return octomil(args, { environment, cwd: folder });
}

const OF = ['--model', 'risk', '--federation', 'fleet', '--target', GENERATED_TARGET];
const FAST = ['--architecture', 'logistic', '--rounds', '1', '--min-updates', '2', '--seed', '7', '--json'];

async function written(): Promise<FeatureProposal> {
  return JSON.parse(await readFile(join(folder, 'proposal.json'), 'utf8')) as FeatureProposal;
}

async function rewrite(proposal: FeatureProposal, change: (columns: Record<string, unknown>[]) => unknown[]) {
  const spec = { ...proposal.spec, columns: change([...proposal.spec.columns]) };
  await writeFile(join(folder, 'proposal.json'), JSON.stringify({ ...proposal, spec }));
}

test('features are proposed, looked at, edited and confirmed; training and prediction then encode by exactly that', async () => {
  const unconfirmed = await run('train', ...OF, ...FAST, '--features', 'confirmed');
  expect(unconfirmed.exitCode).toBe(1);
  expect(unconfirmed.err).toContain('[wrong_state]');
  expect(unconfirmed.err).toContain(
    `octomil features propose --model risk --federation fleet --target ${GENERATED_TARGET}`,
  );

  const proposed = await run('features', 'propose', ...OF, '--out', 'proposal.json');
  expect(proposed).toMatchObject({ exitCode: 0, err: '' });
  expect(proposed.out).toMatch(/cholesterol +numeric/);
  expect(proposed.out).toMatch(/chest_pain +categorical +– +atypical, /);
  expect(proposed.out).toMatch(/max_heart_rate .* all /);
  expect(proposed.out).toContain('Missing at site-1');
  expect(proposed.out).toContain('octomil features confirm ./proposal.json');
  const proposal = await written();
  const shown = await run('features', 'show', proposal.id);
  expect(shown.out).toContain(proposal.specHash.slice(0, 12));

  // What the sites contradict is refused, and the file can be mended.
  await rewrite(proposal, (columns) =>
    columns.map((column) => (column['name'] === 'chest_pain' ? { ...column, kind: 'numeric' } : column)),
  );
  const refused = await run('features', 'confirm', './proposal.json');
  expect(refused.exitCode).toBe(1);
  expect(refused.err).toMatch(/\[invalid_input\].*"chest_pain"/);
  await writeFile(join(folder, 'broken.json'), '{');
  expect((await run('features', 'confirm', './broken.json')).err).toContain('is not JSON');

  await rewrite(proposal, (columns) => columns.filter(({ name }) => name !== 'bmi'));
  const confirmed = await run('features', 'confirm', './proposal.json');
  expect(confirmed).toMatchObject({ exitCode: 0, err: '' });
  expect(confirmed.out).toContain('confirmed, as edited');
  const { spec, specHash } = await client.features.get(proposal.id);
  expect(specHash).not.toBe(proposal.specHash);
  expect(spec.columns.map(({ name }) => name)).toEqual(
    proposal.columns.map(({ name }) => name).filter((name) => name !== 'bmi'),
  );
  expect((await run('features', 'list', '--model', 'risk')).out).toContain('confirmed (edited)');

  const trained = await run('train', ...OF, ...FAST, '--features', 'confirmed');
  expect(trained).toMatchObject({ exitCode: 0 });
  const result = JSON.parse(trained.out.trim().split('\n').at(-1) ?? '') as { sessionId: string; version: string };
  const rounds = await fleet.federation().run(result.sessionId).rounds();
  expect(rounds.map(({ kind }) => kind)).toEqual(['train', 'evaluate']);
  const session = await fleet.federation().run(result.sessionId).session();
  expect(session['featureSpecHash']).toBe(specHash);
  expect((await run('versions', 'show', 'risk', result.version)).out).toContain(specHash);
  expect((await run('features', 'drift', result.sessionId)).exitCode).toBe(0);

  // The version carries the spec: rows are encoded by it wherever they are, and what it leaves out plays no part.
  for (const [format, name] of [
    ['model.json', 'model.json'],
    ['safetensors', 'weights'],
  ] as const) {
    const pulled = await fleet.registry.pullModel({ model: 'risk', version: result.version, format });
    await writeFile(join(folder, name), pulled.bytes);
  }
  const document = parseModelDocument(await readFile(join(folder, 'model.json')));
  expect(document.featureSpec).toEqual(spec);
  if (document.featureSpec === undefined) return;
  const patient = { age: 61, sex: 'male', cholesterol: 260, systolic_bp: 150, smoker: true };
  const encoded = encodeRows(document.featureSpec, [patient, { ...patient, bmi: 55 }, { ...patient, age: 30 }]);
  const rows = Array.from({ length: 3 }, (_, row) => [
    ...encoded.subarray(row * document.inputWidth, (row + 1) * document.inputWidth),
  ]);
  expect(encoded).toHaveLength(3 * document.inputWidth);
  const trainer = new InProcessTrainer();
  try {
    const { outputs } = await trainer.run({
      kind: 'predict',
      documentPath: join(folder, 'model.json'),
      weightsPath: join(folder, 'weights'),
      rows,
    });
    expect(outputs[1]).toEqual(outputs[0]);
    expect(outputs[2]).not.toEqual(outputs[0]);
  } finally {
    await trainer.stop();
  }
});

test.each([
  ['POST', '/features/proposals', {}, 400, 'model'],
  ['POST', '/features/proposals', { model: 'risk', colour: 'red' }, 400, 'colour'],
  ['POST', '/features/proposals', { model: 'risk', exclude: 'bmi' }, 400, 'exclude'],
  ['POST', '/features/proposals', { model: 'risk', target: 'x', hints: { bmi: { kind: 'blob' } } }, 400, '"bmi"'],
  ['POST', '/features/proposals', { model: 'nobody', target: 'x' }, 404, 'nobody'],
  ['POST', '/features/proposals', { model: 'risk', target: 'x', federation: 'nowhere' }, 404, 'nowhere'],
  [
    'POST',
    '/features/proposals',
    { model: 'risk', target: 'no such column', federation: 'fleet' },
    422,
    'no such column',
  ],
  ['GET', '/features/proposals?state=lost', undefined, 400, 'state'],
  ['GET', '/features/proposals?model=nobody', undefined, 404, 'nobody'],
  ['GET', `/features/proposals/${'x'.repeat(150)}`, undefined, 404, 'there is no proposal'],
  ['POST', '/features/proposals/a%2Fb%20ü/confirm', {}, 404, 'there is no proposal'],
  ['POST', '/features/proposals/none/confirm', { spec: 7 }, 400, 'spec'],
  ['POST', '/features/proposals/none/reject', { reason: 7 }, 400, 'reason'],
  ['GET', '/training/sessions/none/drift', undefined, 404, 'there is no training session'],
  [
    'POST',
    '/training/sessions',
    { model: 'risk', target: 'y', federation: 'fleet', feature_spec: 'confirmed' },
    409,
    'y',
  ],
  [
    'POST',
    '/training/sessions',
    { model: 'risk', target: 'y', federation: 'fleet', feature_spec: 'none' },
    404,
    'none',
  ],
])('%s %s with %j is answered with %d', async (method, path, body, status, words) => {
  await fleet.federation().id();
  const response = await fetch(`${fleet.apiBase}${path}`, {
    method,
    headers: { authorization: `Bearer ${fleet.apiKey}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  expect({ status: response.status, text }).toEqual({
    status,
    text: expect.stringContaining(words.replaceAll('"', String.raw`\"`)),
  });
});

test('rows that drift from the features are told while a site trains, and afterwards', async () => {
  const file = (name: string) => join(folder, `${name}.csv`);
  const table = (shift: number) =>
    [
      'age,pressure,ill',
      ...Array.from({ length: 200 }, (_, row) => `${30 + (row % 50) + shift},${100 + ((row * 7) % 40)},${row % 2}`),
    ].join('\n');
  for (const name of ['north', 'south']) await writeFile(file(name), `${table(0)}\n`);
  const drifting = await startFleet({
    agents: ['north', 'south'].map((name) => ({ name, dataSets: { default: file(name) } })),
  });
  try {
    await drifting.registry.ensureModel({ name: 'risk' });
    const { features } = new Client({ apiBase: drifting.apiBase, apiKey: drifting.apiKey });
    const federation = drifting.federation();
    const { id } = await features.propose({ model: 'risk', federation: await federation.id(), target: 'ill' });
    await features.confirm(id);
    // A unit that changed at one site, say.
    await drifting.agent('south').stop();
    await writeFile(file('south'), `${table(300)}\n`);
    await drifting.agent('south').restart();
    const told: unknown[] = [];
    const trained = await federation.train({
      ...{ model: 'risk', target: 'ill', architecture: 'logistic', rounds: 1, minUpdates: 2, featureSpec: id },
      onEvent: ({ type, data }) => {
        if (type === 'drift') told.push(data['sites']);
      },
    });
    expect(told).toEqual([{ south: expect.arrayContaining([expect.stringContaining('"age"')]) }]);
    const report = await features.drift(trained.sessionId);
    const unlike = { roundNumber: 1, reportingSites: 2, driftedSites: 1, newDriftedSites: 1, changedSites: 0 };
    expect(report).toMatchObject({ drifted: true, changed: false, rounds: [unlike] });
    expect(report.rounds[0]?.sites['south']?.warnings).toEqual(
      told.flatMap((sites) => (sites as { south: string[] }).south),
    );
    expect(report.rounds[0]?.sites['north']?.warnings).toEqual([]);
    const environment = { OCTOMIL_API_BASE: drifting.apiBase, OCTOMIL_API_KEY: drifting.apiKey };
    const shown = await octomil(['sessions', 'show', trained.sessionId], { environment });
    expect(shown.out).toContain("Rows unlike the others' at 1 of 2 sites in round 1");
    const listed = await octomil(['features', 'drift', trained.sessionId], { environment });
    expect(listed.out).toMatch(/1 +south +unlike the others +.*"age"/);
    // Another session under the same features: what was unlike the others still is, and what changes is told.
    await drifting.agent('north').stop();
    await writeFile(file('north'), `${table(60)}\n`);
    await drifting.agent('north').restart();
    const events: unknown[] = [];
    const again = await federation.train({
      ...{ model: 'risk', target: 'ill', architecture: 'logistic', rounds: 1, minUpdates: 2, featureSpec: id },
      onEvent: ({ type, data }) => {
        if (type === 'drift') events.push(data);
      },
    });
    const changes = [expect.stringMatching(/"age": its mean is \d.*above that of the site's first report/)];
    expect(events).toMatchObject([{ sites: {}, changed: { north: changes } }]);
    const later = await features.drift(again.sessionId);
    expect(later).toMatchObject({
      changed: true,
      rounds: [{ driftedSites: 2, newDriftedSites: 0, changedSites: 1, sites: { south: { changed: [] } } }],
    });
    const lines = await octomil(['sessions', 'show', again.sessionId], { environment });
    expect(lines.out).toContain('Rows have changed at 1 of 2 sites in round 1');
  } finally {
    await drifting.stop();
  }
});

test('sessions that name no features align columns by themselves, with hints where they are given', async () => {
  await fleet.registry.ensureModel({ name: 'by itself' });
  const training = { model: 'by itself', target: GENERATED_TARGET, rounds: 1, minUpdates: 2 } as const;
  const result = await fleet
    .federation()
    .train({ ...training, architecture: 'logistic', features: { hints: { bmi: { exclude: true } } } });
  expect((await fleet.federation().run(result.sessionId).rounds()).map(({ kind }) => kind)).toEqual([
    'describe',
    'train',
    'evaluate',
  ]);
  const { bytes } = await fleet.registry.pullModel({
    model: 'by itself',
    version: result.version,
    format: 'model.json',
  });
  const names = parseModelDocument(bytes).featureSpec?.columns.map(({ name }) => name);
  expect(names).toContain('age');
  expect(names).not.toContain('bmi');

  // A version that learned one encoding is not trained on by another.
  const proposal = await client.features.propose({ model: 'by itself', federation: 'fleet', target: GENERATED_TARGET });
  const confirmed = await run('features', 'confirm', proposal.id);
  expect(confirmed.out).toContain("--model 'by itself' --features confirmed --base-version initial");
  await expect(fleet.federation().train({ ...training, featureSpec: proposal.id })).rejects.toMatchObject({
    code: 'invalid_input',
    message: expect.stringContaining("--base-version initial (SDK: baseVersion: 'initial'"),
  });
  const dry = await fleet.federation().train({
    ...training,
    architecture: 'logistic',
    featureSpec: proposal.id,
    baseVersion: 'initial',
    dryRun: true,
  });
  expect(dry['featureSpec']).toMatchObject({ hash: proposal.specHash });
});
