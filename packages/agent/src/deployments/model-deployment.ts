import { join } from 'node:path';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import { isPassing } from '../connection/http-failure.js';
import type { ActivePointer } from './active-pointer.js';
import { type DeployedFolder, deployed } from './deployed-folder.js';
import { type Artifact, type DesiredVersion, isSafeId, sameArtifacts, sameDesired } from './desired-version.js';
import { ModelHealth } from './model-health.js';
import { activationRetryMs } from './retry-delay.js';
import type { OwnModelFiles, SiteEvaluator } from './site-evaluation.js';
import type { VersionFetcher } from './version-fetcher.js';
import type { Waits } from './waits.js';

export type DeploymentState = 'pending' | 'downloading' | 'waiting' | 'active' | 'failed' | 'removed';

/** What is told of one model. */
export interface ObservedDeployment {
  readonly modelId: string;
  readonly modelName: string;
  readonly versionId: string;
  readonly rolloutId: number;
  readonly state: DeploymentState;
  readonly activeVersionId: string;
  readonly previousVersionId: string;
  readonly problem: OctomilError | undefined;
  readonly health: ModelHealth | undefined;
}

export interface ModelDeploymentOptions {
  readonly modelId: string;
  readonly folder: DeployedFolder;
  readonly fetcher: VersionFetcher;
  /** Tries a version before it counts. @throws OctomilError why it cannot be used */
  readonly smoke: (files: OwnModelFiles, signal: AbortSignal) => Promise<void>;
  readonly evaluator: Pick<SiteEvaluator, 'evaluate'>;
  readonly waits: Waits;
  /** Resolves when there is a session; undefined while there is one. */
  readonly offline: (signal: AbortSignal) => Promise<void> | undefined;
  /** The site's word: `policy_denied`, or undefined. */
  readonly denied: (version: DesiredVersion) => OctomilError | undefined;
  /** Files that nothing of this model needs any more. */
  readonly onUnused: (artifacts: readonly Artifact[]) => Promise<void>;
  /** `health` changes are many; the others are told at once. */
  readonly onChange: (what: 'state' | 'health') => void;
  readonly clock: Clock;
  readonly random: () => number;
  readonly logger: Logger;
}

/** A download is cut now and then: that many attempts in a row fail before the version has failed. */
const PASSING_FAILURES = 3;

/**
 * Brings one model to the version that is desired, step by step, beginning anew whenever something else is desired. What
 * is on disk decides where it begins, so that it may be killed at any point.
 */
export class ModelDeployment {
  readonly #options: ModelDeploymentOptions;
  readonly #stopping = new AbortController();
  /** Undefined: nothing was said yet; null: not wanted any more. */
  #target: DesiredVersion | null | undefined;
  #changed = new AbortController();
  #pointer: ActivePointer | undefined;
  #health: ModelHealth | undefined;
  #state: DeploymentState = 'pending';
  #problem: OctomilError | undefined;
  #released: string | undefined;
  #running: Promise<void> = Promise.resolve();

  constructor(options: ModelDeploymentOptions) {
    this.#options = options;
  }

  /** Reads what is on disk, then works until `stop`. */
  async start(): Promise<void> {
    const { folder, modelId } = this.#options;
    this.#pointer = await folder.readPointer(modelId);
    if (this.#pointer !== undefined) {
      this.#state = 'active';
      this.#health = await ModelHealth.read(this.#healthPath, activationOf(this.#pointer));
    }
    this.#running = this.#run();
  }

  async stop(): Promise<void> {
    this.#stopping.abort(new OctomilError('cancelled', 'the agent is stopping'));
    this.#changed.abort(this.#stopping.signal.reason);
    await this.#running;
    await this.saveHealth();
  }

  get pointer(): ActivePointer | undefined {
    return this.#pointer;
  }

  get target(): DesiredVersion | null | undefined {
    return this.#target;
  }

  get observed(): ObservedDeployment {
    const { modelId } = this.#options;
    const target = this.#target ?? undefined;
    const { active, previous } = this.#pointer ?? {};
    return {
      modelId,
      modelName: target?.modelName ?? this.#pointer?.modelName ?? '',
      versionId: target?.versionId ?? active?.versionId ?? '',
      rolloutId: target?.rolloutId ?? active?.rolloutId ?? 0,
      state: this.#state,
      activeVersionId: active?.versionId ?? '',
      previousVersionId: previous?.versionId ?? '',
      problem: this.#problem,
      health: this.#health,
    };
  }

