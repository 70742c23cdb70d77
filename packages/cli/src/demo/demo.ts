import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  Federation,
  ModelRegistry,
  Organization,
  type TrainingEvent,
  type TrainingOptions,
  type TrainingResult,
  type TrainingRound,
  type TrainingSession,
} from '@octomil/sdk';
import { SourceFiles } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import type { ModelDocument } from '@octomil/shared/models';
import { Lifecycle, systemClock } from '@octomil/shared/runtime';
import { DEFAULT_LOCAL_OPTIONS } from '@octomil/shared/training';
import { stringify } from 'yaml';
import { CommandProcess } from './child-process.js';
import type { ComparedSite, Comparison } from './comparison.js';
import { GENERATED_TARGET } from './hospitals.js';
import { findSiteFiles, type SiteFile, writeGeneratedSites } from './site-files.js';

const FEDERATION = 'demo-federation';
const DATA_SET = 'patients';
const HOLDOUT_SHARE = 0.2;
const ONLINE_WITHIN_MS = 30_000;
/** Of remote sites' files together; as agents by default. */
const MAX_COPIES_BYTES = 16 * 2 ** 30;

/** Of the demo's model. A model's held-out rows follow from its name, so that another seed has another split. */
export function demoModelName(seed: number): string {
  return `cardiac-risk-${seed}`;
}

export interface DemoOptions {
  /** Folder with one table per site, or a prefix of a bucket (`s3://`, `gs://`, `az://` …). Default: four generated hospitals. */
  readonly data?: string | undefined;
  /** Needed with `data`. */
  readonly target?: string | undefined;
  readonly architecture: 'logistic' | 'mlp';
  readonly algorithm: string;
  readonly rounds: number;
  readonly localEpochs: number;
  readonly learningRate: number;
  readonly seed: number;
  readonly signal?: AbortSignal;
  /** Told what happens next. */
  readonly onStep?: (text: string) => void;
  readonly onEvent?: (event: TrainingEvent) => void;
  /** Told when training is over and the comparison begins. */
  readonly onTrained?: () => void;
}

/** Rows per step of the demo's local training. */
export const DEMO_BATCH_SIZE = 16;

export interface DemoRound {
  readonly round: number;
  readonly seconds: number | null;
  /** Of the checkpoint that the round made, on the held-out rows of the sites that took part. */
  readonly loss: number | null;
  readonly accuracy: number | null;
}

export interface DemoResult extends Comparison {
  readonly version: string;
  readonly digest: string;
  /** From the start of the processes to the end of the comparison. */
  readonly seconds: number;
  readonly rounds: readonly DemoRound[];
}

interface Fleet {
  readonly apiBase: string;
  readonly apiKey: string;
  /** Waits for `work`, or fails as soon as one of the processes dies. */
  guard<T>(work: Promise<T>): Promise<T>;
}

/**
 * The main job, as it is done in earnest: a coordinator and an agent per site, each a process of its own with a store of its
 * own in a temporary folder; then the comparison that only a demo may make. Leaves nothing behind.
 *
 * @throws OctomilError `invalid_input` for options or data that cannot be; OctomilClientError from the coordinator;
 * `internal` with its last log lines when a process dies; `cancelled` by the signal
 */
export async function runDemo(options: DemoOptions): Promise<DemoResult> {
  const startedAt = performance.now();
  const { onStep = () => undefined, signal } = options;
  const lifecycle = new Lifecycle();
  try {
    const folder = await mkdtemp(join(tmpdir(), 'octomil-demo-'));
    lifecycle.onStop('folder', () => rm(folder, { recursive: true, force: true, maxRetries: 3 }));
    const sites = await demoSites(options, join(folder, 'data'));
    onStep(`${sites.length} sites: ${sites.map((site) => site.name).join(', ')}`);
    const fleet = await startProcesses(sites, folder, lifecycle, options);
    const trained = await fleet.guard(train(fleet, options, sites.length));
    options.onTrained?.();
    const files = await SourceFiles.open({
      ...{ folder: join(folder, 'copies'), maxBytes: MAX_COPIES_BYTES, environment: process.env, clock: systemClock },
    });
    lifecycle.onStop('copies', () => files.close());
    const comparison = await fleet.guard(compare(fleet, trained, await withLocalFiles(sites, files, signal), options));
    signal?.throwIfAborted();
    return {
      version: trained.result.version,
      digest: trained.result.digest,
      seconds: (performance.now() - startedAt) / 1000,
      rounds: roundsOf(trained.result.rounds),
      ...comparison,
    };
  } catch (error) {
    if (signal?.aborted) throw new OctomilError('cancelled', 'the demo was interrupted', { cause: error });
    throw error;
  } finally {
    await lifecycle.stop();
  }
}

