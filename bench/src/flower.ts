import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { OctomilError } from '@octomil/shared/errors';
import { freePort } from './coordinator-process.js';
import { processMemoryMiB } from './process-memory.js';

const PROGRAMS = resolve(import.meta.dirname, '../../node_modules/.peers/bin');
const APP = resolve(import.meta.dirname, '../flower');
const LIMIT_MS = 900_000;
const SAMPLE_MS = 50;

export interface FlowerRounds {
  /** From the beginning of each round to that of the next. */
  readonly durationsMs: readonly number[];
  /** SuperLink and its ServerApp process together, at their highest. */
  readonly serverPeakRssMiB: number;
}

/**
 * Rounds of Flower's FedAvg with nodes that return what they were given, on its deployment runtime as its documentation
 * starts it: a SuperLink with its database in a file, a SuperNode for each agent, `flwr run`. Nothing else is set.
 *
 * @throws OctomilError `not_found` where scripts/install-peers.js has not installed it
 */
export async function flowerRounds(options: {
  readonly agents: number;
  readonly sizeMb: number;
  readonly rounds: number;
  readonly folder: string;
}): Promise<FlowerRounds> {
  if (!existsSync(join(PROGRAMS, 'flwr'))) {
    throw new OctomilError('not_found', 'Flower is not installed here; run node scripts/install-peers.js first');
  }
  const home = join(options.folder, 'flower');
  mkdirSync(home, { recursive: true });
  const port = await freePort();
  const environment = {
    ...process.env,
    FLWR_HOME: home,
    FLWR_TELEMETRY_ENABLED: '0',
    PATH: `${PROGRAMS}:${process.env['PATH']}`,
  };
  writeFileSync(
    join(home, 'config.toml'),
    `[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = "127.0.0.1:${port}"\ninsecure = true\n`,
  );
  const started: ChildProcess[] = [];
  const start = (name: string, ...args: string[]): ChildProcess => {
    const log = openSync(join(home, `${name}.log`), 'a');
    const child = spawn(join(PROGRAMS, name), args, { env: environment, stdio: ['ignore', log, log], detached: true });
    closeSync(log);
    started.push(child);
    return child;
  };
  let peakMiB = 0;
  let sampling: NodeJS.Timeout | undefined;
  try {
    const link = start('flower-superlink', '--insecure', '--port', String(port), '--database', join(home, 'state.db'));
    await sleep(5_000);
    for (let agent = 0; agent < options.agents; agent++) {
      start('flower-supernode', '--insecure', '--superlink', `127.0.0.1:${port}`, '--port', String(await freePort()));
    }
    sampling = setInterval(() => {
      peakMiB = Math.max(peakMiB, treeMemoryMiB(link.pid ?? 0));
    }, SAMPLE_MS);
    const config = `num-server-rounds=${options.rounds} size-mb=${options.sizeMb.toFixed(1)} agents=${options.agents}`;
    const { stdout } = await promisify(execFile)(
      join(PROGRAMS, 'flwr'),
      ['run', APP, 'local', '--stream', '--run-config', config],
      { env: environment, timeout: LIMIT_MS, maxBuffer: 64 * 1_048_576, cwd: home },
    );
    const times = /TIMES (\[[^\]]*\])/.exec(stdout.replaceAll('\n', ' '))?.[1];
    if (times === undefined)
      throw new OctomilError('internal', `Flower's run ended without its times: ${stdout.slice(-400)}`);
    const began = JSON.parse(times) as number[];
    const durationsMs = began.slice(1).map((at, index) => (at - (began[index] ?? at)) * 1_000);
    return { durationsMs, serverPeakRssMiB: peakMiB };
  } finally {
    clearInterval(sampling);
    for (const { pid } of started) killGroup(pid);
  }
}

/** Resident memory of a process and all that it started. */
function treeMemoryMiB(root: number): number {
  const parents = new Map<number, number>();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
      parents.set(Number(name), Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]));
    } catch {
      // Ended meanwhile.
    }
  }
  let sum = 0;
  for (const pid of parents.keys()) {
    let at: number | undefined = pid;
    while (at !== undefined && at !== root) at = parents.get(at);
    if (at === root) sum += processMemoryMiB(pid, 'VmRSS') || 0;
  }
  return sum;
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // Ended already.
  }
}
