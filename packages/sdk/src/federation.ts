import type { ClientOptions } from './client-options.js';
import { HttpClient } from './http-client.js';
import type { TrainingEvent } from './session-events.js';
import { type TrainingOptions, trainingRequest } from './training-options.js';
import { TrainingRun } from './training-run.js';
import { listOf, readSession, type TrainingResult, type TrainingSession } from './training-session.js';
import { camelNames } from './wire-names.js';

export interface FederationOptions extends ClientOptions {
  /** Made on first use when the organization has none of this name. */
  readonly name: string;
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
 * ```
 */
export class Federation {
  readonly name: string;
  readonly #http: HttpClient;
  #id: Promise<string> | undefined;

  /** @throws OctomilClientError `invalid_api_key` without a key, `invalid_input` for an unusable `apiBase` */
  constructor(options: FederationOptions) {
    this.name = options.name;
    this.#http = new HttpClient(options);
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
      return await run.result({ onEvent, signal });
    } catch (error) {
      if (signal?.aborted) await run.cancel().catch(() => undefined);
      throw error;
    }
  }

  /** Starts a training and returns at once. @throws OctomilClientError as `train`, for what was asked */
  async start(options: TrainingOptions, signal?: AbortSignal): Promise<TrainingRun> {
    const json = trainingRequest(await this.id(signal), options);
    const session = readSession(await this.#http.json('POST', '/training/sessions', { json, signal }));
    return new TrainingRun(this.#http, session.sessionId);
  }

  /** @throws OctomilClientError as `train`, for what was asked */
  async dryRun(options: TrainingOptions, signal?: AbortSignal): Promise<DryRunReport> {
    const json = trainingRequest(await this.id(signal), options);
    const answer = await this.#http.json('POST', '/training/sessions/dry-run', { json, signal });
    return readDryRun(answer);
  }

  /** A training that was started earlier, here or elsewhere. */
  run(sessionId: string): TrainingRun {
    return new TrainingRun(this.#http, sessionId);
  }

  /** Newest first. */
  async sessions(signal?: AbortSignal): Promise<TrainingSession[]> {
    const query = { federation: await this.id(signal) };
    return listOf(await this.#http.json('GET', '/training/sessions', { query, signal }), 'sessions').map(readSession);
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
    const found = await this.#http.json<{ id: string }[]>('GET', '/federations', {
      query: { name: this.name },
      signal,
    });
    const [first] = found;
    if (first !== undefined) return first.id;
    const created = await this.#http.json<{ id: string }>('POST', '/federations', {
      json: { name: this.name },
      signal,
    });
    return created.id;
  }
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
