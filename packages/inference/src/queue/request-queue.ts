import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import { QueueFullError, QueueTimeoutError } from './queue-errors.js';

export interface RequestQueueOptions {
  /** How many may wait; those that run do not count. Default 32. */
  readonly maxDepth?: number;
  /** The longest wait for a turn. Running takes as long as it takes. Default 60,000. */
  readonly timeoutMs?: number;
  /** How many run at once. Default 1: an engine that does one thing at a time is never asked for two. */
  readonly concurrency?: number;
  readonly clock?: Pick<Clock, 'after'>;
}

export interface QueueStats {
  readonly pending: number;
  readonly active: number;
  readonly maxDepth: number;
}

/** What a queued function is given beside its request. */
export interface TurnContext {
  /** Aborts with the caller's signal, when a stream is left, and when the queue is stopped with `abortActive`. */
  readonly signal: AbortSignal;
}

interface Waiter {
  readonly takeTurn: () => void;
  readonly giveUp: (reason: unknown) => void;
}

const timers: Pick<Clock, 'after'> = {
  after: (delayMs, callback) => {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
};

/**
 * First come, first served: keeps concurrent requests from contending for one engine.
 *
 * ```ts
 * const queue = new RequestQueue({ maxDepth: 32, timeoutMs: 60_000 });
 * const answer = await queue.submitGenerate(request, { generateFn: (asked, { signal }) => engine.generate(asked, signal) });
 * for await (const chunk of queue.submitGenerateStream(request, { generateStreamFn: stream })) process.stdout.write(chunk);
 * await queue.stop();
 * ```
 */
export class RequestQueue {
  readonly #maxDepth: number;
  readonly #timeoutMs: number;
  readonly #concurrency: number;
  readonly #clock: Pick<Clock, 'after'>;
  /** In the order of their arrival. */
  readonly #waiting = new Set<Waiter>();
  readonly #stopping = new AbortController();
  #active = 0;
  #state: 'open' | 'stopped' = 'open';
  /** Who waits until nothing runs. Not `Promise.withResolvers`: the SDK's queue also runs where there is none. */
  readonly #stoppers = new Set<() => void>();

  /** @throws OctomilError `invalid_input` for limits that are no positive numbers */
  constructor(options: RequestQueueOptions = {}) {
    this.#maxDepth = atLeast('maxDepth', options.maxDepth ?? 32, 0);
    this.#timeoutMs = atLeast('timeoutMs', options.timeoutMs ?? 60_000, 1);
    this.#concurrency = atLeast('concurrency', options.concurrency ?? 1, 1);
    this.#clock = options.clock ?? timers;
  }

  /** A queue is open from the start; only after `stop` does this do something: it opens it again. */
  start(): void {
    if (this.#stopping.signal.aborted) throw stopped();
    this.#state = 'open';
  }

  stats(): QueueStats {
    return { pending: this.#waiting.size, active: this.#active, maxDepth: this.#maxDepth };
  }

  /**
   * Runs `generateFn` when its turn comes, and answers what it answers.
   *
   * @throws QueueFullError at once; QueueTimeoutError after `timeoutMs` of waiting; the signal's reason; OctomilError
   * `cancelled` once the queue is stopped; whatever `generateFn` throws
   */
  async submitGenerate<Asked, Answer>(
    request: Asked,
    options: {
      readonly generateFn: (request: Asked, context: TurnContext) => Promise<Answer> | Answer;
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<Answer> {
    await this.#turn(options.signal);
    try {
      const signal = this.#signalOf(options.signal);
      // Between the turn and its use everything may have been called off.
      signal.throwIfAborted();
      return await options.generateFn(request, { signal });
    } finally {
      this.#release();
    }
  }

  /**
   * Streams what `generateStreamFn` yields. Its place in the queue is taken with the first `next()`, its turn ends with
   * the stream, and nothing is produced ahead of the reader. A reader that leaves early ends the generation.
   *
   * @throws what `submitGenerate` throws, from `next()`
   */
  async *submitGenerateStream<Asked, Chunk>(
    request: Asked,
    options: {
      readonly generateStreamFn: (request: Asked, context: TurnContext) => AsyncIterable<Chunk>;
      readonly signal?: AbortSignal | undefined;
    },
  ): AsyncGenerator<Chunk, void, undefined> {
    await this.#turn(options.signal);
    const left = new AbortController();
    try {
      const signal = this.#signalOf(options.signal, left.signal);
      signal.throwIfAborted();
      yield* options.generateStreamFn(request, { signal });
    } finally {
      left.abort(new OctomilError('cancelled', 'the reader of the stream left'));
      this.#release();
    }
  }

  /**
   * Refuses what waits and what comes, and resolves once what runs has ended. Safe to repeat.
   *
   * @param options.abortActive ends what runs through its signal, too
   */
  async stop(options: { readonly abortActive?: boolean } = {}): Promise<void> {
    this.#state = 'stopped';
    for (const waiter of this.#waiting) waiter.giveUp(stopped());
    if (options.abortActive === true) this.#stopping.abort(stopped());
    if (this.#active > 0) await new Promise<void>((resolve) => this.#stoppers.add(resolve));
  }

  #signalOf(...signals: readonly (AbortSignal | undefined)[]): AbortSignal {
    return AbortSignal.any([this.#stopping.signal, ...signals.filter((signal) => signal !== undefined)]);
  }

  #turn(signal: AbortSignal | undefined): Promise<void> {
    if (this.#state === 'stopped') return Promise.reject(stopped());
    if (signal?.aborted) return Promise.reject(signal.reason);
    if (this.#active < this.#concurrency) {
      this.#active += 1;
      return Promise.resolve();
    }
    if (this.#waiting.size >= this.#maxDepth) {
      return Promise.reject(new QueueFullError(this.#maxDepth, 1));
    }
    return new Promise((resolve, reject) => {
      const end = (): void => {
        this.#waiting.delete(waiter);
        callOff();
        signal?.removeEventListener('abort', onAbort);
      };
      const waiter: Waiter = {
        takeTurn: () => {
          end();
          resolve();
        },
        giveUp: (reason) => {
          end();
          reject(reason);
        },
      };
      const onAbort = (): void => waiter.giveUp(signal?.reason);
      const callOff = this.#clock.after(this.#timeoutMs, () => waiter.giveUp(new QueueTimeoutError(this.#timeoutMs)));
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#waiting.add(waiter);
    });
  }

  #release(): void {
    const [next] = this.#waiting;
    // The turn is handed over, so that nobody who comes now gets in between.
    if (next !== undefined) {
      next.takeTurn();
      return;
    }
    this.#active -= 1;
    if (this.#active > 0) return;
    for (const wake of this.#stoppers) wake();
    this.#stoppers.clear();
  }
}

function stopped(): OctomilError {
  return new OctomilError('cancelled', 'the queue was stopped before the request had its turn');
}

function atLeast(name: string, value: number, least: number): number {
  if (Number.isFinite(value) && value >= least) return value;
  throw new OctomilError('invalid_input', `${name} is ${value}; it must be a number of at least ${least}`, {
    details: { field: name, value, minimum: least },
  });
}
