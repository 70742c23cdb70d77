/**
 * What `work` answers, but no later than this, and not after the signal. For SDKs that can neither be timed nor cancelled:
 * their request is then left to itself.
 *
 * @throws a `TimeoutError`, which `networkProblem` knows; the signal's reason; what `work` throws
 */
export async function answeredWithin<T>(work: Promise<T>, limitMs: number, signal?: AbortSignal): Promise<T> {
  // Its failure may come after somebody has given it up.
  work.catch(() => undefined);
  signal?.throwIfAborted();
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    // No DOMException: it has a code, 23, which SDKs' errors have for the status of an answer.
    late.reject(Object.assign(new Error(`no answer within ${limitMs} ms`), { name: 'TimeoutError' }));
  }, limitMs);
  const abort = (): void => late.reject(signal?.reason);
  signal?.addEventListener('abort', abort, { once: true });
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', abort);
  }
}
