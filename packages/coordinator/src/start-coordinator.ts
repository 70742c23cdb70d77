import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Clock, createLogger, Lifecycle, type Logger, type Service, systemClock } from '@octomil/shared/runtime';
import { readCoordinatorConfig } from './config.js';
import { type Context, startContext } from './context.js';

export interface CoordinatorOptions {
  /** In place of `process.env`; see `readCoordinatorConfig` for the names. */
  readonly environment?: Readonly<Record<string, string | undefined>>;
  /**
   * `memory`: the embedded database in memory, free ports and a temporary folder that is removed at the end, unless
   * `environment` says otherwise. For tests.
   */
  readonly database?: 'memory';
  /** A dump to start an embedded database from; saves the first start a second or two. */
  readonly databaseDump?: Blob;
  /** Default: JSON lines on standard error, from `OCTOMIL_LOG_LEVEL` on. */
  readonly logger?: Logger;
  readonly clock?: Clock;
  /** Uniform in [0, 1). */
  readonly random?: () => number;
  /** How long a silent device counts as online, in milliseconds. Default 15,000. */
  readonly leaseMs?: number;
}

export interface Coordinator extends Service {
  /** Base of REST, such as `http://127.0.0.1:8000`. */
  readonly restUrl: string;
  /** `host:port` for agents. */
  readonly grpcAddress: string;
  readonly organizationId: string;
  /** The first key, only when this start made the organization; also in the file `bootstrap-key` of the data folder. */
  readonly bootstrapApiKey?: string;
  readonly context: Context;
  /** Ends sessions, lets jobs finish and closes the stores. Safe to repeat. */
  stop(): Promise<void>;
}

/**
 * Starts a coordinator in this process: REST, gRPC, training and its stores.
 *
 * @throws OctomilError `config_invalid` with every problem at once, `port_in_use`, `store_locked`, `schema_newer`,
 * `network_unavailable`; what had started by then is stopped
 */
export async function startCoordinator(options: CoordinatorOptions = {}): Promise<Coordinator> {
  const lifecycle = new Lifecycle();
  try {
    const config = readCoordinatorConfig(await environmentOf(options, lifecycle));
    const context = await startContext(
      config,
      {
        clock: options.clock ?? systemClock,
        random: options.random ?? Math.random,
        logger: options.logger ?? createLogger('coordinator', config.logLevel),
        inMemory: options.database === 'memory',
        databaseDump: options.databaseDump,
        leaseMs: options.leaseMs,
      },
      lifecycle,
    );
    const { bootstrapApiKey } = context;
    return {
      restUrl: context.restUrl,
      grpcAddress: context.grpc.address,
      organizationId: context.organizationId,
      ...(bootstrapApiKey === undefined ? {} : { bootstrapApiKey }),
      context,
      stop: () => lifecycle.stop(),
    };
  } catch (error) {
    // The first failure is the one that tells.
    await lifecycle.stop().catch(() => undefined);
    throw error;
  }
}

async function environmentOf(
  options: CoordinatorOptions,
  lifecycle: Lifecycle,
): Promise<Readonly<Record<string, string | undefined>>> {
  const environment = options.environment ?? (options.database === 'memory' ? {} : process.env);
  if (options.database !== 'memory') return environment;
  let dataDir = environment['OCTOMIL_DATA_DIR'];
  if (dataDir === undefined) {
    const folder = await mkdtemp(join(tmpdir(), 'octomil-coordinator-'));
    lifecycle.onStop('temporary folder', () => rm(folder, { recursive: true, force: true, maxRetries: 3 }));
    dataDir = folder;
  }
  return { OCTOMIL_REST_PORT: '0', OCTOMIL_GRPC_PORT: '0', ...environment, OCTOMIL_DATA_DIR: dataDir };
}
