import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { seededRandom } from '@octomil/shared/models';
import { entryPoint } from '@octomil/shared/runtime';
import { type Fleet, startFleet } from './fleet.js';

const README = fileURLToPath(new URL('../../../../README.md', import.meta.url));
const SITES = 4;

let folder: string;
let fleet: Fleet;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-readme-'));
  const dataSets = Array.from({ length: SITES }, (_, site) => join(folder, `${site}.csv`));
  for (const [site, path] of dataSets.entries()) await writeFile(path, patients(site));
  fleet = await startFleet({ agents: SITES, dataSets });
  await fleet.registry.ensureModel({ name: 'heart' });
}, 240_000);
afterAll(async () => {
  await fleet.stop();
  await rm(folder, { recursive: true });
}, 240_000);

/** `num` from 0 to 4, as the README's target has it. */
function patients(site: number): string {
  const random = seededRandom(site, 'readme');
  const rows = Array.from({ length: 100 }, () => {
    const age = 40 + random.below(40);
    return `${age},${180 + random.below(120)},${age + random.below(20) > 66 ? 1 + random.below(4) : 0}`;
  });
  return `age,chol,num\n${rows.join('\n')}\n`;
}

test("the README's code runs as it stands", async () => {
  const code = /```ts\n(?<code>(?:(?!```).)*new Federation\((?:(?!```).)*)```/s.exec(readFileSync(README, 'utf8'))
    ?.groups?.['code'];
  expect(code).toContain("'edg_…'");
  const { execArgv } = entryPoint(import.meta.url, '../main');
  const run = code?.replace('edg_…', fleet.apiKey) ?? '';
  const out = await new Promise<string>((resolve, reject) => {
    execFile(
      process.execPath,
      [...execArgv, '--input-type=module-typescript', '-e', run],
      // Its packages are found from here, as from a project that has installed them.
      { env: { ...process.env, OCTOMIL_API_BASE: fleet.apiBase }, cwd: fileURLToPath(new URL('.', import.meta.url)) },
      (error, text, problem) => (error === null ? resolve(text) : reject(new Error(problem, { cause: error }))),
    );
  });
  expect(out).toMatch(/1\.0\.0/);
  const { digest } = await fleet.registry.pullModel({ model: 'heart' });
  expect(out).toContain(digest);
}, 240_000);

test("the README's commands for the registry and rollouts run as they stand", async () => {
  const commands = /```sh\n(?<commands>octomil push [^`]*)```/.exec(readFileSync(README, 'utf8'))?.groups?.['commands'];
  expect(commands).toContain('octomil rollouts watch');
  await writeFile(join(folder, 'model.pt'), 'weights that somebody brought');
  const { execArgv, path } = entryPoint(import.meta.url, '../main');
  const words = [process.execPath, ...execArgv, path].map((word) => `'${word}'`).join(' ');
  const out = await new Promise<string>((resolve, reject) => {
    execFile(
      'bash',
      ['-euc', `octomil() { ${words} "$@"; }\n${commands}`],
      { env: { ...process.env, OCTOMIL_API_BASE: fleet.apiBase, OCTOMIL_API_KEY: fleet.apiKey }, cwd: folder },
      (error, text, problem) => (error === null ? resolve(text) : reject(new Error(problem, { cause: error }))),
    );
  });
  expect(out).toMatch(/triage 1\.0\.0 is published\./);
  expect(out).toMatch(/completed +100 % +the first devices do well/);
  const [rollout] = await fleet.registry.rollouts.list({ modelId: 'triage' });
  expect(rollout).toMatchObject({ version: '1.0.0', status: 'completed' });
}, 300_000);
