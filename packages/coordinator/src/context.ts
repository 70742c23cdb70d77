import { randomUUID } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { type Clock, createMetrics, type Lifecycle, type Logger, type Metrics } from '@octomil/shared/runtime';
import { Aggregator } from './aggregation/index.js';
import { type AuditLog, createAuditLog, registerAudit, registerAuditRoutes } from './audit/index.js';
import type { CoordinatorConfig } from './config.js';
import { createConversionService, readConverters, registerConversionRoutes } from './conversions/index.js';
import { createDeviceService, type DeviceService, registerDeviceApi } from './devices/index.js';
import { ProposalService, ProposalStore, registerFeatureRoutes } from './features/index.js';
import { Federations, registerFederationRoutes } from './federations/index.js';
import { createGrpcServer, type GrpcServer } from './grpc/index.js';
import {
  type App,
  createApp,
  IdempotencyStore,
  IdempotencySweeper,
  listen,
  openRedisCounts,
  RateLimits,
  registerHealthRoutes,
  registerIdempotency,
  SharedCounts,
} from './http/index.js';
import { createInferenceService, type InferenceService } from './inference/index.js';
import { createRegistryRoutes, Registry } from './models/index.js';
import {
  ApiKeys,
  bootstrapOrganization,
  Organizations,
  registerOrganizationRoutes,
  registerOrganizations,
} from './organizations/index.js';
import { createRolloutService, type RolloutService, registerRolloutRoutes } from './rollouts/index.js';
import { openStores, type Stores } from './stores.js';
import {
  createTrainingEngine,
  registerOpenRoutes,
  registerTrainingRoutes,
  type TrainingAggregator,
  type TrainingEngine,
} from './training/index.js';
import {
  createTransferService,
  DirectDownloads,
  registerTransferRoutes,
  type TransferService,
} from './transfers/index.js';
import { COORDINATOR_VERSION } from './version.js';

/** What tests and embedders may bring; everything else follows from the configuration. */
export interface ContextOverrides {
  readonly clock: Clock;
  readonly random: () => number;
  readonly logger: Logger;
  /** The embedded database in memory. */
  readonly inMemory: boolean;
  /** A dump to start an embedded database from. */
  readonly databaseDump: Blob | undefined;
  /** How long a silent device counts as online, in milliseconds. Default 15,000. */
  readonly leaseMs: number | undefined;
}

/** The parts of a running coordinator. Only here are concrete classes chosen and put together. */
export interface Context extends Stores {
  readonly config: CoordinatorConfig;
  readonly organizationId: string;
  readonly bootstrapApiKey: string | undefined;
  readonly metrics: Metrics;
  readonly audit: AuditLog;
  readonly keys: ApiKeys;
  readonly federations: Federations;
  readonly registry: Registry;
  readonly devices: DeviceService;
  readonly engine: TrainingEngine;
  readonly rollouts: RolloutService;
  readonly transfers: TransferService;
  readonly inference: InferenceService;
  readonly app: App;
  readonly grpc: GrpcServer;
  readonly restUrl: string;
}

/**
 * Opens the stores, composes the rooms and begins to serve. What was started is in `lifecycle`, also after a failure.
 *
 * @throws OctomilError `store_locked`, `schema_newer`, `port_in_use`, `config_invalid`, `network_unavailable`
 */
