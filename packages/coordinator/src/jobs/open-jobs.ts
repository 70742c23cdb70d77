import { OctomilError } from '@octomil/shared/errors';
import type { Logger } from '@octomil/shared/runtime';
import {
  type BackendFactory,
  createPostgresBackend,
  createRedisBackend,
  type IQueueBackend,
  runMigrations,
  withBackend,
} from 'bullmq';
import { Redis } from 'ioredis';
import pg from 'pg';
import type { PGliteDatabase } from '../database/pglite.js';
import type { PostgresDatabase } from '../database/postgres.js';
import { outsideAnyTransaction, refuseInsideTransaction } from '../database/transaction-guard.js';
import type { JobQueue, Jobs, JobWorker } from './jobs.js';
import { PGlitePool } from './pglite-pool.js';

export interface JobsOptions {
  readonly database: PGliteDatabase | PostgresDatabase;
  /** Moves the queues to Redis (5 or newer; 6.2 recommended); otherwise they live on the database. */
  readonly redisUrl?: string;
  readonly logger: Logger;
}

/** Lock and check intervals: a killed worker's job runs again within about 15 s; BullMQ's defaults need a minute. */
const TIMING = { lockDuration: 10_000, stalledInterval: 5_000, maxStalledCount: 1_000 } as const;
/** Any number that no one else locks: "octomil" on a telephone's keys. */
const MIGRATION_LOCK = 6_286_645;

/** Opens the job queues on Redis when a URL is given, otherwise on the database. */
export async function openJobs({ database, redisUrl, logger }: JobsOptions): Promise<Jobs> {
  if (redisUrl !== undefined) return openOnRedis(redisUrl, logger);
  if (database.kind === 'pglite') {
    const pool = new PGlitePool(database.pglite);
    await runMigrations(await pool.connect());
    // BullMQ names its tables without a schema, and there is one session for everybody.
    await database.pglite.exec('set search_path to public, bullmq');
    return bindJobs('pglite', createPostgresBackend, pool as never, logger);
  }
  const { connectionString } = database;
  await migrateOnPostgres(connectionString);
  // Each queue and each worker opens its own small pool, whose idle connections end after 10 s.
  const connection = { connectionString, max: 4, application_name: 'octomil-jobs' };
  return bindJobs('postgres', createPostgresBackend, connection, logger);
}

/** Several coordinators may start at once, so BullMQ's migrations run under a lock. */
async function migrateOnPostgres(connectionString: string): Promise<void> {
  const client = new pg.Client({ connectionString, connectionTimeoutMillis: 10_000 });
  await client.connect();
  try {
    await client.query('select pg_advisory_lock($1)', [MIGRATION_LOCK]);
    await runMigrations(client);
  } finally {
    await client.end();
  }
}

async function openOnRedis(redisUrl: string, logger: Logger): Promise<Jobs> {
  // Asked once by hand: BullMQ itself would wait for a server that never comes.
  const probe = new Redis(redisUrl, { lazyConnect: true, retryStrategy: () => null });
  probe.on('error', () => undefined);
  try {
    await probe.connect();
    await probe.ping();
  } catch (error) {
    throw new OctomilError('network_unavailable', `cannot reach the Redis of REDIS_URL: ${String(error)}`, {
      cause: error,
    });
  } finally {
    probe.disconnect();
  }
  // `null`, which BullMQ's blocking reads need: a command waits for the server however long it is away.
  return bindJobs('redis', createRedisBackend, { url: redisUrl, maxRetriesPerRequest: null }, logger);
}

interface Closable {
  close(): Promise<void>;
}

function bindJobs<B extends IQueueBackend, C>(
  backend: Jobs['backend'],
  factory: BackendFactory<B, C>,
  connection: C,
  logger: Logger,
): Jobs {
  const { Queue, Worker } = withBackend(factory);
  const workers = new Set<Closable>();
  const queues = new Set<Closable>();
  const closing = (set: Set<Closable>, inner: Closable): Closable => {
    let closed: Promise<void> | undefined;
    const handle = {
      close() {
        set.delete(handle);
        closed ??= inner.close();
        return closed;
      },
    };
    set.add(handle);
    return handle;
  };
  let stopped: Promise<void> | undefined;
  return {
    backend,

    async queue<D extends object>(name: string): Promise<JobQueue<D>> {
      refuseInsideTransaction(`job queue ${name}`);
      const queue = new Queue<D>(name, { connection });
      queue.on('error', (error) => logger.warn({ error, queue: name }, 'a job queue met an error'));
      await queue.waitUntilReady();
      const handle = closing(queues, queue);
      return {
        async add(data, options = {}) {
          refuseInsideTransaction(`job queue ${name}`);
          await queue.add(name as never, data as never, {
            // Whole, which PostgreSQL insists on.
            delay: Math.ceil(options.delayMs ?? 0),
            removeOnComplete: true,
            removeOnFail: true,
          });
        },
        close: () => handle.close(),
      };
    },

    async worker<D extends object>(
      name: string,
      handle: (data: D) => Promise<void>,
      concurrency: number,
    ): Promise<JobWorker> {
      refuseInsideTransaction(`job worker ${name}`);
      const worker = outsideAnyTransaction(
        () =>
          new Worker<D>(
            name,
            async (job) => {
              try {
                await handle(job.data);
              } catch (error) {
                // Rows are the truth: the sweep finds what this wake-up did not finish. A retry here would be a second one.
                logger.error({ error, queue: name, data: job.data }, 'a job failed; the next sweep looks again');
              }
            },
            { ...TIMING, concurrency, connection },
          ),
      );
      worker.on('error', (error) => logger.warn({ error, queue: name }, 'a job worker met an error'));
      await worker.waitUntilReady();
      return closing(workers, worker);
    },

    close() {
      stopped ??= (async () => {
        // Workers first: their jobs may still add to queues.
        await Promise.all([...workers].map((worker) => worker.close()));
        await Promise.all([...queues].map((queue) => queue.close()));
      })();
      return stopped;
    },
  };
}