/** For the comparison, which reads in this process. */
async function withLocalFiles(
  sites: readonly SiteFile[],
  files: SourceFiles,
  signal: AbortSignal | undefined,
): Promise<ComparedSite[]> {
  const local: ComparedSite[] = [];
  for (const { name, path } of sites) {
    // Given back when the demo ends.
    const { source } = await files.acquire({ path }, { signal });
    local.push({ name, source });
  }
  return local;
}

async function demoSites(options: DemoOptions, folder: string): Promise<SiteFile[]> {
  if (options.data === undefined) return writeGeneratedSites(folder, options.seed);
  if (options.target === undefined) {
    throw new OctomilError('invalid_input', '--data needs --target: a column to learn, or a rule such as "num>0"');
  }
  return findSiteFiles(options.data, options.signal);
}

async function startProcesses(
  sites: readonly SiteFile[],
  folder: string,
  lifecycle: Lifecycle,
  { onStep = () => undefined, signal, seed }: DemoOptions,
): Promise<Fleet> {
  const processes: CommandProcess[] = [];
  const start = (name: string, args: readonly string[], environment: Readonly<Record<string, string>>) => {
    signal?.throwIfAborted();
    const child = new CommandProcess(name, args, { ...QUIET_ENVIRONMENT, ...environment });
    processes.push(lifecycle.add(name, child));
    return child;
  };
  onStep('starting the coordinator');
  const coordinator = start('the coordinator', ['up', '--json'], {
    OCTOMIL_HOST: '127.0.0.1',
    OCTOMIL_REST_PORT: '0',
    OCTOMIL_GRPC_PORT: '0',
    OCTOMIL_DATA_DIR: join(folder, 'coordinator'),
  });
  const { apiBase, grpcAddress, apiKey } = (await orAborted(coordinator.firstLine(), signal)) as Record<string, string>;
  if (apiBase === undefined || grpcAddress === undefined || apiKey === undefined) {
    throw new OctomilError('internal', 'the coordinator started without telling its addresses and key');
  }
  onStep(`starting ${sites.length} agents`);
  const organization = new Organization({ apiBase, apiKey });
  for (const site of sites) {
    const { token } = await organization.createEnrollmentToken();
    const home = join(folder, 'agents', site.name);
    await mkdir(home, { recursive: true, mode: 0o700 });
    const config = agentConfig(site, demoModelName(seed), { token: String(token), grpcAddress, home });
    await writeFile(join(home, 'agent.yaml'), stringify(config), { mode: 0o600 });
    start(`the agent of ${site.name}`, ['agent', '--config', join(home, 'agent.yaml')], {});
  }
  const fleet: Fleet = {
    apiBase,
    apiKey,
    guard: (work) => orAborted(Promise.race([work, ...processes.map((child) => child.orFailed(NEVER))]), signal),
  };
  await fleet.guard(waitUntilOnline(organization, sites, signal));
  return fleet;
}

const NEVER = new Promise<never>(() => undefined);

/** Settings of the person's own coordinator must not reach the demo's. */
const QUIET_ENVIRONMENT: Readonly<Record<string, string>> = {
  DATABASE_URL: '',
  REDIS_URL: '',
  OBJECT_STORE_URL: '',
  OCTOMIL_API_BASE: '',
  OCTOMIL_API_KEY: '',
  OCTOMIL_COORDINATOR: '',
  OCTOMIL_DEVICE_IDENTIFIER: '',
  OCTOMIL_ENROLLMENT_TOKEN: '',
  OCTOMIL_ENROLLMENT_TOKEN_FILE: '',
  OCTOMIL_LOG_LEVEL: 'info',
  OCTOMIL_METRICS_PORT: '',
  OCTOMIL_POLICY_FILE: '',
  OCTOMIL_PROXY: '',
  OCTOMIL_PUBLIC_URL: '',
  OCTOMIL_STATE_DIR: '',
  OCTOMIL_TLS_CA: '',
  OCTOMIL_TLS_CERT: '',
  OCTOMIL_TLS_KEY: '',
};

