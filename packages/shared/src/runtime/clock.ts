/** Time as a dependency, so that waiting is tested in microseconds. */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number;
  /** Resolves after `delayMs`; rejects with the signal's reason when it aborts first. */
  sleep(delayMs: number, signal?: AbortSignal): Promise<void>;
  /** Calls back once after `delayMs`; the answer cancels. Does not keep the process alive. */
  after(delayMs: number, callback: () => void): () => void;
}

export const systemClock: Clock = {
  now: () => Date.now(),
  sleep: (delayMs, signal) =>
    new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(signal.reason);
        return;
      }
      const onAbort = (): void => {
        cancel();
        reject(signal?.reason);
      };
      const cancel = startTimer(delayMs, () => {
        signal?.removeEventListener('abort', onAbort);
        resolve();
      });
      signal?.addEventListener('abort', onAbort, { once: true });
    }),
  after: (delayMs, callback) => startTimer(delayMs, callback, (timer) => timer.unref()),
};

/** 24.8 days: a timer that is to wait longer fires at once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

function startTimer(delayMs: number, callback: () => void, started?: (timer: NodeJS.Timeout) => void): () => void {
  let timer: NodeJS.Timeout;
  const wait = (leftMs: number): void => {
    const afterwardsMs = leftMs - LONGEST_TIMER_MS;
    timer = afterwardsMs > 0 ? setTimeout(wait, LONGEST_TIMER_MS, afterwardsMs) : setTimeout(callback, leftMs);
    started?.(timer);
  };
  wait(delayMs);
  return () => clearTimeout(timer);
}