  /** @param version null: not wanted any more */
  desire(version: DesiredVersion | null): void {
    const before = this.#target;
    if (version === null ? before === null : before && sameDesired(before, version)) return;
    this.#target = version;
    const { active } = this.#pointer ?? {};
    const runs = version !== null && active?.versionId === version.versionId;
    if (version !== null) {
      this.#state = runs ? 'active' : 'pending';
      this.#problem = undefined;
    }
    this.#options.onChange('state');
    this.#changed.abort(new OctomilError('cancelled', 'something else is desired'));
  }

  /** Somebody at the site lets the version go that waits to be activated by hand. */
  release(): void {
    this.#released = this.#target?.versionId;
    this.#options.waits.recheck();
  }

  /** Of the active version; see {@link InferenceCounters}. */
  record(versionId: string, latencyMs: number, failed: boolean): boolean {
    if (this.#health === undefined || this.#pointer?.active.versionId !== versionId) return false;
    this.#health.record(latencyMs, failed);
    this.#options.onChange('health');
    return true;
  }

  async saveHealth(): Promise<void> {
    const { logger, modelId } = this.#options;
    await this.#health?.write(this.#healthPath).catch((error: unknown) => {
      logger.debug({ error, modelId }, 'the figures of a deployed model could not be written down');
    });
  }

  get #healthPath(): string {
    return join(this.#options.folder.modelPath(this.#options.modelId), 'health.json');
  }

  #show(state: DeploymentState, problem?: OctomilError): void {
    if (this.#state === state && this.#problem === problem) return;
    this.#state = state;
    this.#problem = problem;
    this.#options.onChange('state');
  }

  /** A failed version is tried again in silence: it stays failed until it is active. */
  #step(state: DeploymentState, problem?: OctomilError): void {
    if (this.#state !== 'failed') this.#show(state, problem);
  }

  async #run(): Promise<void> {
    const { clock, random, logger, modelId } = this.#options;
    let failures = 0;
    let attempted: DesiredVersion | null | undefined;
    while (!this.#stopping.signal.aborted) {
      if (this.#changed.signal.aborted) this.#changed = new AbortController();
      const { signal } = this.#changed;
      const target = this.#target;
      if (target !== attempted) failures = 0;
      attempted = target;
      try {
        if (target === null) await this.#remove();
        else if (target !== undefined) await this.#reach(target, signal);
        failures = 0;
        await this.#tryOnSite(signal);
        await aborted(signal);
      } catch (thrown) {
        if (signal.aborted) continue;
        const error = toOctomilError(thrown, 'activation_failed');
        const offline = isPassing(error) ? this.#options.offline(signal) : undefined;
        if (offline !== undefined) {
          // The version is not to blame.
          await offline.catch(() => undefined);
          continue;
        }
        failures += 1;
        const forSpace = error.code === 'insufficient_storage';
        const delayMs = activationRetryMs(failures, forSpace, random());
        if (isPassing(error) && failures < PASSING_FAILURES) {
          logger.info({ error, modelId, versionId: target?.versionId }, 'a version could not be fetched yet');
        } else {
          const level = this.#state === 'failed' ? 'debug' : 'error';
          logger[level]({ error, modelId, versionId: target?.versionId }, `a version failed: ${error.reason}`);
          this.#show('failed', error);
        }
        // What only the site's owner can change, or another version, is not tried again.
        if (error.code === 'policy_denied' || error.code === 'invalid_input') await aborted(signal);
        else await clock.sleep(delayMs, signal).catch(() => undefined);
      }
    }
  }

  async #reach(target: DesiredVersion, signal: AbortSignal): Promise<void> {
    const { folder, fetcher, waits, smoke, logger } = this.#options;
    const { active, previous } = this.#pointer ?? {};
    if (active?.versionId === target.versionId && sameArtifacts(active.artifacts, target.artifacts)) {
      if (active.rolloutId !== target.rolloutId) await this.#point({ ...active, rolloutId: target.rolloutId }, target);
      this.#show('active');
      await this.#collect(target);
      return;
    }
    const denied = this.#options.denied(target);
    if (denied !== undefined) throw denied;
    // What runs already, or ran a moment ago, was tried: the way back waits for nothing.
    const known = [active, previous].find(
      (one) => one?.versionId === target.versionId && sameArtifacts(one.artifacts, target.artifacts),
    );
    if (known === undefined) {
      await this.#collect(target);
      if (!(await folder.isWhole(target, signal))) {
        await fetcher.fetch(target, signal, (problem) => this.#step(problem ? 'waiting' : 'downloading', problem));
      }
      signal.throwIfAborted();
      const own = this.#ownFiles(target.versionId, target.artifacts);
      if (own !== undefined) await smoke(own, signal).catch((error: unknown) => failSmoke(target, error, signal));
      await waits.untilActivation(
        target,
        () => this.#released === target.versionId,
        signal,
        (problem) => this.#step('waiting', problem),
      );
    }
    signal.throwIfAborted();
    await this.#point(deployed(target, this.#options.clock.now()), target);
    this.#health = new ModelHealth(activationOf(this.#pointer));
    this.#show('active');
    logger.info(
      { modelId: target.modelId, modelName: target.modelName, version: target.version, rolloutId: target.rolloutId },
      known === undefined ? 'version activated' : 'back to the previous version',
    );
    await this.#collect(target);
  }

  /** The activation itself. */
  async #point(active: ActivePointer['active'], { modelId, modelName }: DesiredVersion): Promise<void> {
    const before = this.#pointer;
    const same = before?.active.versionId === active.versionId;
    const previous = (same ? before.previous : before?.active) ?? null;
    const pointer: ActivePointer = { formatVersion: 1, modelId, modelName, active, previous };
    await this.#options.folder.writePointer(pointer);
    this.#pointer = pointer;
  }

  async #remove(): Promise<void> {
    const { folder, modelId, onUnused, logger } = this.#options;
    const unused = await folder.remove(modelId);
    this.#pointer = undefined;
    this.#health = undefined;
    this.#show('removed');
    logger.info({ modelId }, 'model removed: it is not wanted here any more');
    await onUnused(unused);
  }

  /** Removes what is neither active nor previous nor wanted. */
  async #collect(target: DesiredVersion): Promise<void> {
    const { folder, modelId, onUnused, logger } = this.#options;
    const { active, previous } = this.#pointer ?? {};
    const kept = [active?.versionId, previous?.versionId, target.versionId];
    try {
      await onUnused(await folder.collect(modelId, new Set(kept.filter((id) => id !== undefined))));
    } catch (error) {
      logger.warn({ error, modelId }, 'old versions could not be removed');
    }
  }

  /** Once per activation. What the figures say is for the rollout's gates; a version without any is active all the same. */
  async #tryOnSite(signal: AbortSignal): Promise<void> {
    const { evaluator, modelId, logger } = this.#options;
    const pointer = this.#pointer;
    const health = this.#health;
    if (pointer === undefined || health === undefined || health.evaluated || this.#state !== 'active') return;
    const current = this.#ownFiles(pointer.active.versionId, pointer.active.artifacts);
    const { previous } = pointer;
    const before = previous === null ? undefined : this.#ownFiles(previous.versionId, previous.artifacts);
    try {
      health.evaluatedAs(
        current === undefined
          ? { evaluation: null, baseline: null }
          : await evaluator.evaluate(pointer.modelName, current, before, signal),
      );
    } catch (error) {
      if (signal.aborted) return;
      logger.warn({ error, modelId }, 'a deployed version was not evaluated');
      health.evaluatedAs({ evaluation: null, baseline: null });
    }
    await this.saveHealth();
    this.#options.onChange('state');
  }

  /** Undefined for a version that is not one of our own models: only its digests can be checked. */
  #ownFiles(versionId: string, artifacts: readonly Artifact[]): OwnModelFiles | undefined {
    const { folder, modelId } = this.#options;
    const pathOf = (format: string): string | undefined => {
      const artifact = artifacts.find((one) => one.format === format);
      return artifact === undefined ? undefined : folder.artifactPath({ modelId, versionId }, artifact);
    };
    const documentPath = pathOf('model.json');
    const weightsPath = pathOf('safetensors');
    if (documentPath === undefined || weightsPath === undefined || !isSafeId(versionId)) return undefined;
    return { versionId, documentPath, weightsPath };
  }
}

function activationOf(pointer: ActivePointer | undefined): string {
  return `${pointer?.active.versionId} ${pointer?.active.activatedAt}`;
}

function failSmoke({ version }: DesiredVersion, thrown: unknown, signal: AbortSignal): never {
  signal.throwIfAborted();
  const cause = toOctomilError(thrown, 'inference_failed');
  throw new OctomilError('activation_failed', `version ${version} failed its smoke prediction: ${cause.message}`, {
    cause,
  });
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
