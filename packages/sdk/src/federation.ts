import { OctomilClientError } from './client-error.js';
import type { ClientOptions } from './client-options.js';
import { HttpClient } from './http-client.js';
import { type Model, readModel } from './models/model.js';
import type { Rollout, RolloutSettings } from './rollouts/rollout.js';
import { RolloutsApi } from './rollouts/rollouts-api.js';
import type { TrainingEvent } from './session-events.js';
import { type TrainingOptions, trainingRequest } from './training-options.js';
import { TrainingRun } from './training-run.js';
import { listOf, readSession, type TrainingResult, type TrainingSession } from './training-session.js';
import { camelNames } from './wire-names.js';
import { wirePath } from './wire-path.js';

export interface FederationOptions extends ClientOptions {
  /** Made on first use when the organization has none of this name. */
  readonly name?: string;
  /** In place of a name: one that exists, such as another organization's to be joined. */
  readonly id?: string;
}

/** What {@link Federation.deploy} brings to devices; all of it has a default after a training. */
export interface DeployOptions extends Omit<RolloutSettings, 'modelId' | 'version'> {
  /** Name or id. Default: the model trained last by this object. */
  readonly model?: string;
  /** Default: the version trained last by this object, else the latest. */
  readonly version?: string;
}

/** An organization in a federation. */
export interface FederationMember {
  readonly orgId: string;
  /** Such as `invited` or `active`. */
  readonly status: string;
  readonly joinedAt: string | null;
  readonly [field: string]: unknown;
}

/** How waiting for a training is watched and stopped. */
export interface WatchOptions {
  /** Called with every event, in order. */
  readonly onEvent?: (event: TrainingEvent) => void;
  /** Cancels the training at the coordinator, too: `await federation.train()` owns what it started. */
  readonly signal?: AbortSignal;
}

export interface DryRunSite {
  /** Device identifier. */
  readonly name: string;
  readonly eligible: boolean;
  /** Of a site that would not take part: the rule or problem, and what it says. */
  readonly reasonCode: string | null;
  readonly reason: string | null;
  /** In tens; null where the site does not say. */
  readonly rowCount: number | null;
  readonly [field: string]: unknown;
}

/** What a training would find; nothing is trained. */
export interface DryRunReport {
  readonly sites: readonly DryRunSite[];
  readonly [field: string]: unknown;
}

/**
 * Organizations and devices that train together.
 *
 * ```ts
 * const federation = new Federation({ apiKey: 'edg_…', name: 'cardiology' });
 * const { version, digest } = await federation.train({ model: 'heart', rounds: 10, minUpdates: 3 });
 * await federation.deploy({ version, rolloutPercentage: 10, targetPercentage: 100, incrementStep: 10 });
 * ```
 */
export class Federation {
  /** Its id, where it was opened by that. */
  readonly name: string;
  readonly rollouts: RolloutsApi;
  readonly #http: HttpClient;
  #id: Promise<string> | undefined;
  #trained: { readonly model: string; readonly version?: string } | undefined;

  /** @throws OctomilClientError `invalid_api_key` without a key, `invalid_input` for an unusable `apiBase` or without a name */
  constructor(options: FederationOptions, http: HttpClient = new HttpClient(options)) {
    const name = options.name ?? options.id;
    if (name === undefined || name === '')
      throw new OctomilClientError('invalid_input', 'a federation has a name or an id');
    this.name = name;
    this.#http = http;
    this.rollouts = new RolloutsApi(http);
    if (options.id !== undefined) this.#id = Promise.resolve(options.id);
  }

  /** Shows which sites would take part, which refuse and by which rule, and which columns they have. */
  train(options: TrainingOptions & { readonly dryRun: true; readonly signal?: AbortSignal }): Promise<DryRunReport>;
  /**
   * Trains and waits for the new version. For a handle to look at, pause or leave running, use {@link start}.
   *
   * @throws OctomilClientError `model_not_found`, `version_not_found`, `invalid_input`, `insufficient_devices` when
   * asked for what cannot be; with the session's code and a reason that names the sites when training fails;
   * `cancelled` by the signal
   */
  train(options: TrainingOptions & WatchOptions & { readonly dryRun?: false }): Promise<TrainingResult>;
  async train(
    options: TrainingOptions & WatchOptions & { readonly dryRun?: boolean },
  ): Promise<TrainingResult | DryRunReport> {
    const { onEvent, signal, dryRun, ...training } = options;
    if (dryRun === true) return this.dryRun(training, signal);
    const run = await this.start(training, signal);
    try {
      const result = await run.result({ onEvent, signal });
      this.#trained = { model: result.modelId, version: result.version };
      return result;
    } catch (error) {
      throw signal?.aborted ? await cancelled(run, error) : error;
    }
  }

