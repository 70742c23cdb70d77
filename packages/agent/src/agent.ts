import { type Clock, createLogger, Lifecycle, type Logger, type Service, systemClock } from '@octomil/shared/runtime';
import { removeLeftRuns, type Trainer } from '@octomil/shared/training';
import { AuditLog } from './audit/audit-log.js';
import { FailureEntries } from './audit/failure-entries.js';
import { type DeviceConditions, SystemConditions } from './conditions/device-conditions.js';
import { Eligibility } from './conditions/eligibility.js';
import type { AgentConfig } from './config/agent-config.js';
import { environmentWithProxy } from './config/proxy.js';
import { bandwidthLimit } from './connection/bandwidth.js';
import { bearer, type CoordinatorClient, openCoordinatorClient } from './connection/coordinator-client.js';
import { HttpTransfers } from './connection/http-transfers.js';
import { FetchingTrainer } from './data-sets/fetching-trainer.js';
import { SiteData } from './data-sets/site-data.js';
import { DataSetSummaries, type Summarize, summarizeInProcess } from './data-sets/summary.js';
import { Deployments } from './deployments/deployments.js';
import { SiteEvaluator } from './deployments/site-evaluation.js';
import { AgentMetrics } from './http/agent-metrics.js';
import { startHealthServer } from './http/health-server.js';
import type { LocalApi } from './http/local-api.js';
import { BaseStore } from './models/base-store.js';
import { bucketBaseTransport } from './models/bucket-transport.js';
import { grpcBaseTransport, httpBaseTransport } from './models/transports.js';
import { policyNow } from './policy/paused.js';
import { DEFAULT_MAX_QUESTIONS, QuestionLog } from './policy/question-log.js';
import { watchPause } from './policy/watch-pause.js';
import { CoordinatorSession } from './session/coordinator-session.js';
import type { SessionDelegate } from './session/session-link.js';
import { Site } from './site.js';
import { Journal } from './state/journal.js';
import { openStateFolder } from './state/state-folder.js';
import { removeStrayUpdates } from './state/stray-updates.js';
import { Assignments } from './training/assignments.js';
import { ControlVariates } from './training/control-variates.js';
import { LazyTrainer } from './training/lazy-trainer.js';
import { SiteRunner } from './training/site-runner.js';

/** A running agent. */
export interface Agent extends Service {
  /** Undefined until enrolled. */
  readonly deviceId: string | undefined;
  /** Of `/metrics`; undefined where it is not served. */
  readonly metricsPort: number | undefined;
  readonly connected: boolean;
  /** Resolves with the first session; rejects when there can be none (spent enrolment token) or the agent is stopped. */
  readonly ready: Promise<void>;
  /** Resolves after `stop`; rejects when the agent cannot go on. Stop it then as well. */
  readonly finished: Promise<void>;
  /** Waits for running work within the configured grace, then abandons it. Safe to repeat. */
  stop(): Promise<void>;
}

/** What tests and `startFleet` replace. */
export interface AgentOverrides {
  readonly trainer?: Trainer;
  readonly summarize?: Summarize;
  /** What the machine says of battery, network, load and disk. */
  readonly conditions?: DeviceConditions;
  readonly clock?: Clock;
  readonly random?: () => number;
  readonly logger?: Logger;
}

/** How often the data files are looked at for changes; sooner where one cannot be used, since somebody mends it. */
const DATA_CHECK_MS = 60_000;
const BROKEN_DATA_CHECK_MS = 2_000;

/**
 * Starts the agent on its state folder and returns at once: the coordinator may be down, and is looked for until it
 * answers.
 *
 * @throws OctomilError `store_locked` when another agent uses the state folder, `config_invalid` when it cannot be used,
 * `port_in_use` for the metrics port
 */
export async function startAgent(config: AgentConfig, overrides: AgentOverrides = {}): Promise<Agent> {
  const clock = overrides.clock ?? systemClock;
  const logger = overrides.logger ?? createLogger('agent', config.logLevel);
  const lifecycle = new Lifecycle();
  try {
    return await compose(config, overrides, clock, logger, lifecycle);
  } catch (error) {
    await lifecycle.stop();
    throw error;
  }
}

