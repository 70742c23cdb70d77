import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Logger } from '@octomil/shared/runtime';
import { type Agent, type AgentOverrides, startAgent } from '../agent.js';
import type { AgentConfig } from '../config/agent-config.js';
import { parseAgentConfig } from '../config/load-config.js';
import { FakeCoordinator, type FakeTls } from './fake-coordinator.js';
import { FakeTrainer } from './fake-trainer.js';

export interface LogLine {
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  readonly fields: Record<string, unknown>;
  readonly message: string;
}

export function recordingLogger(lines: LogLine[]): Logger {
  const at =
    (level: LogLine['level']) =>
    (fields: object, message: string): void => {
      lines.push({ level, fields: fields as Record<string, unknown>, message });
    };
  const logger: Logger = {
    debug: at('debug'),
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    child: () => logger,
  };
  return logger;
}

/** A policy that lets federation "heart" train every model on every data set. */
export const OPEN_POLICY = {
  allow: [{ name: 'heart study', federations: ['heart'], models: ['*'], data_sets: ['*'] }],
};

/** A coordinator, a folder, and the agents that a test starts on it; everything ends with `close`. */
export class Bench {
  readonly coordinator: FakeCoordinator;
  readonly stateDir: string;
  readonly trainer = new FakeTrainer();
  readonly log: LogLine[] = [];
  readonly #agents: Agent[] = [];

  private constructor(coordinator: FakeCoordinator, stateDir: string) {
    this.coordinator = coordinator;
    this.stateDir = stateDir;
  }

  static async open(tls?: FakeTls): Promise<Bench> {
    const coordinator = await new FakeCoordinator(tls).start();
    return new Bench(coordinator, await mkdtemp(join(tmpdir(), 'octomil-agent-')));
  }

  config(settings: Record<string, unknown> = {}): AgentConfig {
    return parseAgentConfig(
      {
        coordinator: this.coordinator.address,
        device_identifier: 'hospital-001',
        enrollment_token: this.coordinator.token(),
        state_dir: this.stateDir,
        policy: OPEN_POLICY,
        stop_grace_seconds: 0,
        ...settings,
      },
      { folder: this.stateDir, environment: {} },
    );
  }

  async start(settings: Record<string, unknown> = {}, overrides: AgentOverrides = {}): Promise<Agent> {
    const agent = await startAgent(this.config(settings), {
      trainer: this.trainer,
      logger: recordingLogger(this.log),
      summarize: async (sources) =>
        sources.map(() => ({ rowCount: 120, format: 'csv', digest: 'd'.repeat(64), problem: '' })),
      ...overrides,
    });
    this.#agents.push(agent);
    return agent;
  }

  async audit(): Promise<Record<string, unknown>[]> {
    const text = await readFile(join(this.stateDir, 'audit.jsonl'), 'utf8').catch(() => '');
    return text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  async close(): Promise<void> {
    for (const agent of this.#agents) await agent.stop();
    await this.coordinator.stop();
    await rm(this.stateDir, { recursive: true, force: true });
  }
}

/** Runs a test on a bench and takes it down afterwards, also when it fails. */
export async function onBench(run: (bench: Bench) => Promise<void>, tls?: FakeTls): Promise<void> {
  const bench = await Bench.open(tls);
  try {
    await run(bench);
  } finally {
    await bench.close();
  }
}
