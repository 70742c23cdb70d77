import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { silentLogger } from '@octomil/shared/runtime';
import { EngineSupervisor } from './engine-supervisor.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'octomil-supervisor-'));
  const program = `process.on('message', () => process.send({ type: 'loaded', contextTokens: 1, rssBytes: 1 }));`;
  await writeFile(join(folder, 'child.mjs'), program);
});
afterAll(() => rm(folder, { recursive: true, force: true }));

test('failed loads wait ever longer; a process that lived long begins with the shortest wait again', async () => {
  let nowMs = 0;
  let delays: { delayMs: number; callback: () => void }[] = [];
  let broken = true;
  const clock = {
    now: () => nowMs,
    sleep: async () => undefined,
    after: (delayMs: number, callback: () => void) => {
      delays.push({ delayMs, callback });
      return () => undefined;
    },
  };
  const supervisor = new EngineSupervisor({
    load: {
      modelPath: '',
      draftModelPath: undefined,
      contextTokens: 1,
      parallelSequences: 1,
      threads: 1,
      gpu: false,
    },
    entry: { path: join(folder, 'child.mjs'), execArgv: [] },
    loadTimeoutMs: 120_000,
    // Seldom enough not to be taken for a restart.
    silenceLimitMs: 6_000_000,
    maxMemoryBytes: undefined,
    clock,
    logger: silentLogger,
    check: async () => {
      if (broken) throw new OctomilError('model_load_failed', 'no file');
    },
  });
  /** The wait before the next start, once there is one. */
  const nextDelay = async (): Promise<number> => {
    const isRestart = ({ delayMs }: { delayMs: number }): boolean => delayMs < 120_000;
    while (!delays.some(isRestart)) await new Promise((resolve) => setImmediate(resolve));
    const [restart] = delays.filter(isRestart);
    delays = [];
    restart?.callback();
    return restart?.delayMs ?? 0;
  };
  expect([await nextDelay(), await nextDelay(), await nextDelay()]).toEqual([500, 1_000, 2_000]);
  broken = false;
  expect(await nextDelay()).toBe(4_000);
  await supervisor.child();
  nowMs += 61_000;
  process.kill(supervisor.pid ?? 0, 'SIGKILL');
  expect(await nextDelay()).toBe(500);
  await supervisor.child();
  process.kill(supervisor.pid ?? 0, 'SIGKILL');
  expect(await nextDelay()).toBe(1_000);
  await supervisor.child();
  await supervisor.stop();
});
