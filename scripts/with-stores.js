// Runs a command with its own PostgreSQL and Redis, on free ports and in a temporary folder, and stops them after it.
//
//   node scripts/with-stores.js COMMAND [ARGUMENT …]
//
// The command finds them in TEST_DATABASE_URL and TEST_REDIS_URL. A store whose program is missing is left out by name.
import { spawn, spawnSync } from 'node:child_process';
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const folder = mkdtempSync(join(tmpdir(), 'octomil-stores-'));
const isRoot = process.getuid?.() === 0;
const started = [];

function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

function findProgram(name) {
  const folders = (process.env.PATH ?? '').split(':');
  const debian = '/usr/lib/postgresql';
  if (existsSync(debian))
    folders.push(
      ...readdirSync(debian)
        .sort()
        .reverse()
        .map((version) => join(debian, version, 'bin')),
    );
  return folders.map((path) => join(path, name)).find((path) => existsSync(path));
}

async function until(ready, what) {
  for (let attempt = 0; attempt < 100; attempt += 1) {
    if (ready()) return;
    await sleep(100);
  }
  throw new Error(`${what} did not become ready within 10 s`);
}

/** PostgreSQL refuses to run as root. */
function asServerUser(program, args) {
  return isRoot
    ? ['setpriv', ['--reuid=postgres', '--regid=postgres', '--clear-groups', program, ...args]]
    : [program, args];
}

async function startPostgres() {
  const [initdb, postgres, isReady] = ['initdb', 'postgres', 'pg_isready'].map(findProgram);
  if (!initdb || !postgres || !isReady) return undefined;
  const data = join(folder, 'postgres');
  const port = await freePort();
  if (isRoot) {
    const uid = Number(spawnSync('id', ['-u', 'postgres'], { encoding: 'utf8' }).stdout);
    chownSync(folder, uid, uid);
  }
  const [init, initArgs] = asServerUser(initdb, [
    '-D',
    data,
    '-U',
    'octomil',
    '--auth=trust',
    '-E',
    'UTF8',
    '--no-sync',
  ]);
  const made = spawnSync(init, initArgs, { encoding: 'utf8', cwd: folder });
  if (made.status !== 0) throw new Error(`initdb failed: ${made.stderr}`);
  const [server, serverArgs] = asServerUser(postgres, [
    '-D',
    data,
    '-p',
    String(port),
    '-k',
    folder,
    '-h',
    '127.0.0.1',
  ]);
  const child = spawn(server, serverArgs, { stdio: ['ignore', 'ignore', 'ignore'], cwd: folder });
  started.push({ child, signal: 'SIGINT' });
  await until(() => spawnSync(isReady, ['-h', '127.0.0.1', '-p', String(port), '-q']).status === 0, 'PostgreSQL');
  return `postgres://octomil@127.0.0.1:${port}/postgres`;
}

async function startRedis() {
  const [server, client] = ['redis-server', 'redis-cli'].map(findProgram);
  if (!server || !client) return undefined;
  const port = await freePort();
  const options = [
    '--port',
    String(port),
    '--bind',
    '127.0.0.1',
    '--dir',
    folder,
    '--save',
    '',
    '--maxmemory-policy',
    'noeviction',
  ];
  const child = spawn(server, options, { stdio: 'ignore' });
  started.push({ child, signal: 'SIGTERM' });
  await until(
    () => spawnSync(client, ['-p', String(port), 'ping'], { encoding: 'utf8' }).stdout.trim() === 'PONG',
    'Redis',
  );
  return `redis://127.0.0.1:${port}`;
}

async function stopStores() {
  for (const { child, signal } of started) {
    if (child.exitCode !== null) continue;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill(signal);
    await Promise.race([ended, sleep(10_000).then(() => child.kill('SIGKILL'))]);
  }
  rmSync(folder, { recursive: true, force: true });
}

const [command, ...args] = process.argv.slice(2);
if (command === undefined) {
  console.error('usage: node scripts/with-stores.js COMMAND [ARGUMENT …]');
  process.exit(2);
}
let status = 1;
try {
  const database = await startPostgres();
  const redis = await startRedis();
  console.error(
    `stores: PostgreSQL ${database ?? 'not installed, left out'}; Redis ${redis ?? 'not installed, left out'}`,
  );
  const child = spawn(command, args, {
    stdio: 'inherit',
    env: {
      ...process.env,
      ...(database ? { TEST_DATABASE_URL: database } : {}),
      ...(redis ? { TEST_REDIS_URL: redis } : {}),
    },
  });
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal));
  status = await new Promise((resolve) => child.once('exit', (code) => resolve(code ?? 1)));
} catch (error) {
  console.error(`${error.message} (as ${userInfo().username}, in ${folder})`);
} finally {
  await stopStores();
}
process.exit(status);
