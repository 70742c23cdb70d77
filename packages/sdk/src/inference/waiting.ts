import { OctomilClientError } from '../client-error.js';
import { timerAfter } from '../timer.js';
import { DEFAULT_TIMEOUT_MS, type WaitOptions } from './request.js';

/**
 * Runs `work` for at most `timeoutMs`.
 *
 * @throws OctomilClientError `request_timeout`, `cancelled`, or what `work` throws
 */
export async function withinTime<T>(options: WaitOptions, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const limit = new TimeLimit(options);
  try {
    limit.start();
    return await work(limit.signal);
  } catch (thrown) {
    throw limit.explained(thrown);
  } finally {
    limit.end();
  }
}

/**
 * What `open` yields, each within `timeoutMs` of being asked for. However this ends, the signal given to `open` aborts.
 *
 * @throws OctomilClientError `request_timeout`, `cancelled`, or what the source throws
 */
export async function* eachWithinTime<T, R>(
  options: WaitOptions,
  open: (signal: AbortSignal) => AsyncGenerator<T, R, undefined>,
): AsyncGenerator<T, R, undefined> {
  const limit = new TimeLimit(options);
  let source: AsyncGenerator<T, R, undefined> | undefined;
  try {
    source = open(limit.signal);
    while (true) {
      limit.start();
      const step = await source.next();
      limit.pause();
      if (step.done === true) return step.value;
      yield step.value;
    }
  } catch (thrown) {
    throw limit.explained(thrown);
  } finally {
    limit.end();
    // Ends a source that waits at its `yield`; one that has ended does nothing.
    await source?.return(undefined as R);
  }
}

/** A signal that aborts with the caller's, and when time is up; its reason is the error to throw. */
class TimeLimit {
  readonly #timeoutMs: number;
  readonly #asked: AbortSignal | undefined;
  readonly #over = new AbortController();
  readonly #onAbort = (): void => {
    const error = new OctomilClientError('cancelled', 'the generation was cancelled', { cause: this.#asked?.reason });
    this.#over.abort(error);
  };
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor({ timeoutMs = DEFAULT_TIMEOUT_MS, signal }: WaitOptions) {
    this.#timeoutMs = timeoutMs;
    this.#asked = signal;
    if (signal?.aborted === true) this.#onAbort();
    else signal?.addEventListener('abort', this.#onAbort, { once: true });
  }

  get signal(): AbortSignal {
    return this.#over.signal;
  }

  /** @throws OctomilClientError `cancelled` */
  start(): void {
    this.signal.throwIfAborted();
    this.#timer = timerAfter(this.#timeoutMs, () => {
      const reason = `nothing was generated within ${this.#timeoutMs} ms; allow more with timeoutMs`;
      this.#over.abort(new OctomilClientError('request_timeout', reason));
    });
  }

  pause(): void {
    clearTimeout(this.#timer);
  }

  end(): void {
    this.pause();
    this.#asked?.removeEventListener('abort', this.#onAbort);
    this.#over.abort(new OctomilClientError('cancelled', 'the answer is no longer read'));
  }

  explained(thrown: unknown): unknown {
    return this.signal.aborted ? this.signal.reason : thrown;
  }
}
