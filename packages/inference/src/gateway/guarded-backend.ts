import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import type { BackendHealth, InferenceBackend } from './backend.js';
import { CallerCircuits } from './caller-circuits.js';
import type { CircuitBreaker, CircuitBreakerOptions, CircuitState } from './circuit-breaker.js';
import { isBackendFault, isCutAtLimit, mayBeOfOneCaller } from './upstream-failure.js';

const LIST_FRESH_MS = 30_000;

export interface BackendReport {
  readonly provider: string;
  readonly status: 'ok' | 'unavailable';
  readonly circuit: CircuitState;
  readonly latencyMs: number | undefined;
  readonly version: string | undefined;
  readonly models: readonly string[];
  readonly code: string | undefined;
  readonly reason: string | undefined;
}

/** A backend with its circuit and the list of its models. */
export class GuardedBackend {
  readonly backend: InferenceBackend;
  readonly #circuits: CallerCircuits;
  readonly #clock: Clock;
  #models: readonly string[] = [];
  #listedAtMs = Number.NEGATIVE_INFINITY;
  #asking: Promise<BackendHealth> | undefined;

  constructor(backend: InferenceBackend, clock: Clock, circuit: Omit<CircuitBreakerOptions, 'clock'>) {
    this.backend = backend;
    this.#clock = clock;
    this.#circuits = new CallerCircuits({ clock, ...circuit });
  }

  /** Of all callers together. */
  get circuit(): CircuitBreaker {
    return this.#circuits.shared;
  }

  /** What it had when it was last asked, however long ago. */
  get lastModels(): readonly string[] {
    return this.#models;
  }

  /**
   * `work` says `answering` with the first text.
   *
   * @param caller what it asks may fail for itself alone; undefined where callers are not told apart
   * @throws OctomilError `network_unavailable` while the circuit is open; whatever `work` throws
   */
  async run<T>(
    work: (backend: InferenceBackend, answering: () => void) => Promise<T>,
    signal: AbortSignal,
    caller?: string,
  ): Promise<T> {
    const { backend } = this;
    const pass = this.#circuits.enter(caller);
    if (pass.refusedBy !== undefined) {
      const circuit = pass.refusedBy;
      throw new OctomilError(
        'network_unavailable',
        `${backend.name} is left alone for ${Math.ceil(circuit.retryAfterMs)} ms, since it failed: ${circuit.reason ?? 'a probe is under way'}`,
        { retryAfterSeconds: Math.max(1, circuit.retryAfterMs / 1000), details: { provider: backend.name } },
      );
    }
    let isAnswering = false;
    const answering = (): void => {
      if (isAnswering) return;
      isAnswering = true;
      pass.answering();
    };
    try {
      const result = await work(backend, answering);
      pass.leave('success');
      return result;
    } catch (thrown) {
      const error = toOctomilError(thrown, 'inference_failed');
      // A long answer that was cut at its limit says nothing against a server that was writing it.
      if (signal.aborted || (isAnswering && isCutAtLimit(error))) pass.leave('unknown');
      // By its code: a server's own words may repeat what this caller asked, and others are told why it is left alone.
      else if (isBackendFault(error)) pass.leave('failure', error.code, mayBeOfOneCaller(error));
      // It answered: that the request or the key was wrong does not make it a broken one.
      else pass.leave('success');
      throw error;
    }
  }

  /** The models it has, at most 30 s old; what was known before when it does not answer. */
  async models(): Promise<readonly string[]> {
    if (this.#clock.now() - this.#listedAtMs < LIST_FRESH_MS) return this.#models;
    await this.#ask().catch(() => undefined);
    return this.#models;
  }

  async report(): Promise<BackendReport> {
    const startedAtMs = this.#clock.now();
    const common = { provider: this.backend.name };
    try {
      const { version, models } = await this.#ask();
      const latencyMs = this.#clock.now() - startedAtMs;
      const fine = { status: 'ok', code: undefined, reason: undefined } as const;
      return { ...common, ...fine, circuit: this.circuit.state, latencyMs, version, models };
    } catch (thrown) {
      const { code, reason } = toOctomilError(thrown, 'inference_failed');
      const failed = { status: 'unavailable', latencyMs: undefined, version: undefined, models: [] } as const;
      return { ...common, ...failed, circuit: this.circuit.state, code, reason };
    }
  }

  #ask(): Promise<BackendHealth> {
    this.#asking ??= this.backend
      .health(AbortSignal.timeout(HEALTH_TIMEOUT_MS))
      .then((health) => {
        this.#models = health.models;
        this.#listedAtMs = this.#clock.now();
        return health;
      })
      .finally(() => {
        this.#asking = undefined;
      });
    return this.#asking;
  }
}

const HEALTH_TIMEOUT_MS = 5_000;
