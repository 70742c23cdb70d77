import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ModelRegistry, openRun } from '@octomil/sdk';
import { OctomilError } from '@octomil/shared/errors';
import { seededRandom } from '@octomil/shared/models';
import { type AgentProcess, endProcess, startAgentProcess, startAgentProcesses } from './agent-processes.js';
import { startBalancer } from './balancer.js';
import { checkAccounting } from './chaos-accounting.js';
import { type CoordinatorProcess, freePort, startCoordinatorProcess } from './coordinator-process.js';
import { freshDatabase } from './fresh-database.js';
import { type BenchmarkResult, percentile } from './result.js';
import { type BenchClient, startSession } from './session-run.js';

export interface ChaosOptions {
  readonly kills: number;
  /** Above 1, agents are killed too, and rounds need not wait for every agent. */
  readonly overSelection: number;
  readonly coordinators: number;
}

const AGENTS = 4;
const ROUNDS = 10;
const ROWS = 400;
const KILL_WITHIN_MS = 4_000;

/**
 * Trains 10-round sessions one after another while processes are killed with SIGKILL at random points, until `kills`
 * are done. Every session must finish. Where every agent is in the quorum, its weights must be those of an undisturbed
 * run, byte for byte; otherwise every accepted update must be counted exactly once.
 */
export async function chaosBench({ kills, overSelection, coordinators }: ChaosOptions): Promise<BenchmarkResult> {
  const everybody = overSelection === 1;
  const folder = await mkdtemp(join(tmpdir(), 'octomil-chaos-'));
  const database = coordinators > 1 ? await freshDatabase() : undefined;
  const random = seededRandom(20_261, 'chaos');
  const restPorts = await ports(coordinators);
  const grpcPorts = await ports(coordinators);
  const rest = await startBalancer(restPorts);
  const grpc = await startBalancer(grpcPorts);
  process.env['OCTOMIL_PUBLIC_URL'] = `http://127.0.0.1:${rest.port}`;
  if (coordinators > 1) process.env['OBJECT_STORE_URL'] = `file://${join(folder, 'objects')}?shared=true`;
  const launch = (index: number): Promise<CoordinatorProcess> =>
    startCoordinatorProcess({
      dataDir: join(folder, `coordinator-${index}`),
      ...(database === undefined ? {} : { databaseUrl: database.url }),
      restPort: restPorts[index] ?? 0,
      grpcPort: grpcPorts[index] ?? 0,
      logFile: join(folder, `coordinator-${index}.log`),
    });
  const running: CoordinatorProcess[] = [];
  for (let index = 0; index < coordinators; index += 1) running.push(await launch(index));
  const first = running[0];
  if (first === undefined) throw new OctomilError('internal', 'no coordinator was started');
  const apiKey = first.apiKey();
  const balanced = { ...first, restUrl: `http://127.0.0.1:${rest.port}`, grpcAddress: `127.0.0.1:${grpc.port}` };
  const agents = await startAgentProcesses({
    coordinator: balanced,
    apiKey,
    folder,
    count: AGENTS,
    processes: AGENTS,
    dataPaths: await writeTables(folder),
  });
  const client: BenchClient = { apiKey, apiBase: `${balanced.restUrl}/api/v1` };
  const readyAfterMs: number[] = [];
  const readyCpuMs: number[] = [];
  let done = false;
  try {
    await new ModelRegistry(client).ensureModel({ name: 'chaos' });
    const undisturbed = await train(client, everybody, overSelection);
    let killed = 0;
    let sessions = 0;
    let different = 0;
    const killer = async (): Promise<void> => {
      while (killed < kills && !done) {
        // Long enough on average that sessions get on between two kills: they are hit anywhere, not only at their start.
        await sleep(random.uniform() * KILL_WITHIN_MS);
        const target = Math.floor(random.uniform() * (coordinators + (everybody ? 0 : AGENTS)));
        if (target < coordinators) {
          await running[target]?.kill();
          const restarted = await launch(target);
          running[target] = restarted;
          readyAfterMs.push(restarted.readyAfterMs);
          readyCpuMs.push(restarted.readyCpuMs);
        } else {
          const index = target - coordinators;
          const agent = agents[index];
          if (agent === undefined) continue;
          await endProcess(agent, 'SIGKILL');
          agents[index] = await startAgentProcess(agent.task, join(folder, `agents-${index}.log`));
        }
        killed += 1;
      }
    };
    const killing = killer();
    killing.catch(() => undefined);
    while (killed < kills) {
      const { digest } = await Promise.race([train(client, everybody, overSelection), failureOf(killing)]);
      sessions += 1;
      if (digest !== undisturbed.digest) different += 1;
    }
    await killing;
    const accounting = database === undefined ? undefined : await checkAccounting(database.url);
    const exact = everybody ? { differentWeights: different } : {};
    const result: BenchmarkResult = {
      killed,
      sessions,
      finished: sessions,
      ...exact,
      ...(accounting === undefined ? {} : { ...accounting }),
      restartP50Ms: Math.round(percentile(readyAfterMs, 0.5)),
      restartP90Ms: Math.round(percentile(readyAfterMs, 0.9)),
      restartMaxMs: Math.round(Math.max(...readyAfterMs)),
      restartCpuP50Ms: Math.round(percentile(readyCpuMs, 0.5)),
      restartCpuMaxMs: Math.round(Math.max(...readyCpuMs)),
    };
    if (everybody && different > 0) {
      throw new OctomilError('internal', `${different} of ${sessions} sessions ended with other weights`, {
        details: result,
      });
    }
    return result;
  } finally {
    done = true;
    await Promise.all(agents.map((agent: AgentProcess) => endProcess(agent, 'SIGKILL')));
    await Promise.all(running.map((coordinator) => coordinator.kill()));
    await Promise.all([rest.close(), grpc.close()]);
    await database?.drop();
    if (process.env['OCTOMIL_BENCH_KEEP'] === undefined) await rm(folder, { recursive: true, force: true });
    else console.error(`kept ${folder}`);
  }
}

