import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { parseAgentConfig, startAgent } from '@octomil/agent';
import { startCoordinator } from '@octomil/coordinator';
import { silentLogger } from '@octomil/shared/runtime';
import { stringify } from 'yaml';
import { type Fleet, startFleet } from '../fleet/fleet.js';
import { octomil, startOctomil } from './octomil-command.js';
import { RecordedLog } from './recorded-log.js';
import { inTerminal } from './terminal.js';

jest.setTimeout(60_000);

let fleet: Fleet;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-places-'));
  fleet = await startFleet({ agents: 0 });
}, 240_000);
afterAll(async () => {
  await fleet.stop();
  await rm(folder, { recursive: true, force: true });
}, 240_000);

function listening(): Promise<{ server: Server; port: number }> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      resolve({ server, port: (server.address() as AddressInfo).port });
    });
  });
}

/** One folder for all coordinators here, one after the other: a new database takes seconds. */
function embedded(): { dataDir: string; environment: Record<string, string> } {
  const dataDir = join(folder, 'embedded');
  const ports = { OCTOMIL_HOST: '127.0.0.1', OCTOMIL_REST_PORT: '0', OCTOMIL_GRPC_PORT: '0' };
  return { dataDir, environment: { ...ports, OCTOMIL_DATA_DIR: dataDir, OCTOMIL_LOG_LEVEL: 'error' } };
}

async function agentFile(name: string, settings: Record<string, unknown>): Promise<string> {
  const path = join(folder, `${name}.yaml`);
  const defaults = { coordinator: fleet.grpcAddress, device_identifier: name, state_dir: join(folder, name) };
  await writeFile(path, stringify({ ...defaults, stop_grace_seconds: 0, ...settings }));
  return path;
}

async function newToken(): Promise<string> {
  return String((await fleet.organization.createEnrollmentToken())['token']);
}

test('a second coordinator on the same folder is told who holds it; the first goes on', async () => {
  const { dataDir, environment } = embedded();
  const first = await startCoordinator({ environment, logger: silentLogger });
  try {
    const { exitCode, err, out } = await octomil(['up'], { environment });
    expect(exitCode).toBe(1);
    expect(err).toMatch(
      new RegExp(`^error \\[store_locked\\]: .*${dataDir}.*process ${process.pid}.*another folder`, 'm'),
    );
    expect(out).toBe('');
    const health = await fetch(`${first.restUrl}/readyz`);
    expect(health.status).toBe(200);
  } finally {
    await first.stop();
  }
});

test('a port that is in use is named, with the setting that changes it, and nothing stays locked', async () => {
  const { dataDir, environment } = embedded();
  const { server, port } = await listening();
  try {
    for (const [option, setting] of [
      ['--rest-port', 'OCTOMIL_REST_PORT'],
      ['--grpc-port', 'OCTOMIL_GRPC_PORT'],
    ] as const) {
      const { exitCode, err } = await inTerminal(['up', option, String(port)], environment);
      expect(exitCode).toBe(1);
      expect(err).toMatch(new RegExp(`^error \\[port_in_use\\]: .*\\b${port}\\b.*${setting}`, 'm'));
    }
  } finally {
    server.close();
  }
  // What had been opened by then is closed again: the folder can be used, and its first key was kept.
  const coordinator = await startCoordinator({ environment, logger: silentLogger });
  try {
    const headers = { authorization: `Bearer ${await firstKey(dataDir)}` };
    expect((await fetch(`${coordinator.restUrl}/api/v1/models`, { headers })).status).toBe(200);
  } finally {
    await coordinator.stop();
  }
});

test("an agent's metrics port that is in use is named", async () => {
  const { server, port } = await listening();
  try {
    const path = await agentFile('metrics', {
      enrollment_token: await newToken(),
      metrics: { port },
      log_level: 'silent',
    });
    const { exitCode, err } = await octomil(['agent', '--config', path]);
    expect(exitCode).toBe(1);
    expect(err).toMatch(new RegExp(`error \\[port_in_use\\]: .*\\b${port}\\b`));
  } finally {
    server.close();
  }
});

