import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect, test } from '@jest/globals';
import { entryPoint } from '@octomil/shared/runtime';

const { path, execArgv } = entryPoint(import.meta.url, 'main');

function start(environment: Record<string, string>): ChildProcess {
  return spawn(process.execPath, [...execArgv, path], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { PATH: process.env['PATH'] ?? '', OCTOMIL_REST_PORT: '0', OCTOMIL_GRPC_PORT: '0', ...environment },
  });
}

/** The first log line whose message is the one wanted. */
async function logged(child: ChildProcess, message: string): Promise<Record<string, unknown>> {
  if (child.stderr === null) throw new RangeError('no standard error');
  const lines: string[] = [];
  for await (const line of createInterface({ input: child.stderr })) {
    lines.push(line);
    const entry = line.startsWith('{') ? (JSON.parse(line) as Record<string, unknown>) : {};
    if (entry['msg'] === message) {
      child.stderr.resume();
      return entry;
    }
  }
  throw new RangeError(`"${message}" was not logged: ${lines.join('\n')}`);
}

test('a killed coordinator leaves no lock and loses nothing; a second one on its folder is refused; SIGTERM ends it well', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'octomil-main-'));
  const first = start({ OCTOMIL_DATA_DIR: dataDir });
  const { restUrl } = await logged(first, 'coordinator started');
  const key = (await readFile(join(dataDir, 'bootstrap-key'), 'utf8')).trim();
  const authorization = `Bearer ${key}`;
  const made = await fetch(`${String(restUrl)}/api/v1/models`, {
    method: 'POST',
    headers: { authorization, 'content-type': 'application/json' },
    body: JSON.stringify({ name: 'kept' }),
  });
  expect(made.status).toBe(201);

  const second = start({ OCTOMIL_DATA_DIR: dataDir });
  const refused = await logged(second, 'the coordinator did not start');
  expect(JSON.stringify(refused)).toContain(`[store_locked]`);
  expect(JSON.stringify(refused)).toContain(`process ${first.pid}`);

  const killed = once(first, 'exit');
  first.kill('SIGKILL');
  await killed;
  const third = start({ OCTOMIL_DATA_DIR: dataDir });
  const again = await logged(third, 'coordinator started');
  const list = await fetch(`${String(again['restUrl'])}/api/v1/models/kept`, { headers: { authorization } });
  expect(list.status).toBe(200);
  const exited = once(third, 'exit');
  third.kill('SIGTERM');
  expect(await exited).toEqual([0, null]);
  await rm(dataDir, { recursive: true });
}, 240_000);