function agentConfig(
  site: SiteFile,
  model: string,
  { token, grpcAddress, home }: Readonly<Record<'token' | 'grpcAddress' | 'home', string>>,
): Record<string, unknown> {
  return {
    coordinator: grpcAddress,
    device_identifier: site.name,
    enrollment_token: token,
    state_dir: join(home, 'state'),
    data_sets: { [DATA_SET]: { path: site.path } },
    policy: { allow: [{ name: 'the-demo', federations: [FEDERATION], models: [model], data_sets: [DATA_SET] }] },
  };
}

async function waitUntilOnline(
  organization: Organization,
  sites: readonly SiteFile[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const deadline = performance.now() + ONLINE_WITHIN_MS;
  for (;;) {
    const devices = await organization.listDevices();
    const online = new Set(
      devices
        // Until its data are read, a site would be left out.
        .filter((device) => device['status'] === 'online' && !JSON.stringify(device).includes('still being read'))
        .map((device) => device['deviceIdentifier']),
    );
    const missing = sites.filter((site) => !online.has(site.name));
    if (missing.length === 0) return;
    if (performance.now() > deadline) {
      const names = missing.map((site) => site.name).join(', ');
      throw new OctomilError('insufficient_devices', `no word from ${names} within ${ONLINE_WITHIN_MS / 1000} s`);
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
    signal?.throwIfAborted();
  }
}

interface Trained {
  readonly result: TrainingResult;
  readonly session: TrainingSession;
}

async function train(fleet: Fleet, options: DemoOptions, siteCount: number): Promise<Trained> {
  const { signal, onEvent } = options;
  const model = demoModelName(options.seed);
  await new ModelRegistry(fleet).ensureModel({ name: model, ...(signal === undefined ? {} : { signal }) });
  const federation = new Federation({ ...fleet, name: FEDERATION });
  const request: TrainingOptions = {
    model,
    rounds: options.rounds,
    minUpdates: siteCount,
    algorithm: options.algorithm,
    architecture: options.architecture,
    target: options.target ?? GENERATED_TARGET,
    dataSet: DATA_SET,
    local: {
      epochs: options.localEpochs,
      batchSize: DEMO_BATCH_SIZE,
      learningRate: options.learningRate,
      optimizer: 'sgd',
    },
    seed: options.seed,
    holdout: { share: HOLDOUT_SHARE },
  };
  const run = await federation.start(request, signal);
  const result = await run.result({ signal, onEvent });
  return { result, session: await run.session(signal) };
}

async function compare(
  fleet: Fleet,
  { result, session }: Trained,
  sites: readonly ComparedSite[],
  options: DemoOptions,
): Promise<Comparison> {
  const registry = new ModelRegistry(fleet);
  const model = demoModelName(options.seed);
  const weights = await registry.pullModel({ model, version: result.version });
  const described = await registry.pullModel({ model, version: result.version, format: 'model.json' });
  const { compareModels } = await import('./comparison.js');
  return compareModels({
    sites,
    document: JSON.parse(new TextDecoder().decode(described.bytes)) as ModelDocument,
    weights: weights.bytes,
    holdout: { salt: holdoutSalt(session), shareRatio: HOLDOUT_SHARE },
    local: {
      ...DEFAULT_LOCAL_OPTIONS,
      epochs: options.localEpochs,
      batchSize: DEMO_BATCH_SIZE,
      learningRate: options.learningRate,
      optimizer: 'sgd',
      seed: options.seed,
    },
    rounds: options.rounds,
    seed: options.seed,
    ...(options.onStep === undefined ? {} : { onStep: options.onStep }),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  });
}

/** Without the session's own split, rows that the federated model was trained on would be called held out. */
function holdoutSalt(session: TrainingSession): string {
  const config = session['config'] as Readonly<Record<string, unknown>> | undefined;
  const salt = config?.['holdoutSalt'] ?? config?.['holdout_salt'];
  if (typeof salt !== 'string') {
    throw new OctomilError('internal', 'the session does not say which rows it held out, so nothing can be compared');
  }
  return salt;
}

function roundsOf(rounds: readonly TrainingRound[]): DemoRound[] {
  return rounds.map(({ number, seconds, metrics }) => ({
    round: number,
    seconds,
    loss: metrics?.overall?.loss ?? null,
    accuracy: metrics?.overall?.accuracy ?? null,
  }));
}

function orAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(new OctomilError('cancelled', 'the demo was interrupted'));
    if (signal.aborted) onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}
