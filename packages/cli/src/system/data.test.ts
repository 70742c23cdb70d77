import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import type { TrainingOptions, TrainingResult } from '@octomil/sdk';
import { writeGeneratedSites } from '../demo/site-files.js';
import { type Fleet, startFleet } from '../fleet/fleet.js';
import { RecordedLog } from './recorded-log.js';
import { inTerminal } from './terminal.js';

jest.setTimeout(60_000);

const HEADER = 'age,pressure,outcome';

/** A hundred and twenty patients; the older ones are ill. */
function rows(
  change: (row: { age: unknown; pressure: unknown; outcome: unknown }, index: number) => object = (row) => row,
) {
  return Array.from({ length: 120 }, (_, index) =>
    Object.values(
      change({ age: 30.5 + index / 2, pressure: 110.25 + ((index * 7) % 30), outcome: index > 60 ? 1 : 0 }, index),
    ),
  );
}

function csv(table: readonly (readonly unknown[])[], header = HEADER): string {
  return `${[header, ...table.map((row) => row.join(','))].join('\n')}\n`;
}

const GOOD = csv(rows());
/** What is wrong with a site's only file, by the site's name. */
const FILES: Readonly<Record<string, string | Uint8Array>> = {
  ragged: GOOD.replace('\n35.5,', '\n35.5,1,2,3,4,'),
  empty: '',
  'header-only': `${HEADER}\n`,
  'no-target': csv(
    rows(({ age, pressure }) => [age, pressure]),
    'age,pressure',
  ),
  'one-class': csv(rows(({ age, pressure }) => [age, pressure, 0])),
  'text-in-number': csv(rows((row, index) => ({ ...row, pressure: index % 2 === 0 ? 'high' : 'low' }))),
  'half-text': csv(rows((row, index) => ({ ...row, pressure: index === 17 ? 'n/k' : row.pressure }))),
  garbage: new Uint8Array(4_000).map((_, index) => (index * 7919) % 256),
};

let fleet: Fleet;
let folder: string;
const log = new RecordedLog();

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-data-'));
  const file = (name: string) => join(folder, name);
  for (const [name, content] of Object.entries(FILES)) await writeFile(file(`${name}.csv`), content);
  for (const name of ['good-1', 'good-2', 'closed', 'turning']) await writeFile(file(`${name}.csv`), GOOD);
  const parquet = (await writeGeneratedSites(file('generated'), 3)).find(({ path }) => path.endsWith('.parquet'));
  const whole = await readFile(parquet?.path ?? '');
  await writeFile(file('cut-parquet.parquet'), whole.subarray(0, Math.floor(whole.length / 2)));
  const bad = [...Object.keys(FILES), 'cut-parquet', 'closed', 'turning', 'nowhere'];
  const agents = ['good-1', 'good-2', ...bad].map((name) => ({
    name,
    dataSets: { default: file(name === 'cut-parquet' ? `${name}.parquet` : `${name}.csv`) },
    // A training picks the good ones and one more by the label of that one's name.
    labels: Object.fromEntries((name.startsWith('good') ? bad : [name]).map((label) => [label, 'in'])),
    ...(name === 'closed'
      ? { policy: { allow: [{ name: 'lungs only', federations: ['lungs'], models: ['*'], data_sets: ['*'] }] } }
      : {}),
  }));
  fleet = await startFleet({ agents, logger: log.logger });
  await fleet.registry.ensureModel({ name: 'risk' });
}, 300_000);

afterAll(async () => {
  await fleet.stop();
  await rm(folder, { recursive: true, force: true });
}, 240_000);

function training(site: string, minUpdates: number): TrainingOptions {
  return {
    ...{ model: 'risk', architecture: 'logistic', target: 'outcome', rounds: 1, seed: 7, minUpdates },
    ...{ selector: { [site]: 'in' }, maxRoundRetries: 0, baseVersion: 'initial' },
  };
}

/** Sites that have figures of their own. */
function evaluated({ metrics }: TrainingResult): string[] {
  return Object.entries(metrics?.sites ?? {})
    .filter(([, figures]) => figures !== null)
    .map(([name]) => name)
    .sort();
}

/** What the coordinator knows to be wrong with a site's data. */
async function problemOf(site: string): Promise<unknown> {
  const device = (await fleet.organization.listDevices()).find((row) => row['deviceIdentifier'] === site);
  const [dataSet] = (device?.['dataSets'] ?? []) as { problem?: unknown }[];
  return dataSet?.problem;
}

function command(...args: string[]) {
  return inTerminal(args, { OCTOMIL_API_BASE: fleet.apiBase, OCTOMIL_API_KEY: fleet.apiKey });
}

/** Files that cannot be read: known before anybody trains. */
test.each([
  ['ragged', /corrupt_file|data_unreadable/],
  ['empty', /empty/],
  ['cut-parquet', /cut-parquet\.parquet/],
  ['garbage', /garbage\.csv/],
  ['nowhere', /nowhere\.csv/],
])('%s: the agent logs it, the session says it, and the others train without', async (site, problem) => {
  const complaint = log.complaints(site).join('\n');
  expect(complaint).toMatch(/data set "default" cannot be used: \[\w+\] /);
  expect(complaint).toMatch(problem);
  // The site's own log says where the file is; its folder stays there.
  expect(await problemOf(site)).not.toContain(folder);

  const refusal = await fleet
    .federation()
    .train(training(site, 3))
    .catch((error: unknown) => error);
  expect(refusal).toMatchObject({
    code: 'insufficient_devices',
    reason: expect.stringMatching(new RegExp(`only 2 .*${site}: its data set "default" cannot be read: \\[\\w+\\] `)),
  });
  expect(String(refusal)).not.toContain(folder);
  expect(evaluated(await fleet.federation().train(training(site, 2)))).toEqual(['good-1', 'good-2']);
});