export async function startContext(
  config: CoordinatorConfig,
  overrides: ContextOverrides,
  lifecycle: Lifecycle,
): Promise<Context> {
  const { clock, random, logger } = overrides;
  const tls = config.tls === undefined ? undefined : await readTls(config.tls);
  const stores = await openStores({ ...overrides, config }, lifecycle);
  const { database, jobs, objects } = stores;
  const metrics = createMetrics({ processMetrics: true });
  const { organizationId, bootstrapApiKey } = await bootstrapOrganization(database, (key) =>
    writeFile(join(config.dataDir, 'bootstrap-key'), `${key}\n`, { mode: 0o600 }),
  );

  const coordinatorId = randomUUID();
  const audit = createAuditLog({ database });
  const keys = new ApiKeys(database, clock);
  const federations = new Federations(database);
  const registry = new Registry({ database, objects });
  const conversions = createConversionService({
    database,
    jobs,
    objects,
    clock,
    logger,
    settings: {
      coordinatorId,
      workFolder: join(dirname(stores.checkpointFolder), 'conversions'),
      workFolderShared: config.objectsShared,
      converters: config.convertersFile === undefined ? [] : await readConverters(config.convertersFile),
    },
  });
  const downloads = new DirectDownloads({ objects, clock, logger, allowed: !config.coordinatorDownloads });
  const models = createRegistryRoutes({
    conversions,
    registry,
    database,
    objects,
    clock,
    logger,
    downloads,
    jobs,
    signingSecret: (keyId) => keys.signingSecret(keyId),
    publicUrl: config.publicUrl,
  });
  const devices = createDeviceService({
    database,
    clock,
    logger,
    coordinatorId,
    random,
    ...(overrides.leaseMs === undefined ? {} : { leaseMs: overrides.leaseMs }),
  });
  const aggregator = lifecycle.add('aggregator', new Aggregator({ clock }));
  const proposalStore = new ProposalStore(database);
  const engine = createTrainingEngine({
    database,
    jobs,
    objects,
    aggregator: timed(aggregator, metrics, clock),
    registry,
    clock,
    logger,
    random,
    devices: devices.push,
    // What published clients start from.
    clientFormats: (versionId, transaction) => conversions.request(versionId, ['pytorch'], transaction),
    confirmedSpecs: proposalStore,
    settings: {
      coordinatorId,
      temporaryFolder: stores.checkpointFolder,
      retention: { keepUpdatesHours: config.keepUpdatesHours },
    },
  });
  const { assignments } = engine;
  const rollouts = createRolloutService({ database, jobs, registry, audit, clock, logger, random });
  const transfers = createTransferService({
    database,
    objects,
    downloads,
    jobs,
    assignments,
    rollouts,
    hub: devices.hub,
    clock,
    logger,
    settings: { stagingRoot: stores.uploadFolder },
  });
  const inference = createInferenceService({
    database,
    config: { ...config.inference, openAiApiKey: config.secrets.openAiApiKey },
    clock,
    logger,
  });

  let restUrl = '';
  const grpc = createGrpcServer({
    audit,
    devices,
    assignments,
    desired: rollouts,
    transfers,
    clock,
    logger,
    settings: {
      host: config.host,
      port: config.grpcPort,
      insecure: config.insecure,
      transferUrl: () => config.publicUrl ?? restUrl,
      coordinatorVersion: COORDINATOR_VERSION,
    },
    ...(tls === undefined ? {} : { tls: { certificate: tls.cert, key: tls.key } }),
  });
  const app = await createApp({
    authenticator: {
      verifyKey: (key) => keys.verify(key),
      verifyDeviceCredential: (credential) => devices.authenticate(credential),
    },
    logger,
    clock,
    metrics,
    limits: rateLimits(config, overrides, lifecycle),
    ...(config.trustedProxies === undefined ? {} : { trustedProxies: config.trustedProxies }),
    ...(tls === undefined ? {} : { tls }),
  });
  const repeats = new IdempotencyStore(database);
  registerAudit(app, audit);
  registerIdempotency(app, { store: repeats, clock, logger });
  const checks = {
    database: () => database.ping(),
    objects: async () => {
      await objects.put(`health/${coordinatorId}`, new Uint8Array(1));
    },
  };
  registerHealthRoutes(app, {
    checks,
    metrics,
    measure: () => {
      metrics.set('deviceSessions', devices.hub.size);
      metrics.set('unsettledRollouts', rollouts.unsettled);
    },
  });
  registerAuditRoutes(app, { audit });
  registerOrganizations(app, { organizations: new Organizations(database) });
  registerOrganizationRoutes(app, { database, keys, grpcUrl: () => grpcUrl(config, grpc) });
  registerFederationRoutes(app, { federations, models: registry.models });
  models.register(app);
  registerConversionRoutes(app, { registry, database, conversions });
  registerDeviceApi(app, {
    devices,
    desired: rollouts,
    verifyKey: (key) => keys.verify(key),
    database,
    objects,
    clock,
    logger,
    publicUrl: config.publicUrl,
  });
  registerRolloutRoutes(app, { rollouts, registry });
  registerTransferRoutes(app, { transfers, onRevoked: (deviceId, cut) => devices.onRevoked(deviceId, cut) });
  registerTrainingRoutes(app, { engine, logger });
  registerFeatureRoutes(app, { proposals: new ProposalService({ store: proposalStore, engine }), engine });
  registerOpenRoutes(app, { engine, maxInlineBytes: config.maxInlineUpdateMib * 1024 * 1024 });

  inference.register(app);

  lifecycle.onStop('health object', () => objects.delete(`health/${coordinatorId}`));
  models.artifacts.start();
  lifecycle.onStop('artifact sweep', () => models.artifacts.stop());
  await models.direct.start();
  lifecycle.onStop('uploads to the bucket', () => models.direct.stop());
  await transfers.start();
  lifecycle.onStop('transfers', () => transfers.stop());
  await devices.start();
  lifecycle.onStop('devices', () => devices.stop());
  await rollouts.start();
  lifecycle.onStop('rollouts', () => rollouts.stop());
  await conversions.start();
  lifecycle.onStop('conversions', () => conversions.stop());
  await engine.start();
  lifecycle.onStop('engine', () => engine.stop());
  const sweeper = new IdempotencySweeper({ store: repeats, clock, logger });
  sweeper.start();
  lifecycle.onStop('stored answers', () => sweeper.stop());
  lifecycle.onStop('REST', () => app.close());
  inference.start();
  lifecycle.onStop('inference', () => inference.stop());
  restUrl = await listen(app, { host: config.host, port: config.restPort, tls: tls !== undefined });
  lifecycle.onStop('gRPC', () => grpc.stop());
  await grpc.start();
  logger.info({ restUrl, grpc: grpc.address, jobs: jobs.backend, database: database.kind }, 'coordinator started');
  return {
    ...stores,
    config,
    organizationId,
    bootstrapApiKey,
    metrics,
    audit,
    keys,
    federations,
    registry,
    devices,
    engine,
    rollouts,
    transfers,
    inference,
    app,
    grpc,
    restUrl,
  };
}

