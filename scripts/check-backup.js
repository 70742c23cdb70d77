// A backup of a coordinator on embedded stores, restored and used: on PostgreSQL where TEST_DATABASE_URL names an empty
// database (scripts/with-stores.js makes one), else on embedded stores again. Needs a build.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';

const octomil = resolve(import.meta.dirname, '../packages/cli/bin/octomil.js');
const folder = mkdtempSync(join(tmpdir(), 'octomil-backup-'));
const at = (name) => join(folder, name);
const url = process.env.TEST_DATABASE_URL;
const children = [];

function run(environment, ...args) {
  const env = { ...process.env, OCTOMIL_CREDENTIALS: at('credentials'), ...environment };
  const { status, stdout, stderr } = spawnSync(process.execPath, [octomil, ...args], { env, encoding: 'utf8' });
  return { status, stdout, stderr };
}

function succeed(environment, ...args) {
  const { status, stdout, stderr } = run(environment, ...args);
  assert.equal(status, 0, `octomil ${args.join(' ')}: ${stderr}`);
  return stdout;
}

function refuse(code, environment, ...args) {
  const { status, stderr } = run(environment, ...args);
  assert.equal(status, 1, `octomil ${args.join(' ')} was to be refused`);
  assert.match(stderr, new RegExp(`^error \\[${code}\\]: `, 'm'));
}

/** A coordinator, how to reach it, and how to end it. */
async function start(dataDir, environment = {}) {
  const args = [octomil, 'up', '--json', '--data-dir', dataDir, '--rest-port', '0', '--grpc-port', '0'];
  const env = { ...process.env, OCTOMIL_LOG_LEVEL: 'error', ...environment };
  const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  const [line] = await Promise.race([
    once(createInterface({ input: child.stdout }), 'line'),
    once(child, 'exit').then(() => assert.fail('the coordinator did not start')),
  ]);
  const stop = async () => {
    const ended = once(child, 'exit');
    child.kill('SIGTERM');
    await ended;
  };
  return { ...JSON.parse(line), stop };
}

try {
  const content = Buffer.from('weights that must survive');
  writeFileSync(at('model.pt'), content);
  const first = await start(at('first'));
  const access = { OCTOMIL_API_BASE: first.apiBase, OCTOMIL_API_KEY: first.apiKey };
  succeed(access, 'push', at('model.pt'), '-m', 'kept', '-v', '1.0.0', '--publish');
  succeed(access, 'models', 'ensure', 'Grüße, leer');
  succeed(access, 'deploy', 'kept', '--rollout', '10');
  const shown = (environment) =>
    [
      ['models', 'list'],
      ['versions', 'list', 'kept'],
      ['rollouts', 'list', 'kept'],
      ['keys', 'list'],
    ].map((args) => JSON.parse(succeed(environment, ...args, '--json')).map(({ lastUsedAt: _, ...row }) => row));
  const before = shown(access);
  // The embedded database belongs to one process.
  refuse('store_locked', {}, 'backup', at('backup'), '--data-dir', at('first'));
  await first.stop();
  console.log(succeed({}, 'backup', at('backup'), '--data-dir', at('first')).trim());
  refuse('conflict', {}, 'backup', at('backup'), '--data-dir', at('first'));

  const stores = url === undefined ? {} : { DATABASE_URL: url };
  console.log(succeed(stores, 'restore', at('backup'), '--data-dir', at('second')).trim());
  const second = await start(at('second'), stores);
  const restored = { ...access, OCTOMIL_API_BASE: second.apiBase };
  assert.deepEqual(shown(restored), before);
  succeed(restored, 'pull', 'kept', '-o', at('pulled.pt'));
  assert.deepEqual(readFileSync(at('pulled.pt')), content);
  // What goes on after it is numbered after it.
  succeed(restored, 'rollouts', 'rollback', 'kept');
  succeed(restored, 'push', at('model.pt'), '-m', 'kept', '-v', '1.1.0', '--publish');
  await second.stop();
  refuse('conflict', stores, 'restore', at('backup'), '--data-dir', at('second'));
  console.log(`restored on ${url === undefined ? 'embedded stores (no PostgreSQL here)' : 'PostgreSQL'}`);
} finally {
  for (const child of children) if (child.exitCode === null) child.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
}
