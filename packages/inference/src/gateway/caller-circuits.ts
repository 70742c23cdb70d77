import { CircuitBreaker, type CircuitBreakerOptions, type CircuitPass } from './circuit-breaker.js';

/** Callers whose failures are remembered at once; of more, those that failed longest ago are forgotten. */
const MAX_CALLERS = 1_000;

export interface CallerPass extends CircuitPass {
  /** Why nobody was let through: the circuit in question. */
  readonly refusedBy?: undefined;
}
export interface Refusal {
  readonly refusedBy: CircuitBreaker;
}

/**
 * The circuit of a server, and one for each caller that met failures which its own questions may have caused. A server
 * that cannot be reached is left alone by all; one that fails on what a caller asks, by that caller, until another one
 * has met the same.
 */
export class CallerCircuits {
  readonly shared: CircuitBreaker;
  readonly #options: CircuitBreakerOptions;
  readonly #own = new Map<string, CircuitBreaker>();
  /** Who met failures of the second kind since the last success of anybody. */
  readonly #failing = new Set<string>();

  constructor(options: CircuitBreakerOptions) {
    this.#options = options;
    this.shared = new CircuitBreaker(options);
  }

  /** @param caller undefined where callers are not told apart: then every failure counts for all */
  enter(caller: string | undefined): CallerPass | Refusal {
    const pass = this.shared.enter();
    if (pass === undefined) return { refusedBy: this.shared };
    if (caller === undefined) return pass;
    const circuit = this.#own.get(caller);
    const own = circuit?.enter();
    if (circuit !== undefined && own === undefined) {
      pass.leave('unknown');
      return { refusedBy: circuit };
    }
    return {
      answering: () => {
        pass.answering();
        own?.answering();
      },
      leave: (outcome, reason, mayBeItsOwn = false) => {
        if (outcome === 'success') {
          this.#failing.clear();
          this.#own.delete(caller);
        }
        if (outcome !== 'failure' || !mayBeItsOwn) {
          pass.leave(outcome, reason);
          own?.leave('unknown');
          return;
        }
        this.#failing.add(caller);
        // One caller alone proves nothing about the server.
        pass.leave(this.#failing.size > 1 ? 'failure' : 'unknown', reason);
        (own ?? this.#circuitOf(caller).enter())?.leave('failure', reason);
      },
    };
  }

  #circuitOf(caller: string): CircuitBreaker {
    const circuit = this.#own.get(caller) ?? new CircuitBreaker(this.#options);
    this.#own.delete(caller);
    this.#own.set(caller, circuit);
    const [oldest] = this.#own.keys();
    if (this.#own.size > MAX_CALLERS && oldest !== undefined) this.#own.delete(oldest);
    if (this.#failing.size > MAX_CALLERS) this.#failing.clear();
    return circuit;
  }
}
