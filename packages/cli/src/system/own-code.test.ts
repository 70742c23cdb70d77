import { execFileSync } from 'node:child_process';
import { resolve } from 'node:path';
import { afterEach, expect, test } from '@jest/globals';
import { DEFAULT_OWN_CODE_LIMITS, type OwnCode, readCode } from '@octomil/shared/training';
import { type Fleet, GENERATED_TARGET, startFleet } from '../fleet/fleet.js';

const EXAMPLES = resolve(import.meta.dirname, '../../../../examples');

function runs(program: string, ...args: string[]): boolean {
  try {
    execFileSync(program, args, { stdio: 'ignore', timeout: 20_000 });
    return true;
  } catch {
    return false;
  }
}

let fleet: Fleet | undefined;
afterEach(async () => {
  await fleet?.stop();
  fleet = undefined;
}, 240_000);

/** What an administrator writes down after looking at the code: the trainer and its digest. */
async function site(name: string, trainer: string, settings: Record<string, unknown>, folder: string) {
  const { command, module } = settings as { command?: string[]; module?: string };
  const root = resolve(EXAMPLES, folder);
  const code: OwnCode = {
    name: trainer,
    ...(command === undefined ? {} : { command }),
    ...(module === undefined ? {} : { module }),
    root,
    wholeFolder: true,
    data: 'safetensors',
    limits: DEFAULT_OWN_CODE_LIMITS,
    environment: [],
  };
  const { sha256 } = await readCode(code);
  const allow = [{ name: 'everything', federations: ['*'], models: ['*'], data_sets: ['*'] }];
  return {
    name,
    trainers: { [trainer]: { ...settings, folder: root } },
    policy: { allow, code: { allow: [{ trainer, sha256 }] } },
  };
}

const HAS_PYTHON = runs('python3', '--version');
const HAS_TORCH = HAS_PYTHON && runs('python3', '-c', 'import torch, safetensors');
const HAS_SKLEARN = HAS_PYTHON && runs('python3', '-c', 'import sklearn, safetensors');
const python = { command: ['python3', 'train.py'], data: 'safetensors', timeout_seconds: 60 };

const cases = [
  ['plain Python', HAS_PYTHON, () => site('own', 'tfjs', python, 'python-site')],
  ['PyTorch', HAS_TORCH, () => site('own', 'tfjs', python, 'pytorch-site')],
  ['scikit-learn', HAS_SKLEARN, () => site('own', 'tfjs', python, 'sklearn-site')],
  ['Node module', true, () => site('own', 'tfjs', { module: 'train.js' }, 'node-module-site')],
] as const;

for (const [what, present, own] of cases) {
  const named = present ? test : test.skip;
  named(
    `a ${what} site and a tfjs site train one model together`,
    async () => {
      fleet = await startFleet({ agents: [await own(), { name: 'tfjs' }] });
      await fleet.registry.ensureModel({ name: 'risk' });
      const result = await fleet.federation().train({
        model: 'risk',
        architecture: 'logistic',
        target: GENERATED_TARGET,
        rounds: 6,
        minUpdates: 2,
        seed: 7,
        local: { epochs: 4, batchSize: 16, learningRate: 0.1, optimizer: 'sgd' },
      });
      expect(Object.keys(result.metrics?.sites ?? {}).sort()).toEqual(['own', 'tfjs']);
      expect(result.metrics?.overall?.auc).toBeGreaterThan(0.6);
    },
    300_000,
  );
}

test('code that was changed since it was allowed is refused by its digest, and a trainer of a name is asked for by it', async () => {
  const own = await site('own', 'ours', { module: 'train.js' }, 'node-module-site');
  const stale = {
    ...own,
    name: 'stale',
    policy: { ...own.policy, code: { allow: [{ trainer: 'ours', sha256: '0'.repeat(64) }] } },
  };
  fleet = await startFleet({ agents: [own, stale, { name: 'without' }] });
  await fleet.registry.ensureModel({ name: 'risk' });
  const training = {
    model: 'risk',
    architecture: 'logistic',
    target: GENERATED_TARGET,
    trainer: 'ours',
    minUpdates: 1,
    overSelection: 2,
  } as const;
  const dry = await fleet.federation().train({ ...training, dryRun: true });
  expect(dry.sites.find(({ name }) => name === 'without')).toMatchObject({ eligible: false });
  const result = await fleet.federation().train({ ...training, rounds: 1 });
  expect(result.rounds.at(-1)?.state).toBe('completed');
  const { assignments } = await fleet.organization.round(String(result.rounds.at(-1)?.['roundId']));
  const told = JSON.stringify(assignments);
  expect(told).toContain('policy_denied');
  expect(told).toContain('does not allow the code of trainer');
}, 300_000);
