import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Agent, parseAgentConfig, startAgent } from '@octomil/agent';
import { type Coordinator, type CoordinatorOptions, startCoordinator } from '@octomil/coordinator';
import { Federation, ModelRegistry, Organization } from '@octomil/sdk';
import type { DataSource } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { Lifecycle, type Logger, type Service, silentLogger, systemClock } from '@octomil/shared/runtime';
import { InProcessTrainer, type Trainer } from '@octomil/shared/training';
import { writeGeneratedSites } from '../demo/site-files.js';

export interface FleetAgentOptions {
  /** Device identifier. */
  readonly name: string;
  /** Files by data set name. Default: a generated hospital as `default`. */
  readonly dataSets?: Readonly<Record<string, string | DataSource>>;
  readonly labels?: Readonly<Record<string, string>>;
  /** As in `agent.yaml`. Default: everything is allowed, which only a test may say. */
  readonly policy?: Readonly<Record<string, unknown>> & {
    readonly allow: readonly Readonly<Record<string, unknown>>[];
  };
  /** Code of the site's own, as in `agent.yaml`; its paths are absolute. */
  readonly trainers?: Readonly<Record<string, unknown>>;
}

export interface FleetOptions {
  /** How many, named `site-1`, `site-2` …; or each described. */
  readonly agents: number | readonly FleetAgentOptions[];
  /** Files for the agents that name none, one each. Default: generated hospitals from `seed`. */
  readonly dataSets?: readonly (string | DataSource)[];
  /**
   * `in-process` (default) trains in this process; `process` gives every agent its own, as in earnest; or a trainer of
   * one's own per agent.
   */
  readonly trainer?: 'in-process' | 'process' | ((agentName: string) => Trainer);
  /** Over the fleet's own: embedded stores in a temporary folder, free ports. */
  readonly coordinator?: CoordinatorOptions;
  /** Of the generated data. Default 1. */
  readonly seed?: number;
  /** Default: silent. */
  readonly logger?: Logger;
}

export interface FleetAgent {
  readonly name: string;
  /** As a process that is stopped: work under way is abandoned. The others go on. */
  stop(): Promise<void>;
  /** Starts it again on the same state folder. */
  restart(): Promise<void>;
  readonly agent: Agent;
}

/** A coordinator and its agents in this process. */
export interface Fleet extends Service {
  readonly apiBase: string;
  readonly restUrl: string;
  readonly grpcAddress: string;
  /** Of the fleet's organization, with every scope. */
  readonly apiKey: string;
  readonly folder: string;
  readonly coordinator: Coordinator;
  readonly registry: ModelRegistry;
  readonly organization: Organization;
  readonly agents: readonly FleetAgent[];
  /** @throws OctomilError `not_found` for a name that no agent has */
  agent(name: string): FleetAgent;
  /** @param name default `fleet` */
  federation(name?: string): Federation;
  /** Stops all and removes the folder. Safe to repeat. */
  stop(): Promise<void>;
}

/** Target column of the data that a fleet generates. */
export { GENERATED_TARGET } from '../demo/hospitals.js';

/**
 * Starts the whole system in this process: for tests, examples and benchmarks. Resolves when every agent is connected.
 *
 * @throws OctomilError from the start of coordinator or agents; what had started by then is stopped
 */
export async function startFleet(options: FleetOptions): Promise<Fleet> {
  const lifecycle = new Lifecycle();
  try {
    return await compose(options, lifecycle);
  } catch (error) {
    await lifecycle.stop();
    throw error;
  }
}

async function compose(options: FleetOptions, lifecycle: Lifecycle): Promise<Fleet> {
  const folder = await mkdtemp(join(tmpdir(), 'octomil-fleet-'));
  lifecycle.onStop('folder', () => rm(folder, { recursive: true, force: true, maxRetries: 3 }));
  const logger = options.logger ?? silentLogger;
  const described = await describeAgents(options, join(folder, 'data'));
  const coordinator = lifecycle.add('coordinator', await startCoordinator(coordinatorOptions(options, folder, logger)));
  const { organizationId, context } = coordinator;
  // A database that was there before keeps the first key to itself.
  const apiKey = coordinator.bootstrapApiKey ?? (await context.keys.create(organizationId, 'fleet', ['admin'])).key;
  const apiBase = `${coordinator.restUrl}/api/v1`;
  const organization = new Organization({ apiBase, apiKey });
  const agents: RunningAgent[] = [];
  for (const agentOptions of described) {
    const { token } = await organization.createEnrollmentToken({ deviceIdentifier: agentOptions.name });
    const agent = new RunningAgent(agentOptions, {
      folder: join(folder, 'agents', agentOptions.name),
      coordinator: coordinator.grpcAddress,
      token: String(token),
      trainer: trainerFor(options.trainer, agentOptions.name),
      logger: logger.child({ agent: agentOptions.name }),
    });
    agents.push(lifecycle.add(agentOptions.name, agent));
  }
  await Promise.all(agents.map((agent) => agent.start()));
  await untilRead(organization);
  return {
    apiBase,
    apiKey,
    folder,
    coordinator,
    organization,
    agents,
    restUrl: coordinator.restUrl,
    grpcAddress: coordinator.grpcAddress,
    registry: new ModelRegistry({ apiBase, apiKey }),
    agent: (name) => {
      const found = agents.find((agent) => agent.name === name);
      if (found !== undefined) return found;
      const names = agents.map((agent) => agent.name).join(', ');
      throw new OctomilError('not_found', `the fleet has no agent ${name}; it has ${names}`);
    },
    federation: (name = 'fleet') => new Federation({ apiBase, apiKey, name }),
    stop: () => lifecycle.stop(),
  };
}

