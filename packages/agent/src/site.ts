import { availableParallelism, hostname, totalmem } from 'node:os';
import { ABILITIES } from '@octomil/shared/training';
import type { AuditLog } from './audit/audit-log.js';
import type { AgentConfig } from './config/agent-config.js';
import type { DataSetSummaries } from './data-sets/summary.js';
import { policyNow } from './policy/paused.js';
import type { HelloFacts } from './session/coordinator-session.js';
import { AGENT_VERSION } from './version.js';

/** A first connection waits this long for the data sets to be read; after it they are told of when they are. */
const FIRST_READ_MS = 10_000;

/** What this site says of itself: machine, labels, data sets, policy. */
export class Site {
  readonly #config: AgentConfig;
  readonly #summaries: DataSetSummaries;
  readonly #audit: Pick<AuditLog, 'record'>;
  readonly #wait: (delayMs: number) => Promise<void>;
  #told = '';
  #written: Promise<void> = Promise.resolve();

  constructor(
    config: AgentConfig,
    summaries: DataSetSummaries,
    audit: Pick<AuditLog, 'record'>,
    wait: (delayMs: number) => Promise<void>,
  ) {
    this.#config = config;
    this.#summaries = summaries;
    this.#audit = audit;
    this.#wait = wait;
  }

  /** Whether everything is refused for now. */
  get paused(): boolean {
    return policyNow(this.#config).paused === true;
  }

  /** Written to the audit log whenever it is not what was told before. */
  async summary(): Promise<HelloFacts['site']> {
    const { labels, policy } = this.#config;
    const paused = this.paused;
    const dataSets = this.#summaries.current;
    const policyRules = policy.allow.map(({ name, federations, models, dataSets: allowed }) => ({
      name,
      federations: [...federations],
      models: [...models],
      dataSets: [...allowed],
    }));
    const details = { machine: this.#machine(), labels, dataSets, policyRules, paused };
    const told = JSON.stringify(details);
    if (told !== this.#told) {
      this.#told = told;
      this.#written = this.#audit.record({ kind: 'site_summary', details });
      this.#written.catch(() => {
        this.#told = '';
      });
    }
    // Also for who asks meanwhile: nothing leaves before it is written.
    await this.#written;
    return {
      labels: { ...labels },
      dataSets: dataSets.map((dataSet) => ({ ...dataSet, rowCount: BigInt(dataSet.rowCount) })),
      policyRules,
      paused,
    };
  }

  async hello(): Promise<HelloFacts> {
    await Promise.race([this.#summaries.refresh(), this.#wait(FIRST_READ_MS)]);
    const { agentVersion, hostName, ...machine } = this.#machine();
    return {
      agentVersion,
      hostName,
      capabilities: { ...machine, memoryBytes: BigInt(machine.memoryBytes) },
      site: await this.summary(),
    };
  }

  #machine() {
    return {
      agentVersion: AGENT_VERSION,
      hostName: hostname(),
      platform: process.platform,
      architecture: process.arch,
      cpuCount: availableParallelism(),
      memoryBytes: totalmem(),
      nodeVersion: process.versions.node,
      trainers: [...new Set(['tfjs', 'echo', ...Object.keys(this.#config.trainers)])],
      computeBackends: (process.env['OCTOMIL_TFJS_BACKENDS'] ?? '').split(',').filter((name) => name !== ''),
      strategies: ['scaffold'],
      abilities: [...ABILITIES],
    };
  }
}
