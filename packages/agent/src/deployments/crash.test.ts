import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { entryPoint } from '@octomil/shared/runtime';
import { type Bench, OPEN_POLICY, onBench } from '../testing/agent-under-test.js';
import { pointerOf, versionOn } from '../testing/desired-versions.js';

/** Runs an agent in a process of its own, which is killed when `run` is over. */
async function untilKilled(bench: Bench, token: string, run: () => Promise<void>, hangsOn = ''): Promise<void> {
  const entry = entryPoint(import.meta.resolve('../testing/agent-under-test.js'), 'agent-child');
  const settings = {
    coordinator: bench.coordinator.address,
    device_identifier: 'hospital-001',
    enrollment_token: token,
    state_dir: bench.stateDir,
    policy: OPEN_POLICY,
  };
  bench.coordinator.heard.length = 0;
  bench.coordinator.httpRequests.length = 0;
  const child: ChildProcess = spawn(
    process.execPath,
    [...entry.execArgv, entry.path, JSON.stringify(settings), hangsOn],
    { stdio: 'ignore' },
  );
  try {
    await run();
  } finally {
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  }
}

const activeOnDisk = (bench: Bench): string => {
  try {
    const text = readFileSync(join(bench.stateDir, 'deployed/m1/active.json'), 'utf8');
    return (JSON.parse(text) as { active: { versionId: string } }).active.versionId;
  } catch {
    return '';
  }
};

test('killed while it downloads, before the pointer is renamed, and after: what is active is whole, and it goes on', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    const token = coordinator.token();
    const first = versionOn(bench, '1', Buffer.alloc(3_000_000, 1));
    const gets = (): string[] => coordinator.httpRequests.filter((line) => line.startsWith('GET'));

    let stalled = true;
    const ranges: (string | undefined)[] = [];
    coordinator.onHttp = (request, response) => {
      if (request.url?.endsWith(first.artifacts[1]?.sha256 ?? '') !== true) return false;
      ranges.push(request.headers.range);
      if (stalled) response.writeHead(200, { 'content-length': 3_000_000 }).write(Buffer.alloc(2_000_000, 1));
      return stalled;
    };
    coordinator.desire(first);
    await untilKilled(bench, token, async () => {
      await coordinator.until(() => coordinator.observed('m1')?.state === 'downloading' && ranges.length === 1);
      for (let size = 0; size < 1_000_000; ) {
        const names = await readdir(join(bench.stateDir, 'models'));
        const part = names.find((name) => name.endsWith('.part'));
        size = part === undefined ? 0 : (await readFile(join(bench.stateDir, 'models', part))).length;
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    });
    expect(activeOnDisk(bench)).toBe('');
    stalled = false;
    await untilKilled(bench, token, () => coordinator.until(() => coordinator.observed('m1')?.state === 'active'));
    expect(ranges).toHaveLength(2);
    expect(ranges[1]).toMatch(/^bytes=[1-9]\d*-$/);

    // Its smoke prediction never ends.
    coordinator.desiredModels = [versionOn(bench, '2', Buffer.alloc(3_000_000, 2), 2n)];
    await untilKilled(
      bench,
      token,
      () => coordinator.until(() => existsSync(join(bench.stateDir, 'deployed/m1/v-2'))),
      'predict',
    );
    expect(activeOnDisk(bench)).toBe('v-1');
    coordinator.holdReceipts = true;
    await untilKilled(bench, token, async () => {
      await coordinator.until(() => activeOnDisk(bench) === 'v-2');
    });
    // What came before the kill is not fetched again.
    expect(gets()).toEqual([]);
    coordinator.holdReceipts = false;
    await untilKilled(bench, token, async () => {
      await coordinator.until(() => coordinator.observed('m1')?.activeVersionId === 'v-2');
      expect(coordinator.observed('m1')).toMatchObject({ state: 'active', previousVersionId: 'v-1' });
    });
    expect(gets()).toEqual([]);
    expect((await readdir(join(bench.stateDir, 'deployed/m1'))).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  }));

test('killed at any moment: the pointer leads to files that are whole', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    const token = coordinator.token();
    for (const [index, delayMs] of [0, 5, 12, 30, 60].entries()) {
      const version = versionOn(bench, String(index), Buffer.alloc(2_000_000, index), BigInt(index + 1));
      await untilKilled(bench, token, async () => {
        await coordinator.until(() => coordinator.of('observedState').length > 0);
        coordinator.desire(version);
        await new Promise((resolve) => setTimeout(resolve, delayMs));
      });
      if (activeOnDisk(bench) === '') continue;
      const { active, previous } = await pointerOf(bench);
      for (const { path, sha256 } of [...active.artifacts, ...(previous?.artifacts ?? [])]) {
        const bytes = await readFile(join(bench.stateDir, 'deployed/m1', path));
        expect(createHash('sha256').update(bytes).digest('hex')).toBe(sha256);
      }
    }
    await untilKilled(bench, token, () =>
      coordinator.until(() => coordinator.observed('m1')?.activeVersionId === 'v-4'),
    );
  }));