test('an agent that starts before its coordinator says so once, waits, and joins', async () => {
  const { server, port } = await listening();
  await new Promise((resolve) => server.close(resolve));
  const log = new RecordedLog();
  const { dataDir, environment: anyPort } = embedded();
  const environment = { ...anyPort, OCTOMIL_GRPC_PORT: String(port) };
  // A coordinator that ran before, so that there is a token to start with.
  const before = await startCoordinator({ environment, logger: silentLogger });
  const token = await tokenOf(before.restUrl, await firstKey(dataDir));
  await before.stop();

  const file = {
    ...{ coordinator: `127.0.0.1:${port}`, device_identifier: 'early', state_dir: 'early', stop_grace_seconds: 0 },
    enrollment_token: token,
  };
  const agent = await startAgent(parseAgentConfig(file, { folder, environment: {} }), {
    logger: log.logger.child({ agent: 'early' }),
  });
  try {
    await until(() => log.complaints('early').length > 0);
    expect(log.complaints('early')[0]).toMatch(
      /no session with the coordinator \(.*\); trying again until there is one/,
    );
    expect(agent.connected).toBe(false);
    const late = await startCoordinator({ environment, logger: silentLogger });
    try {
      await agent.ready;
      expect(log.complaints('early')).toHaveLength(1);
    } finally {
      await late.stop();
    }
  } finally {
    await agent.stop();
  }
});

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 20));
}

async function firstKey(dataDir: string): Promise<string> {
  return (await readFile(join(dataDir, 'bootstrap-key'), 'utf8')).trim();
}

async function tokenOf(restUrl: string, apiKey: string): Promise<string> {
  const answer = await fetch(`${restUrl}/api/v1/enrollment-tokens`, {
    method: 'POST',
    headers: { authorization: `Bearer ${apiKey}`, 'content-type': 'application/json' },
    body: '{}',
  });
  return String(((await answer.json()) as { token?: unknown }).token);
}

test('an enrolment token that was used ends the second agent with its code, in the terminal and in its log', async () => {
  const token = await newToken();
  const first = startOctomil(['agent', '--config', await agentFile('first', { enrollment_token: token })]);
  await first.until(/"connected"/);
  const second = await octomil(['agent', '--config', await agentFile('second', { enrollment_token: token })]);
  expect(second.exitCode).toBe(1);
  expect(second.err).toMatch(/^error \[enrollment_token_used\]: .*token/m);
  expect(second.err).toMatch(/"level":50.*the agent cannot go on/);
  expect(second.err + second.out).not.toContain(token);
  await expect(readFile(join(folder, 'second', 'credential.json'))).rejects.toMatchObject({ code: 'ENOENT' });
  expect((await first.stop()).exitCode).toBe(0);
});

test('a copied device credential: the second agent is refused and says what to do, the first goes on', async () => {
  const firstLog = new RecordedLog();
  const log = new RecordedLog();
  const file = { coordinator: fleet.grpcAddress, device_identifier: 'copied', stop_grace_seconds: 0 };
  const start = (stateDir: string, more: Record<string, unknown>, into: RecordedLog) =>
    startAgent(parseAgentConfig({ ...file, state_dir: stateDir, ...more }, { folder, environment: {} }), {
      logger: into.logger.child({ agent: 'copied' }),
    });
  const first = await start('original', { enrollment_token: await newToken() }, firstLog);
  await first.ready;
  await mkdir(join(folder, 'copy'), { mode: 0o700 });
  await cp(join(folder, 'original', 'credential.json'), join(folder, 'copy', 'credential.json'), { mode: 0 });
  const second = await start('copy', {}, log);
  try {
    await until(() => log.complaints('copied').length > 0);
    expect(log.lines.find(({ level }) => level === 'warn')).toMatchObject({
      message: expect.stringMatching(/no session with the coordinator \(.*(another|second|in use|already).*\)/),
      fields: { error: expect.stringContaining('[credential_in_use]') },
    });
    expect(second.connected).toBe(false);
    expect(first.connected).toBe(true);
    expect(firstLog.complaints('copied')).toEqual([]);
  } finally {
    await second.stop();
    await first.stop();
  }
});