const READ_LIMIT_MS = 20_000;
const READ_POLL_MS = 25;

/** A busy machine reads a data set more slowly than its agent connects; until then the site would be left out. */
async function untilRead(organization: Organization): Promise<void> {
  const givenUpAtMs = systemClock.now() + READ_LIMIT_MS;
  while (systemClock.now() < givenUpAtMs) {
    if (!JSON.stringify(await organization.listDevices()).includes('it is still being read')) return;
    await systemClock.sleep(READ_POLL_MS);
  }
}

function coordinatorOptions(options: FleetOptions, folder: string, logger: Logger): CoordinatorOptions {
  const onServer = (options.coordinator?.environment?.['DATABASE_URL'] ?? '') !== '';
  return {
    logger,
    ...(onServer ? {} : { database: 'memory' }),
    ...options.coordinator,
    environment: {
      OCTOMIL_HOST: '127.0.0.1',
      OCTOMIL_REST_PORT: '0',
      OCTOMIL_GRPC_PORT: '0',
      OCTOMIL_DATA_DIR: join(folder, 'coordinator'),
      ...options.coordinator?.environment,
    },
  };
}

async function describeAgents(options: FleetOptions, folder: string): Promise<FleetAgentOptions[]> {
  const { agents, dataSets = [] } = options;
  const wanted: readonly FleetAgentOptions[] =
    typeof agents === 'number' ? Array.from({ length: agents }, (_, index) => ({ name: `site-${index + 1}` })) : agents;
  const described: FleetAgentOptions[] = [];
  let generated: string[] = [];
  for (const [index, agent] of wanted.entries()) {
    if (agent.dataSets !== undefined) {
      described.push(agent);
      continue;
    }
    let source = dataSets[index];
    if (source === undefined) {
      if (generated.length === 0) {
        const seed = (options.seed ?? 1) + index;
        generated = (await writeGeneratedSites(join(folder, String(seed)), seed)).map((site) => site.path);
      }
      source = generated.shift() ?? '';
    }
    described.push({ ...agent, dataSets: { default: source } });
  }
  return described;
}

function trainerFor(choice: FleetOptions['trainer'], name: string): (() => Trainer) | undefined {
  if (choice === 'process') return undefined;
  return typeof choice === 'function' ? () => choice(name) : () => new InProcessTrainer();
}

interface AgentSetting {
  readonly folder: string;
  readonly coordinator: string;
  readonly token: string;
  readonly trainer: (() => Trainer) | undefined;
  readonly logger: Logger;
}

class RunningAgent implements FleetAgent, Service {
  readonly name: string;
  readonly #options: FleetAgentOptions;
  readonly #setting: AgentSetting;
  #agent: Agent | undefined;

  constructor(options: FleetAgentOptions, setting: AgentSetting) {
    this.name = options.name;
    this.#options = options;
    this.#setting = setting;
  }

  /** @throws OctomilError `wrong_state` while it is stopped */
  get agent(): Agent {
    if (this.#agent === undefined) throw new OctomilError('wrong_state', `${this.name} is stopped`);
    return this.#agent;
  }

  async start(): Promise<void> {
    const { folder, trainer, logger } = this.#setting;
    await mkdir(folder, { recursive: true });
    const config = parseAgentConfig(this.#file(), { folder, environment: {} });
    this.#agent = await startAgent(config, { logger, ...(trainer === undefined ? {} : { trainer: trainer() }) });
    // Whoever waits for `ready` hears of it; nobody else needs to.
    this.#agent.finished.catch(() => undefined);
    await this.#agent.ready;
  }

  async restart(): Promise<void> {
    await this.stop();
    await this.start();
  }

  async stop(): Promise<void> {
    const agent = this.#agent;
    this.#agent = undefined;
    await agent?.stop();
  }

  #file(): Record<string, unknown> {
    const everything = { name: 'everything', federations: ['*'], models: ['*'], data_sets: ['*'] };
    return {
      coordinator: this.#setting.coordinator,
      device_identifier: this.name,
      enrollment_token: this.#setting.token,
      state_dir: 'state',
      data_sets: Object.fromEntries(
        Object.entries(this.#options.dataSets ?? {}).map(([name, source]) => [name, dataSetSetting(source)]),
      ),
      ...(this.#options.labels === undefined ? {} : { labels: this.#options.labels }),
      policy: this.#options.policy ?? { allow: [everything] },
      ...(this.#options.trainers === undefined ? {} : { trainers: this.#options.trainers }),
      stop_grace_seconds: 0,
    };
  }
}

/** A data source in the words of `agent.yaml`. */
function dataSetSetting(source: string | DataSource): unknown {
  if (typeof source === 'string') return source;
  const { decimalSeparator, thousandsSeparator, missingTexts, maxUnpackedBytes, ...rest } = source;
  return {
    ...rest,
    ...(decimalSeparator === undefined ? {} : { decimal_separator: decimalSeparator }),
    ...(thousandsSeparator === undefined ? {} : { thousands_separator: thousandsSeparator }),
    ...(missingTexts === undefined ? {} : { missing_texts: missingTexts }),
    ...(maxUnpackedBytes === undefined ? {} : { max_unpacked_mb: Math.ceil(maxUnpackedBytes / 1_048_576) }),
  };
}
