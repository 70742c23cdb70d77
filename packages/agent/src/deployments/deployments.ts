import type { DesiredState } from '@octomil/proto';
import { OctomilError } from '@octomil/shared/errors';
import { isNamed } from '@octomil/shared/policy';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { Trainer } from '@octomil/shared/training';
import type { AuditLog } from '../audit/audit-log.js';
import type { Eligibility } from '../conditions/eligibility.js';
import type { AgentConfig } from '../config/agent-config.js';
import { toProblem } from '../connection/problem.js';
import type { BaseStore } from '../models/base-store.js';
import type { SessionLink } from '../session/session-link.js';
import { outgoingProblem } from '../training/outgoing-problem.js';
import { DeployedFolder } from './deployed-folder.js';
import { type DesiredVersion, desiredVersion } from './desired-version.js';
import { ModelDeployment } from './model-deployment.js';
import type { InferenceCounters, InferenceReport } from './model-health.js';
import { type ObservedModelFields, ObservedReport } from './observed-report.js';
import type { SiteEvaluator } from './site-evaluation.js';
import { VersionFetcher } from './version-fetcher.js';
import { Waits } from './waits.js';

export interface DeploymentsOptions {
  readonly config: Pick<AgentConfig, 'deployableModels' | 'dataSets' | 'stateDir'>;
  /** `state_dir/deployed`. */
  readonly path: string;
  readonly store: Pick<BaseStore, 'hold' | 'missingBytes' | 'drop'>;
  readonly trainer: Trainer;
  readonly evaluator: Pick<SiteEvaluator, 'evaluate'>;
  readonly eligibility: Pick<Eligibility, 'unmet' | 'freeDiskBytes'>;
  readonly audit: Pick<AuditLog, 'record'>;
  /** Assignments that are being worked on. */
  readonly busy: () => number;
  /** The first model came, or was there already. */
  readonly onFirstModel?: () => void;
  readonly clock: Clock;
  readonly random: () => number;
  readonly logger: Logger;
}

/** All models that should run here, each brought there on its own, and what the coordinator is told of them. */
export class Deployments implements InferenceCounters {
  readonly #options: DeploymentsOptions;
  readonly #folder: DeployedFolder;
  readonly #waits: Waits;
  readonly #fetcher: VersionFetcher;
  readonly #report: ObservedReport;
  readonly #models = new Map<string, ModelDeployment>();
  /** Of desired versions that are refused as they are. */
  readonly #refused = new Map<string, ObservedModelFields>();
  readonly #audited = new Map<string, string>();
  readonly #countersAudited = new Set<string>();
  #references: Set<string> | undefined;
  #online = Promise.withResolvers<void>();
  #linked = false;
  #stopped = false;
  /** Desired states are taken one after the other. */
  #inTurn: Promise<void> = Promise.resolve();