async function compose(
  config: AgentConfig,
  overrides: AgentOverrides,
  clock: Clock,
  logger: Logger,
  lifecycle: Lifecycle,
): Promise<Agent> {
  const folder = await openStateFolder(config.stateDir, () => clock.now());
  lifecycle.onStop('state folder', () => folder.close());
  // What a killed agent's code left: rows among it.
  await removeLeftRuns(folder.workPath);
  const metrics = new AgentMetrics();
  const audit = new AuditLog(folder.auditPath, { clock });
  lifecycle.onStop('audit log', () => audit.close());
  const failures = new FailureEntries({ audit, clock });
  lifecycle.onStop('failure entries', () => failures.stop());
  const journal = Journal.open(folder.journalPath);
  await removeStrayUpdates(folder.updatesPath, journal);

  const credential = (): string => session.credential?.credential ?? '';
  const bandwidth = bandwidthLimit(config.policy.resources?.bandwidthMbit, clock);
  const http = new HttpTransfers(config, credential, bandwidth);
  lifecycle.onStop('HTTP transfers', () => http.close());
  let bulk: CoordinatorClient | undefined;
  const bulkClient = (): CoordinatorClient => {
    bulk ??= openCoordinatorClient(config);
    return bulk;
  };
  lifecycle.onStop('bulk channel', () => bulk?.close());
  const metadata = () => bearer(credential());

  const data = new SiteData({
    folder: folder.sourcesPath,
    maxBytes: config.sourceCacheBytes,
    environment: environmentWithProxy(process.env, config.proxy),
    clock,
    bandwidth,
  });
  lifecycle.onStop('remote data', () => data.stop());
  await data.start(config.dataSets);
  const trainer = new FetchingTrainer(overrides.trainer ?? new LazyTrainer(config.trainer, { clock, logger }), data);
  lifecycle.onStop('trainer', () => trainer.stop());
  const bases = new BaseStore({
    folder: folder.modelsPath,
    maxBytes: config.modelsCacheBytes,
    transports: [
      ...(config.directDownloads ? [bucketBaseTransport({ http, clock, logger })] : []),
      httpBaseTransport(http),
      grpcBaseTransport(bulkClient, metadata),
    ],
    bandwidth,
    clock,
    logger,
    referenced: (sha256) => deployments.referenced(sha256),
    onDownloaded: (sizeBytes) => metrics.add('octomil_agent_downloaded_bytes_total', sizeBytes),
  });
  const summaries = new DataSetSummaries({
    dataSets: config.dataSets,
    path: folder.summariesPath,
    summarize: overrides.summarize ?? summarizeInProcess,
    data,
    logger,
  });
  lifecycle.onStop('data set summaries', () => summaries.stop());
  const site = new Site(config, summaries, audit, (delayMs) => wait(clock, delayMs));
  const tellSummary = async (): Promise<void> => {
    assignments.send({ case: 'siteSummary', value: await site.summary() });
  };
  const digestOf = async (name: string): Promise<string> => {
    if (await summaries.refresh(name)) await tellSummary();
    return summaries.digestOf(name);
  };
  const questions = new QuestionLog(folder.questionsPath, config.policy.maxQuestions ?? DEFAULT_MAX_QUESTIONS);
  const device = overrides.conditions ?? new SystemConditions({ stateDir: config.stateDir, metered: config.metered });
  const current: AgentConfig = {
    ...config,
    get policy() {
      return policyNow(config);
    },
  };
  const eligibility = new Eligibility(config.conditions, device, clock);
  const localApi = localApiOnDemand(folder.localApiPath, logger, () => deployments);
  lifecycle.onStop('local interface', () => localApi.stop());
  const deployments: Deployments = new Deployments({
    config,
    path: folder.deployedPath,
    store: bases,
    trainer,
    evaluator: new SiteEvaluator({ config: current, trainer, audit, questions, digestOf, logger }),
    eligibility,
    audit,
    busy: () => assignments.running,
    onFirstModel: () => localApi.start(),
    clock,
    random: overrides.random ?? Math.random,
    logger,
  });
  lifecycle.onStop('deployments', () => deployments.stop());
  const assignments: Assignments = new Assignments({
    journal,
    clock,
    logger,
    runner: new SiteRunner({
      config: current,
      updatesPath: folder.updatesPath,
      workPath: folder.workPath,
      personalPath: folder.personalPath,
      controlVariates: new ControlVariates({ folder: folder.controlVariatesPath, bases, clock, logger }),
      journal,
      bases,
      trainer,
      audit,
      failures,
      eligibility,
      questions,
      digestOf,
      clock,
      logger,
      uploader: { http, grpc: bulkClient, metadata, clock, logger, bandwidth },
      onUploaded: (sizeBytes) => metrics.add('octomil_agent_uploaded_bytes_total', sizeBytes),
    }),
    onOutcome: (kind) => metrics.add('octomil_agent_assignments_total', 1, kind),
  });
  const delegate: SessionDelegate = {
    inProgress: () => assignments.inProgress(),
    connected: (link) => {
      metrics.add('octomil_agent_sessions_total');
      if (http.offer(link.welcome.transferUrl) === 'unsafe') {
        logger.warn(
          { transferUrl: link.welcome.transferUrl },
          'the coordinator offers HTTP transfers at an address that is not used: plaintext over the network (insecure: true would allow it), this machine itself, or more than a base URL; using gRPC',
        );
      }
      assignments.connected(link);
      deployments.connected(link);
    },
    received: (event) => {
      if (event.case === 'desiredState') deployments.desired(event.value);
      else if (event.case === 'observedReceipt') deployments.receipt();
      else assignments.received(event);
    },
    renewalSent: () => assignments.renewalSent(),
    renewalAnswered: () => assignments.renewalAnswered(),
    disconnected: () => {
      assignments.disconnected();
      deployments.disconnected();
    },
  };
  await deployments.start();
  const session = new CoordinatorSession({
    config,
    credentialPath: folder.credentialPath,
    audit,
    hello: () => site.hello(),
    delegate,
    clock,
    random: overrides.random ?? Math.random,
    logger,
  });
  lifecycle.add('session', session);
  lifecycle.onStop('assignments', () => assignments.stop(config.stopGraceMs));

  metrics.observe('octomil_agent_connected', () => (session.state.connected ? 1 : 0));
  metrics.observe('octomil_agent_assignments_running', () => assignments.running);
  metrics.observe('process_resident_memory_bytes', () => process.memoryUsage.rss());
  const health =
    config.metrics === undefined
      ? undefined
      : lifecycle.add(
          'health server',
          await startHealthServer({
            ...config.metrics,
            metrics,
            notReady: () =>
              session.state.connected ? undefined : (session.state.problem?.message ?? 'not connected yet'),
          }),
        );

  // The order of stops is the reverse: data checks, work (with its grace), session, and what they use.
  lifecycle.onStop('data checks', watchData(clock, summaries, tellSummary));
  lifecycle.onStop(
    'pause checks',
    watchPause(clock, () => site.paused, tellSummary),
  );
  assignments.start();
  logger.info({ deviceIdentifier: config.deviceIdentifier, stateDir: config.stateDir }, 'agent started');
  return {
    get deviceId() {
      return session.credential?.deviceId;
    },
    metricsPort: health?.port,
    get connected() {
      return session.state.connected;
    },
    ready: session.ready,
    finished: session.finished,
    stop: () => lifecycle.stop(),
  };
}