/** Rejects when `work` does; never resolves. */
function failureOf(work: Promise<unknown>): Promise<never> {
  return new Promise((_, reject) => {
    work.catch(reject);
  });
}

async function ports(count: number): Promise<number[]> {
  const found: number[] = [];
  for (let index = 0; index < count; index += 1) found.push(await freePort());
  return found;
}

/** One session of real training from the same fresh weights, and the digest of its version. */
async function train(client: BenchClient, everybody: boolean, overSelection: number): Promise<{ digest: string }> {
  const sessionId = await untilAnswered(() =>
    startSession(client, {
      model: 'chaos',
      base_version: 'initial',
      architecture: { name: 'mlp', hidden: [16], activation: 'relu', output: { kind: 'binary' } },
      target: 'outcome',
      rounds: ROUNDS,
      min_updates: everybody ? AGENTS : AGENTS - 1,
      over_selection: overSelection,
      local: { epochs: 1, batch_size: 32, learning_rate: 0.05, optimizer: 'sgd' },
      seed: 7,
      publish: false,
      round_deadline_seconds: 300,
      no_progress_seconds: 15,
      max_round_retries: 20,
    }),
  );
  const { digest } = await openRun(sessionId, client).result();
  return { digest };
}

/** A coordinator may be killed while it answers; a session that was started twice does no harm here. */
async function untilAnswered<T>(ask: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await ask();
    } catch (error) {
      if (attempt === 50 || !(error instanceof TypeError)) throw error;
      await sleep(200);
    }
  }
}

/** Seeded tables with a signal, one per agent. */
async function writeTables(folder: string): Promise<string[]> {
  return Promise.all(
    Array.from({ length: AGENTS }, async (_, site) => {
      const random = seededRandom(site + 1, 'chaos-table');
      const lines = ['a,b,c,d,outcome'];
      for (let row = 0; row < ROWS; row += 1) {
        const [a = 0, b = 0, c = 0, d = 0] = Array.from({ length: 4 }, () => random.uniform() * 2 - 1);
        const outcome = a - 0.5 * b + 0.3 * c * d + (random.uniform() - 0.5) * 0.5 > 0 ? 1 : 0;
        lines.push(
          [a, b, c, d]
            .map((value) => value.toFixed(4))
            .join(',')
            .concat(`,${outcome}`),
        );
      }
      const path = join(folder, `table-${site}.csv`);
      await writeFile(path, `${lines.join('\n')}\n`);
      return path;
    }),
  );
}