/** Files that can be read and do not serve: found when the sites describe their columns. */
test.each([
  ['header-only', 'too_few_rows', /header-only: failed \(\[too_few_rows\] .*fewer than 10 rows/],
  ['no-target', 'data_mismatch', /no-target: failed \(\[data_mismatch\] .*no target column "outcome".*age, pressure/],
])('%s: the others train without; where it is needed the session names it', async (site, code, reason) => {
  expect(evaluated(await fleet.federation().train(training(site, 2)))).toEqual(['good-1', 'good-2']);
  await expect(fleet.federation().train(training(site, 3))).rejects.toMatchObject({
    code,
    reason: expect.stringMatching(reason),
    details: { status: 'failed' },
  });
  const dry = await fleet.federation().train({ ...training(site, 2), dryRun: true });
  const shown = dry.sites.find(({ name }) => name === site);
  expect(shown).toMatchObject({ eligible: false, reasonCode: code });
  expect(
    dry.sites
      .filter(({ eligible }) => eligible)
      .map(({ name }) => name)
      .sort(),
  ).toEqual(['good-1', 'good-2']);
  expect(log.complaints(site).join('\n')).toMatch(/assignment failed|target column|fewer than 10 rows/);
});

test('a one-class target at one site is a warning; everywhere it is an error', async () => {
  const run = await fleet.federation().start(training('one-class', 3));
  await run.result();
  const [describing] = await run.rounds();
  expect(JSON.stringify(describing?.['details'])).toMatch(/one-class.*(one class|same)/);

  const alone = { ...training('one-class', 1), selector: { 'one-class': 'in', site: 'x' } };
  await expect(fleet.federation().train(alone)).rejects.toMatchObject({ code: 'insufficient_devices' });
  const everywhere = { ...training('one-class', 3), target: 'outcome>5' };
  await expect(fleet.federation().train(everywhere)).rejects.toMatchObject({
    code: 'data_mismatch',
    reason: expect.stringMatching(/one class/),
  });
});

test('text in a column that is numeric elsewhere names the site and the column', async () => {
  const failing = await command(
    ...['train', '--federation', 'fleet', '--model', 'risk', '--architecture', 'logistic', '--target', 'outcome'],
    ...['--min-updates', '3', '--label', 'text-in-number=in', '--base-version', 'initial', '--rounds', '1'],
  );
  expect(failing.exitCode).toBe(1);
  expect(failing.err).toMatch(/^error \[data_mismatch\]: site "text-in-number": .*"pressure" holds text/m);
});

test('a single text among numbers is a missing value, said with the way to declare it', async () => {
  const run = await fleet.federation().start(training('half-text', 3));
  const outcome = await run.result().then(
    () => 'trained',
    (error: { code: string; reason: string }) => `${error.code}: ${error.reason}`,
  );
  expect(outcome).toMatch(/data_mismatch: site "half-text": .*"pressure".*missingMarkers/);
  const declared = { ...training('half-text', 3), missingMarkers: { pressure: ['n/k'] } };
  expect((await fleet.federation().train(declared)).status).toBe('completed');
});

test("a policy's refusal shows its rule in the dry run, in the session and in the terminal", async () => {
  const dry = await command(
    ...['train', '--federation', 'fleet', '--model', 'risk', '--architecture', 'logistic', '--target', 'outcome'],
    ...['--label', 'closed=in', '--dry-run'],
  );
  expect(dry.exitCode).toBe(0);
  expect(dry.out).toMatch(/closed +no .*policy.*"lungs only"/);
  await expect(fleet.federation().train(training('closed', 3))).rejects.toMatchObject({
    code: 'insufficient_devices',
    reason: expect.stringMatching(/closed: no rule of its policy allows federation "fleet".*"lungs only"/),
  });
  expect(evaluated(await fleet.federation().train(training('closed', 2)))).toEqual(['good-1', 'good-2']);
});

test('a file that breaks later pauses the session by name and reason; mended and resumed, it goes on', async () => {
  await writeFile(join(folder, 'turning.csv'), 'age,pressure,outcome\n"1,2,3\n4,5\n');
  const run = await fleet.federation().start(training('turning', 3));
  await expect(run.result()).rejects.toMatchObject({
    code: 'insufficient_updates',
    reason: expect.stringMatching(/2 of 3 .*turning: failed \(\[\w+\] .*turning\.csv/),
  });
  const shown = await command('sessions', 'show', run.sessionId);
  expect(shown.out).toMatch(/paused/);
  expect(shown.out).toMatch(/turning: failed/);
  expect(log.complaints('turning').join('\n')).toMatch(/cannot be used|assignment failed/);

  const again = await command('sessions', 'resume', run.sessionId);
  expect(again.exitCode).toBe(0);
  await expect(run.result()).rejects.toMatchObject({
    code: 'insufficient_devices',
    reason: expect.stringMatching(/turning: its data set "default" cannot be read: /),
  });

  await writeFile(join(folder, 'turning.csv'), GOOD);
  // The agent looks at a broken file every other second, and tells of it.
  while ((await problemOf('turning')) !== null) await new Promise((resolve) => setTimeout(resolve, 100));
  const resumed = await command('sessions', 'resume', run.sessionId);
  expect(resumed.out).toMatch(/is running/);
  expect(evaluated(await run.result())).toContain('turning');
});
