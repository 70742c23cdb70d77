import { OctomilClientError } from './client-error.js';
import type { ClientOptions } from './client-options.js';
import { HttpClient } from './http-client.js';
import { type EventStreamOptions, sessionEvents, type TrainingEvent } from './session-events.js';
import {
  fetchRounds,
  fetchSession,
  listOf,
  readMetrics,
  readSession,
  sessionProblem,
  type TrainingResult,
  type TrainingRound,
  type TrainingSession,
} from './training-session.js';
import { wirePath } from './wire-path.js';

export interface ResultOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called with every event on the way. */
  readonly onEvent?: ((event: TrainingEvent) => void) | undefined;
}

/** Who has waited for hours waits another two minutes for a coordinator that restarts just when the session has ended. */
const PATIENT_ATTEMPTS = 20;

type Patience = { readonly signal: AbortSignal | undefined; readonly maxAttempts: number };

/** A training session that goes on whether or not anybody watches. */
export class TrainingRun {
  readonly sessionId: string;
  readonly #http: HttpClient;

  constructor(http: HttpClient, sessionId: string) {
    this.#http = http;
    this.sessionId = sessionId;
  }

  /**
   * What happens, from the first event on and until the session ends; survives lost connections and restarts of the
   * coordinator. Each call is a stream of its own.
   *
   * @throws OctomilClientError `not_found`, `network_unavailable` after ten minutes without a coordinator, `cancelled`
   */
  events(options: EventStreamOptions = {}): AsyncGenerator<TrainingEvent, void, undefined> {
    return sessionEvents(this.#http, this.sessionId, options);
  }

  /**
   * Waits for the new version. Cancelling the signal stops the waiting, not the training: see `cancel`.
   *
   * @throws OctomilClientError with the session's reason, which names the sites: its code where it failed or paused for
   * want of updates, `cancelled` where somebody cancelled it; else as `events`
   */
  async result(options: ResultOptions = {}): Promise<TrainingResult> {
    const asking = { signal: options.signal, maxAttempts: PATIENT_ATTEMPTS };
    for await (const event of this.events({ signal: options.signal })) {
      options.onEvent?.(event);
      if (event.type !== 'session') continue;
      const state = event.data['state'] ?? event.data['status'];
      // Without updates it stays paused until somebody acts, so waiting on would be waiting for oneself.
      if (state === 'paused') throwIfStuck(await fetchSession(this.#http, this.sessionId, asking));
    }
    const session = await fetchSession(this.#http, this.sessionId, asking);
    throwIfStuck(session);
    return this.#assemble(session, asking);
  }

  session(signal?: AbortSignal): Promise<TrainingSession> {
    return fetchSession(this.#http, this.sessionId, { signal });
  }

  rounds(signal?: AbortSignal): Promise<TrainingRound[]> {
    return fetchRounds(this.#http, this.sessionId, { signal });
  }

  /** @throws OctomilClientError `wrong_state` when it does not run */
  pause(signal?: AbortSignal): Promise<TrainingSession> {
    return this.#act('pause', signal);
  }

  /** @throws OctomilClientError `wrong_state` when it is not paused */
  resume(signal?: AbortSignal): Promise<TrainingSession> {
    return this.#act('resume', signal);
  }

  /** Ends it for good; sites that train for it are told to stop. Repeating it changes nothing. @throws OctomilClientError `wrong_state` when it is completed or failed */
  cancel(signal?: AbortSignal): Promise<TrainingSession> {
    return this.#act('cancel', signal);
  }

  async #act(action: string, signal: AbortSignal | undefined): Promise<TrainingSession> {
    const path = wirePath('training', 'sessions', this.sessionId, action);
    return readSession(await this.#http.json('POST', path, { json: {}, signal }));
  }

  async #assemble(session: TrainingSession, asking: Patience): Promise<TrainingResult> {
    const version = session['resultVersion'] ?? session['newVersion'] ?? session['version'];
    if (session.status !== 'completed' || typeof version !== 'string') {
      throw new OctomilClientError(
        'internal',
        `training session ${session.sessionId} ended as "${session.status}" without naming its version`,
      );
    }
    const rounds = await fetchRounds(this.#http, this.sessionId, asking);
    const evaluated = rounds.filter((round) => round.kind === 'evaluate' && round.state === 'completed').at(-1);
    return {
      sessionId: session.sessionId,
      modelId: session.modelId,
      status: 'completed',
      version,
      digest: await this.#digest(session, version, asking),
      rounds: rounds.filter((round) => round.kind === 'train' && round.state === 'completed'),
      metrics: readMetrics(session['metrics']) ?? evaluated?.metrics ?? null,
    };
  }

  async #digest(session: TrainingSession, version: string, asking: Patience): Promise<string> {
    const path = wirePath('models', session.modelId, 'versions', version);
    const answer = await this.#http.json<Record<string, unknown>>('GET', path, asking);
    const weights = listOf(answer, 'artifacts').find(
      (artifact) => (artifact as Record<string, unknown>)['format'] === 'safetensors',
    ) as Record<string, unknown> | undefined;
    return plainDigest(weights?.['sha256'] ?? answer['model_hash'] ?? answer['sha256']);
  }
}

/** Without the `sha256:` that some fields carry in front. */
export function plainDigest(value: unknown): string {
  return typeof value === 'string' ? value.replace(/^sha256:/, '') : '';
}

function throwIfStuck(session: TrainingSession): void {
  const problem = sessionProblem(session);
  if (problem !== undefined) throw problem;
}

/** A training that was started earlier, of any federation. @throws OctomilClientError `invalid_api_key`, `invalid_input` */
export function openRun(sessionId: string, options: ClientOptions | HttpClient = {}): TrainingRun {
  return new TrainingRun(HttpClient.of(options), sessionId);
}
