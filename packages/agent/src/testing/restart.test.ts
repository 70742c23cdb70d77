import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { entryPoint } from '@octomil/shared/runtime';
import { type Bench, OPEN_POLICY, onBench } from './agent-under-test.js';

function spawnAgent(bench: Bench, token: string): ChildProcess {
  const entry = entryPoint(import.meta.url, 'agent-child');
  const settings = {
    coordinator: bench.coordinator.address,
    device_identifier: 'hospital-001',
    enrollment_token: token,
    state_dir: bench.stateDir,
    policy: OPEN_POLICY,
    stop_grace_seconds: 1,
  };
  return spawn(process.execPath, [...entry.execArgv, entry.path, JSON.stringify(settings)], { stdio: 'ignore' });
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  const exited = once(child, 'exit') as Promise<[number | null]>;
  child.kill(signal);
  return (await exited)[0];
}

test(
  'an agent that is killed goes on after its restart: credential, lock, base, half-done upload, outcomes',
  () =>
    onBench(async (bench) => {
      const { coordinator } = bench;
      Object.assign(coordinator, { inlineMaxBytes: 1_000 });
      const token = coordinator.token();
      let blocked = true;
      coordinator.onHttp = (request) => blocked && /parts\/[23]$/.test(request.url ?? '');
      const base = coordinator.addObject(Buffer.alloc(250_000, 5));
      const first = spawnAgent(bench, token);
      try {
        await coordinator.until(() => coordinator.streams.size === 1);
        coordinator.assign({
          ref: { assignmentId: 'small', attempt: 1 },
          base: coordinator.addObject(Buffer.alloc(500, 1)),
        });
        await coordinator.until(() => coordinator.updates.has('small'));
        coordinator.assign({ ref: { assignmentId: 'large', attempt: 1 }, base });
        await coordinator.until(() => [...coordinator.tickets.values()].some(({ received }) => received.size === 2));
        expect(await readdir(join(bench.stateDir, 'updates'))).toEqual(['large.1.safetensors']);
      } finally {
        await end(first, 'SIGKILL');
      }
      blocked = false;
      coordinator.httpRequests.length = 0;
      coordinator.heard.length = 0;
      const second = spawnAgent(bench, token);
      try {
        await coordinator.until(() => coordinator.updates.has('large'));
        // The coordinator asks again for what is done: no second update comes.
        coordinator.assign({
          ref: { assignmentId: 'small', attempt: 1 },
          base: coordinator.addObject(Buffer.alloc(500, 1)),
        });
        coordinator.assign({ ref: { assignmentId: 'next', attempt: 1 }, base });
        await coordinator.until(() => coordinator.updates.has('next'));
      } finally {
        expect(await end(second, 'SIGTERM')).toBe(0);
      }
      expect(coordinator.usedTokens.size).toBe(1);
      expect(coordinator.of('hello')[0]?.inProgress).toMatchObject([{ assignmentId: 'large', attempt: 1 }]);
      expect(coordinator.httpRequests.filter((line) => line.startsWith('PUT')).length).toBe(2 + 4);
      // The base that both large assignments name was fetched by the killed process.
      expect(coordinator.httpRequests.filter((line) => line.startsWith('GET'))).toEqual([]);
      expect(coordinator.of('inlineUpdate')).toEqual([]);
      const audit = await readFile(join(bench.stateDir, 'audit.jsonl'), 'utf8');
      const updates = audit
        .split('\n')
        .filter((line) => line.includes('"kind":"update"'))
        .map((line) => JSON.parse(line) as { assignmentId: string; details: { resumed?: boolean } });
      expect(updates.map(({ assignmentId, details }) => [assignmentId, details.resumed ?? false])).toEqual([
        ['small', false],
        ['large', false],
        ['large', true],
        ['next', false],
      ]);
    }),
  180_000,
);
