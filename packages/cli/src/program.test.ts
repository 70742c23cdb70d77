import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, test } from '@jest/globals';
import { entryPoint } from '@octomil/shared/runtime';

interface Finished {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** The real command, in a process of its own. */
function octomil(args: readonly string[], environment: Readonly<Record<string, string>> = {}): Promise<Finished> {
  const main = entryPoint(import.meta.url, 'main');
  const { OCTOMIL_API_KEY: _key, OCTOMIL_API_BASE: _base, ...inherited } = process.env;
  const outer = { ...inherited, OCTOMIL_CREDENTIALS: '/nowhere/credentials' };
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [...main.execArgv, main.path, ...args],
      { env: { ...outer, ...environment } },
      (_error, out, err) => resolve({ code: child.exitCode ?? -1, out, err }),
    );
  });
}

test('the help of train names how often and with how many sites where nothing is said', async () => {
  const { out } = await octomil(['train', '--help']);
  expect(out).toMatch(/--rounds <n> +rounds \(default: 10\)/);
  expect(out).toMatch(/--min-updates <n> +updates that close a round \(default: 1\)/);
});

test('explains itself', async () => {
  const { code, out } = await octomil(['--help']);
  expect(code).toBe(0);
  const groups = Object.fromEntries(
    [...out.matchAll(/^(\S.*):\n((?: {2}.*\n)+)/gm)].map(([, name = '', lines = '']) => [
      name,
      [...lines.matchAll(/^ {2}([a-z]+)/gm)].map(([, command]) => command),
    ]),
  );
  expect(groups).toEqual({
    Options: [],
    'Coordinator and agents': ['demo', 'up', 'agent', 'policy', 'config', 'backup', 'restore'],
    Training: ['train', 'sessions', 'rounds', 'features'],
    Models: ['push', 'pull', 'convert', 'check', 'models', 'versions'],
    Rollouts: ['deploy', 'rollouts'],
    Inference: ['serve', 'run', 'embed', 'chat', 'transcribe'],
    Devices: ['devices', 'groups'],
    'Organizations and access': ['federation', 'login', 'logout', 'keys', 'enroll', 'audit'],
    Commands: ['help'],
  });
  const page = await readFile(new URL('../../../docs/cli.md', import.meta.url), 'utf8');
  for (const command of Object.values(groups).flat())
    if (command !== 'help') expect(page).toContain(`octomil ${command}`);
});

test.each([
  [['tarin'], "unknown command 'tarin'"],
  [['train', '--model', 'heart'], "required option '--federation <name>' not specified"],
  [['train', '--federation', 'f', '--model', 'm', '--rounds', '0'], 'It must be a whole number, 1 or more.'],
  [['train', '--federation', 'f', '--model', 'm', '--label', 'site'], 'Write it as name=value.'],
  [['train', '--federation', 'f', '--model', 'm', '--update-format', 'zip'], 'Allowed choices are delta, weights.'],
  [['demo', '--model', 'cnn'], 'Allowed choices are logistic, mlp.'],
  [['models', 'show'], "missing required argument 'model'"],
  [['push', '.'], "required option '-m, --model <name>' not specified"],
  [['push', '--version'], "option '-v, --version <version>' argument missing"],
  [['convert', 'x.pt', '--to', 'tflite'], 'Allowed choices are safetensors, pytorch, onnx, npz.'],
  [['deploy', 'heart', '--rollout', '101'], 'It must be a number, 0 to 100.'],
  [['deploy', 'heart', '--max-failure-ratio', '5'], 'It must be a number, 0 to 1.'],
  [['deploy', 'heart', '--max-metric-drop', 'f1=0.1'], 'Write it as accuracy, auc, loss, = and a number'],
  [['deploy', 'heart', '--on-breach', 'shrug'], 'Allowed choices are rollback, pause.'],
  [['deploy', 'heart', '--draft', '--watch'], "option '--draft' cannot be used with option '--watch'"],
  [['rollouts', 'list', 'heart', '--status', 'done'], 'Allowed choices are draft, active, paused'],
  [['rollouts', 'advance', 'heart', '--to', '50', '--increment', '5'], 'cannot be used with option'],
  [['federation', 'share', 'heart'], "required option '-f, --federation <federation>' not specified"],
])('%j is a usage error', async (args, message) => {
  const { code, out, err } = await octomil(args);
  expect(err).toContain(message);
  expect(out).toBe('');
  expect(code).toBe(2);
});

test('an error has its code on standard error, exit code 1 and no stack', async () => {
  const without = await octomil(['models', 'list']);
  expect(without).toMatchObject({ code: 1, out: '' });
  expect(without.err).toBe(
    'error [invalid_api_key]: no API key was given; run "octomil login", or set OCTOMIL_API_KEY\n',
  );
  const debugged = await octomil(['models', 'list'], { OCTOMIL_DEBUG: '1' });
  expect(debugged.err).toContain('    at ');
});

test('--json prints one document with what the coordinator answered, names in camelCase', async () => {
  const seen: (string | undefined)[] = [];
  const server = createServer((request, response) => {
    seen.push(request.url, request.headers.authorization);
    response.setHeader('content-type', 'application/json');
    response.end(
      JSON.stringify({ models: [{ id: 'm1', name: 'heart', created_at: '2026-01-01T00:00:00Z' }], total: 1 }),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const environment = {
    OCTOMIL_API_BASE: `http://127.0.0.1:${(server.address() as AddressInfo).port}/api/v1`,
    OCTOMIL_API_KEY: 'edg_test',
  };
  try {
    const asJson = await octomil(['models', 'list', '--json'], environment);
    expect(JSON.parse(asJson.out)).toEqual([{ id: 'm1', name: 'heart', createdAt: '2026-01-01T00:00:00Z' }]);
    const asText = await octomil(['models', 'list'], environment);
    expect(asText.out).toMatch(/ID +Name +Framework +Latest +Made/);
    expect(asText.out).toMatch(/m1 +heart +– +– +2026-01-01/);
    const asked = ['/api/v1/models?limit=100&offset=0', 'Bearer edg_test'];
    expect(seen).toEqual([...asked, ...asked]);
  } finally {
    server.close();
  }
});

test('the demo refuses data that cannot be a federation, and says what to give', async () => {
  const without = await octomil(['demo', '--data', '/nowhere']);
  expect(without).toMatchObject({ code: 1 });
  expect(without.err).toContain('error [invalid_input]: --data needs --target');
  const nowhere = await octomil(['demo', '--data', '/nowhere', '--target', 'num>0']);
  expect(nowhere.err).toContain('error [not_found]: --data /nowhere is not a folder');
});