  constructor(options: DeploymentsOptions) {
    this.#options = options;
    const { clock, logger, store, eligibility, busy } = options;
    this.#folder = new DeployedFolder(options.path);
    this.#waits = new Waits({ eligibility, busy, clock });
    this.#fetcher = new VersionFetcher({
      store,
      folder: this.#folder,
      waits: this.#waits,
      freeDiskBytes: () => eligibility.freeDiskBytes(),
    });
    this.#report = new ObservedReport({
      snapshot: () => this.#snapshot(),
      audit: (models) => this.#audit(models),
      unwritten,
      onReceipt: (models) => this.#received(models),
      clock,
      logger,
    });
  }

  /** Takes up what an earlier process left. To be awaited before the first session. */
  async start(): Promise<void> {
    for (const modelId of await this.#folder.models()) await this.#open(modelId);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#report.stop();
    this.#online.resolve();
    await this.#inTurn;
    await Promise.all([...this.#models.values()].map((model) => model.stop()));
  }

  connected(link: SessionLink): void {
    this.#linked = true;
    this.#online.resolve();
    this.#report.connected(link);
  }

  disconnected(): void {
    if (this.#linked) this.#online = Promise.withResolvers();
    this.#linked = false;
    this.#report.disconnected();
  }

  /** Level-triggered: the whole of what is wanted. */
  desired(state: DesiredState): void {
    this.#inTurn = this.#inTurn
      .then(() => this.#take(state))
      .catch((error: unknown) => this.#options.logger.error({ error }, 'a desired state could not be taken up'));
  }

  receipt(): void {
    this.#report.receipt();
  }

  record({ modelId, versionId, latencyMs, failed }: InferenceReport): boolean {
    return this.#models.get(modelId)?.record(versionId, latencyMs, failed) ?? false;
  }

  /**
   * Lets a version go that waits to be activated by hand.
   *
   * @param model its id or name
   * @throws OctomilError `not_found` for a model that is not wanted here
   */
  activate(model: string): void {
    const found =
      this.#models.get(model) ?? [...this.#models.values()].find(({ observed }) => observed.modelName === model);
    if (found === undefined) throw new OctomilError('not_found', `no model "${model.slice(0, 128)}" is wanted here`);
    found.release();
  }

  /** Whether a file belongs to a version that is active, kept for the way back, or wanted. */
  referenced(sha256: string): boolean {
    if (this.#references === undefined) {
      this.#references = new Set();
      for (const { pointer, target } of this.#models.values()) {
        for (const version of [pointer?.active, pointer?.previous, target]) {
          for (const artifact of version?.artifacts ?? []) this.#references.add(artifact.sha256);
        }
      }
    }
    return this.#references.has(sha256);
  }

  async #take(state: DesiredState): Promise<void> {
    if (this.#stopped) return;
    const wanted = new Set<string>();
    this.#refused.clear();
    for (const message of state.models) {
      let version: DesiredVersion;
      try {
        version = desiredVersion(message);
      } catch (thrown) {
        const error = thrown as OctomilError;
        this.#options.logger.error({ error }, error.reason);
        const { modelId, versionId, rolloutId } = message;
        wanted.add(modelId);
        this.#refused.set(modelId, {
          modelId,
          versionId,
          rolloutId,
          state: 'failed',
          activeVersionId: '',
          previousVersionId: '',
          problem: toProblem(error),
          healthJson: '',
        });
        continue;
      }
      wanted.add(version.modelId);
      (this.#models.get(version.modelId) ?? (await this.#open(version.modelId))).desire(version);
    }
    for (const [modelId, model] of this.#models) if (!wanted.has(modelId)) model.desire(null);
    this.#changed('state');
  }

  async #open(modelId: string): Promise<ModelDeployment> {
    const { evaluator, clock, random, logger, store, config, onFirstModel } = this.#options;
    const model = new ModelDeployment({
      modelId,
      folder: this.#folder,
      fetcher: this.#fetcher,
      waits: this.#waits,
      evaluator,
      smoke: async ({ documentPath, weightsPath }, signal) => {
        await this.#options.trainer.run({ kind: 'predict', documentPath, weightsPath }, { signal });
      },
      offline: (signal) => (this.#linked ? undefined : Promise.race([this.#online.promise, whenAborted(signal)])),
      denied: ({ modelName }) => denied(config.deployableModels, modelName),
      onUnused: async (artifacts) => {
        this.#references = undefined;
        for (const { sha256 } of artifacts) await store.drop(sha256);
      },
      onChange: (what) => this.#changed(what),
      clock,
      random,
      logger,
    });
    await model.start();
    this.#models.set(modelId, model);
    this.#references = undefined;
    if (this.#models.size === 1) onFirstModel?.();
    return model;
  }

  #changed(what: 'state' | 'health'): void {
    if (what === 'state') this.#references = undefined;
    this.#report.changed(what);
  }

  #snapshot(): ObservedModelFields[] {
    const { config } = this.#options;
    const paths = [config.stateDir, ...Object.values(config.dataSets).map(({ path }) => path)];
    const refused = [...this.#refused].filter(([modelId]) => !this.#models.has(modelId)).map(([, fields]) => fields);
    const models = [...this.#models.values()].map((model): ObservedModelFields => {
      const observed = model.observed;
      const { modelId, versionId, state, activeVersionId, previousVersionId, problem, health } = observed;
      return {
        modelId,
        versionId,
        rolloutId: BigInt(observed.rolloutId),
        state,
        activeVersionId,
        previousVersionId,
        ...(problem === undefined ? {} : { problem: toProblem(outgoingProblem(problem, paths)) }),
        healthJson: health === undefined ? '' : JSON.stringify(health.toReport()),
        ...this.#refusalOf(modelId),
      };
    });
    return [...models, ...refused];
  }

  /** What still runs is said beside it. */
  #refusalOf(modelId: string): Partial<ObservedModelFields> {
    const refused = this.#refused.get(modelId);
    if (refused === undefined) return {};
    const { versionId, rolloutId, state, problem } = refused;
    return { versionId, rolloutId, state, ...(problem === undefined ? {} : { problem }) };
  }

  /** One entry per change of what runs here, and one per activation for the counters of its answers. */
  async #audit(models: readonly ObservedModelFields[]): Promise<void> {
    const { audit } = this.#options;
    const entries: Promise<void>[] = [];
    for (const { healthJson, ...said } of models) {
      const { modelId } = said;
      const name = this.#models.get(modelId)?.observed.modelName ?? modelId;
      const details = { ...said, rolloutId: Number(said.rolloutId) };
      const text = JSON.stringify(details);
      if (this.#audited.get(modelId) !== text) {
        const entry = audit.record({ kind: 'deployment', model: name, details });
        entries.push(entry.then(() => void this.#audited.set(modelId, text)));
      }
      const activation = `${modelId} ${said.activeVersionId}`;
      if (counts(healthJson) && !this.#countersAudited.has(activation)) {
        const entry = audit.record({
          kind: 'inference_counters',
          model: name,
          details: { versionId: said.activeVersionId },
        });
        entries.push(entry.then(() => void this.#countersAudited.add(activation)));
      }
    }
    await Promise.all(entries);
  }

  /** What was said to be removed is known to be: nothing is left to say of it. */
  #received(models: readonly ObservedModelFields[]): void {
    for (const { modelId, state } of models) {
      const model = this.#models.get(modelId);
      if (state === 'removed' && model?.observed.state === 'removed' && model.target === null) {
        this.#models.delete(modelId);
        this.#audited.delete(modelId);
        void model.stop();
      }
    }
    for (const model of this.#models.values()) void model.saveHealth();
  }
}

function denied(allowed: readonly string[] | undefined, modelName: string): OctomilError | undefined {
  if (allowed === undefined || isNamed(allowed, modelName)) return undefined;
  return new OctomilError(
    'policy_denied',
    `model "${modelName}" may not be deployed here: the site's deployments.models does not name it; the site's owner can add it`,
    { details: { model: modelName } },
  );
}

/**
 * A full disk fails an activation and keeps its audit entry from being written: the coordinator is told that it failed,
 * for the reason that nothing can be written, in words that it sent itself. Anything else waits for room.
 */
function unwritten(models: readonly ObservedModelFields[], error: OctomilError): ObservedModelFields[] | undefined {
  if (error.code !== 'insufficient_storage' || !models.some(({ state }) => state === 'failed')) return undefined;
  if (models.some(({ state }) => state !== 'failed' && state !== 'active')) return undefined;
  return models.map((model) =>
    model.state === 'failed' ? { ...model, problem: toProblem(error), healthJson: '' } : { ...model, healthJson: '' },
  );
}

/** Whether an inference was counted. */
function counts(healthJson: string): boolean {
  return /"inferences":[1-9]/.test(healthJson);
}

function whenAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
