import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { openSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { OctomilError } from '@octomil/shared/errors';
import type { CoordinatorProcess } from './coordinator-process.js';

/** What a load process is told: the agents it runs. */
export interface LoadProcessTask {
  readonly coordinator: string;
  readonly agents: readonly {
    readonly deviceIdentifier: string;
    readonly enrollmentToken: string;
    readonly stateDir: string;
    readonly dataPath?: string;
  }[];
  /** Work in the agents' own process instead of a trainer process each: for many agents in one load process. */
  readonly trainInProcess: boolean;
}

export interface AgentProcess {
  readonly child: ChildProcess;
  readonly task: LoadProcessTask;
}

export interface AgentsOptions {
  readonly coordinator: CoordinatorProcess;
  readonly apiKey: string;
  readonly folder: string;
  readonly count: number;
  /** They share the agents evenly. */
  readonly processes: number;
  /** One data file per agent; without, agents offer no data. */
  readonly dataPaths?: readonly string[];
}

/** Enrols and starts agents in processes of their own, and waits until every one is connected. */
export async function startAgentProcesses(options: AgentsOptions): Promise<AgentProcess[]> {
  const agents = await Promise.all(
    Array.from({ length: options.count }, async (_, index) => {
      const stateDir = join(options.folder, `agent-${index}`);
      await mkdir(stateDir, { recursive: true, mode: 0o700 });
      const dataPath = options.dataPaths?.[index];
      return {
        deviceIdentifier: `site-${String(index).padStart(3, '0')}`,
        enrollmentToken: await mintToken(options.coordinator.restUrl, options.apiKey),
        stateDir,
        ...(dataPath === undefined ? {} : { dataPath }),
      };
    }),
  );
  const perProcess = Math.ceil(options.count / options.processes);
  const tasks: LoadProcessTask[] = [];
  for (let from = 0; from < agents.length; from += perProcess) {
    tasks.push({
      coordinator: `http://${options.coordinator.grpcAddress}`,
      agents: agents.slice(from, from + perProcess),
      trainInProcess: perProcess > 1,
    });
  }
  return Promise.all(tasks.map((task, index) => startAgentProcess(task, join(options.folder, `agents-${index}.log`))));
}

export async function startAgentProcess(task: LoadProcessTask, logFile: string): Promise<AgentProcess> {
  const log = openSync(logFile, 'a');
  const child = fork(fileURLToPath(new URL('./load-process.js', import.meta.url)), {
    stdio: ['ignore', log, log, 'ipc'],
    execArgv: [],
  });
  child.send(task);
  const ended = once(child, 'exit').then(() => 'ended' as const);
  if ((await Promise.race([once(child, 'message'), ended])) === 'ended') {
    throw new OctomilError('runtime_unavailable', `the agents ended before they were connected; see ${logFile}`);
  }
  return { child, task };
}

export async function endProcess({ child }: Pick<AgentProcess, 'child'>, signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill(signal);
  await exited;
}

export async function mintToken(restUrl: string, apiKey: string): Promise<string> {
  const response = await fetch(`${restUrl}/api/v1/enrollment-tokens`, {
    method: 'POST',
    headers: { authorization: `Bearer ${apiKey}`, 'content-type': 'application/json' },
    body: '{}',
  });
  const body = (await response.json()) as { token?: string; message?: string };
  if (body.token === undefined) throw new OctomilError('internal', `no enrolment token: ${body.message}`);
  return body.token;
}