  /** Starts a training and returns at once. @throws OctomilClientError as `train`, for what was asked */
  async start(options: TrainingOptions, signal?: AbortSignal): Promise<TrainingRun> {
    const json = await this.#request(options, signal);
    const session = readSession(await this.#http.json('POST', '/training/sessions', { json, signal }));
    this.#trained = { model: options.model };
    return new TrainingRun(this.#http, session.sessionId);
  }

  /**
   * Starts a rollout: a draft when `startImmediately` is false.
   *
   * @throws OctomilClientError `invalid_input` without a model before any training; else as `RolloutsApi.create`
   */
  async deploy(options: DeployOptions = {}): Promise<Rollout> {
    const { model, version, ...settings } = options;
    const modelId = model ?? this.#trained?.model;
    if (modelId === undefined) {
      throw new OctomilClientError('invalid_input', 'this federation has trained no model yet; name one with model');
    }
    const trained = model === undefined || model === this.#trained?.model ? this.#trained?.version : undefined;
    const chosen = version ?? trained ?? (await this.#latest(modelId, options.signal));
    return this.rollouts.create({ startImmediately: true, ...settings, modelId, version: chosen });
  }

  async #latest(modelId: string, signal: AbortSignal | undefined): Promise<string> {
    const path = wirePath('models', modelId, 'versions', 'latest');
    return String((await this.#http.json<{ version: unknown }>('GET', path, { signal })).version);
  }

  /** Asks organizations, by their ids, to take part. @throws OctomilClientError `forbidden` unless it is this organization's own */
  async invite(options: {
    readonly orgIds: readonly string[];
    readonly signal?: AbortSignal;
  }): Promise<FederationMember[]> {
    const path = `${await this.#path(options.signal)}/invite`;
    const answer = await this.#http.json('POST', path, { json: { org_ids: options.orgIds }, signal: options.signal });
    return listOf(answer, 'invited').map(readMember);
  }

  /** Accepts an invitation. @throws OctomilClientError `not_found` without one */
  async join(options: { readonly signal?: AbortSignal } = {}): Promise<FederationMember> {
    const { orgId } = this.#http;
    const json = orgId === undefined ? {} : { org_id: orgId };
    const { signal } = options;
    return readMember(await this.#http.json('POST', `${await this.#path(signal)}/join`, { json, signal }));
  }

  /** Leaves it, or turns an invitation down. @throws OctomilClientError `not_found`, `wrong_state` for the owner */
  async leave(signal?: AbortSignal): Promise<void> {
    await this.#http.json('POST', `${await this.#path(signal)}/leave`, { json: {}, signal });
  }

  /** Takes an organization out. @throws OctomilClientError `not_found`, `forbidden` unless it is this organization's own */
  async removeMember(options: { readonly orgId: string; readonly signal?: AbortSignal }): Promise<void> {
    const { orgId, signal } = options;
    await this.#http.json('DELETE', `${await this.#path(signal)}${wirePath('members', orgId)}`, { signal });
  }

  /** Those that were invited as well, for the owner. */
  async members(signal?: AbortSignal): Promise<FederationMember[]> {
    const answer = await this.#http.json('GET', `${await this.#path(signal)}/members`, { signal });
    return listOf(answer, 'members').map(readMember);
  }

  /** Lets the other members see a model and its versions. @throws OctomilClientError `model_not_found`, `forbidden` */
  async shareModel(options: { readonly model: string; readonly signal?: AbortSignal }): Promise<void> {
    const { model, signal } = options;
    await this.#http.json('POST', `${await this.#path(signal)}/models`, { json: { model_id: model }, signal });
  }

  /** @throws OctomilClientError `model_not_found` where it is not shared, `forbidden` for another member's */
  async unshareModel(options: { readonly model: string; readonly signal?: AbortSignal }): Promise<void> {
    const { model, signal } = options;
    await this.#http.json('DELETE', `${await this.#path(signal)}${wirePath('models', model)}`, { signal });
  }

  /** The models that are shared here. */
  async models(signal?: AbortSignal): Promise<Model[]> {
    return listOf(await this.#http.json('GET', `${await this.#path(signal)}/models`, { signal }), 'models').map(
      readModel,
    );
  }

  async #path(signal: AbortSignal | undefined): Promise<string> {
    return wirePath('federations', await this.id(signal));
  }

  /** @throws OctomilClientError as `train`, for what was asked */
  async dryRun(options: TrainingOptions, signal?: AbortSignal): Promise<DryRunReport> {
    const json = await this.#request(options, signal);
    const answer = await this.#http.json('POST', '/training/sessions/dry-run', { json, signal });
    return readDryRun(answer);
  }

  /** A training that was started earlier, here or elsewhere. */
  run(sessionId: string): TrainingRun {
    return new TrainingRun(this.#http, sessionId);
  }

  /** Newest first. */
  async sessions(signal?: AbortSignal): Promise<TrainingSession[]> {
    // Of one that is not there, the coordinator says so.
    const query = { federation: (await this.#known(signal)) ?? this.name };
    return listOf(await this.#http.json('GET', '/training/sessions', { query, signal }), 'sessions').map(readSession);
  }

  /** A federation that is not there is made with the session, so that a mistyped name of a failing request makes none. */
  async #request(options: TrainingOptions, signal: AbortSignal | undefined): Promise<Record<string, unknown>> {
    const id = await this.#known(signal);
    return id === undefined
      ? { ...trainingRequest(this.name, options), create_federation: true }
      : trainingRequest(id, options);
  }

  async #known(signal: AbortSignal | undefined): Promise<string | undefined> {
    if (this.#id !== undefined) return this.#id;
    const id = await this.#find(signal);
    if (id !== undefined) this.#id = Promise.resolve(id);
    return id;
  }

  /** The federation's id; finds it by name or makes it. */
  id(signal?: AbortSignal): Promise<string> {
    // A failure is not remembered: the next call asks again.
    this.#id ??= this.#findOrCreate(signal).catch((error: unknown) => {
      this.#id = undefined;
      throw error;
    });
    return this.#id;
  }

  async #findOrCreate(signal: AbortSignal | undefined): Promise<string> {
    const found = await this.#find(signal);
    if (found !== undefined) return found;
    const created = await this.#http.json<{ id: string }>('POST', '/federations', {
      json: { name: this.name, ...this.#org },
      signal,
    });
    return created.id;
  }

  async #find(signal: AbortSignal | undefined): Promise<string | undefined> {
    const found = await this.#http.json<{ id: string }[]>('GET', '/federations', {
      query: { name: this.name, ...this.#org },
      signal,
    });
    return found[0]?.id;
  }

  get #org(): { readonly org_id?: string } {
    const { orgId } = this.#http;
    return orgId === undefined ? {} : { org_id: orgId };
  }
}