/** Opened with the first deployed model: an agent that only trains has no port for it. */
function localApiOnDemand(path: string, logger: Logger, deployments: () => Deployments) {
  let opening: Promise<LocalApi | undefined> | undefined;
  return {
    start: (): void => {
      opening ??= import('./http/local-api.js')
        .then(({ startLocalApi }) =>
          startLocalApi({
            path,
            counters: { record: (report) => deployments().record(report) },
            activate: (model) => deployments().activate(model),
          }),
        )
        .catch((error: unknown) => {
          logger.warn({ error }, 'the local interface could not be opened; inferences are not counted');
          return undefined;
        });
    },
    stop: async (): Promise<void> => {
      await (await opening)?.stop();
    },
  };
}

/** Looks at the data now and then, and tells the coordinator when some changed. */
function watchData(clock: Clock, summaries: DataSetSummaries, tell: () => Promise<void>): () => void {
  const calls = summaries.groups.map((group) => watchGroup(clock, summaries, group, tell));
  return () => {
    for (const callOff of calls) callOff();
  };
}

function watchGroup(
  clock: Clock,
  summaries: DataSetSummaries,
  { names, remote }: DataSetSummaries['groups'][number],
  tell: () => Promise<void>,
): () => void {
  let callOff = (): void => undefined;
  let stopped = false;
  let checkedAtMs = clock.now();
  let brokenCheckMs = BROKEN_DATA_CHECK_MS;
  const check = async (): Promise<void> => {
    if ((await summaries.refresh(names[0])) && !stopped) await tell();
  };
  const again = (): void => {
    callOff = clock.after(BROKEN_DATA_CHECK_MS, () => {
      const broken = summaries.current.some(({ name, problem }) => problem !== '' && names.includes(name));
      if (clock.now() < checkedAtMs + (broken ? brokenCheckMs : DATA_CHECK_MS)) return again();
      checkedAtMs = clock.now();
      // A store that fails is not helped by being asked all the time.
      brokenCheckMs = broken && remote ? Math.min(2 * brokenCheckMs, DATA_CHECK_MS) : BROKEN_DATA_CHECK_MS;
      void check()
        .catch(() => undefined)
        .finally(() => {
          if (!stopped) again();
        });
    });
  };
  // The first reading may outlast the wait before Hello.
  void check().catch(() => undefined);
  again();
  return () => {
    stopped = true;
    callOff();
  };
}

function wait(clock: Clock, delayMs: number): Promise<void> {
  return new Promise((resolve) => {
    clock.after(delayMs, resolve);
  });
}