function rateLimits(config: CoordinatorConfig, { clock, logger }: ContextOverrides, lifecycle: Lifecycle): RateLimits {
  const { redisUrl } = config.secrets;
  if (redisUrl === undefined || config.rateLimit === 0) return new RateLimits({ clock, perSecond: config.rateLimit });
  const store = openRedisCounts(redisUrl, logger);
  lifecycle.onStop('request counts', () => store.close());
  return new RateLimits({ clock, perSecond: config.rateLimit, shared: new SharedCounts({ store, clock, logger }) });
}

function timed(aggregator: Aggregator, metrics: Metrics, clock: Clock): TrainingAggregator {
  return {
    validate: (job, signal) => aggregator.validate(job, signal),
    aggregate: async (job, signal) => {
      const startedAtMs = clock.now();
      const result = await aggregator.aggregate(job, signal);
      metrics.observe('aggregationSeconds', { strategy: job.strategy }, (clock.now() - startedAtMs) / 1000);
      return result;
    },
  };
}

/** Where agents reach gRPC: the public name when there is one, with the port that was bound. */
function grpcUrl(config: CoordinatorConfig, grpc: GrpcServer): string {
  const scheme = config.tls === undefined ? 'grpc' : 'grpcs';
  if (config.publicUrl === undefined) return `${scheme}://${grpc.address}`;
  return `${scheme}://${new URL(config.publicUrl).hostname}:${grpc.address.replace(/^.*:/, '')}`;
}

async function readTls(files: { certFile: string; keyFile: string }): Promise<{ cert: Buffer; key: Buffer }> {
  const read = async (setting: string, path: string): Promise<Buffer> => {
    try {
      return await readFile(path);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new OctomilError('config_invalid', `${setting}=${path} cannot be read: ${reason}`, { cause: error });
    }
  };
  return { cert: await read('OCTOMIL_TLS_CERT', files.certFile), key: await read('OCTOMIL_TLS_KEY', files.keyFile) };
}
