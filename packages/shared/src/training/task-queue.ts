import { OctomilError } from '@octomil/shared/errors';
import { cancelledBy } from './cancellation.js';

/** Runs work one piece after another. What waits is cancelled by its signal at once; what runs has to see to that itself. */
export class TaskQueue {
  #tail: Promise<unknown> = Promise.resolve();
  #stopped = false;

  /** From now on everything that waits or comes is refused. */
  stop(): void {
    this.#stopped = true;
  }

  /** Resolves when everything added so far is over. */
  async idle(): Promise<void> {
    await this.#tail;
  }

  /** @throws OctomilError `cancelled` when the signal aborts, or the queue is stopped, before the work starts */
  add<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    let started = false;
    const onAbort = (): void => {
      if (!started && signal !== undefined) reject(cancelledBy(signal));
    };
    const turn = this.#tail.then(() => {
      if (this.#stopped) throw new OctomilError('cancelled', 'the trainer was stopped');
      if (signal?.aborted) throw cancelledBy(signal);
      started = true;
      return work();
    });
    this.#tail = turn.then(
      () => undefined,
      () => undefined,
    );
    if (signal?.aborted) onAbort();
    signal?.addEventListener('abort', onAbort, { once: true });
    turn.then(resolve, reject).finally(() => signal?.removeEventListener('abort', onAbort));
    return promise;
  }
}