/** Ends what was started, and says which session that was and how it is now. */
async function cancelled(run: TrainingRun, cause: unknown): Promise<OctomilClientError> {
  const { sessionId } = run;
  const [end, status] = await run.cancel().then(
    ({ status }) => [`is ${status}; its checkpoints stay`, status],
    (error: unknown) => [
      `could not be cancelled and may go on (${error instanceof Error ? error.message : String(error)}); see octomil sessions show ${sessionId}`,
      null,
    ],
  );
  return new OctomilClientError('cancelled', `stopped waiting: training session ${sessionId} ${end}`, {
    cause,
    details: { session_id: sessionId, status },
  });
}

function readMember(row: unknown): FederationMember {
  const fields = camelNames(row as Record<string, unknown>);
  return {
    ...fields,
    orgId: String(fields['orgId']),
    status: String(fields['status']),
    joinedAt: typeof fields['joinedAt'] === 'string' ? fields['joinedAt'] : null,
  };
}

function readDryRun(answer: unknown): DryRunReport {
  const fields = camelNames(answer as Record<string, unknown>);
  const sites = listOf(answer, 'sites').map((site): DryRunSite => {
    const inner = camelNames(site as Record<string, unknown>);
    const text = (name: string): string | null => (typeof inner[name] === 'string' ? (inner[name] as string) : null);
    return {
      ...inner,
      name: text('name') ?? text('deviceIdentifier') ?? text('deviceId') ?? '',
      eligible: inner['eligible'] === true,
      reasonCode: text('reasonCode') ?? text('code'),
      reason: text('reason'),
      rowCount: typeof inner['rowCount'] === 'number' ? inner['rowCount'] : null,
    };
  });
  return { ...fields, sites };
}
