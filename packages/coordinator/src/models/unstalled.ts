import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';

/** Passes chunks on, as long as one comes every `idleMs`. @throws OctomilError `request_timeout` */
export async function* unstalled(
  source: AsyncIterable<Uint8Array>,
  clock: Clock,
  idleMs: number,
): AsyncGenerator<Uint8Array> {
  const iterator = source[Symbol.asyncIterator]();
  let receivedBytes = 0;
  const next = (): Promise<IteratorResult<Uint8Array>> =>
    new Promise((resolve, reject) => {
      const cancel = clock.after(idleMs, () =>
        reject(
          new OctomilError(
            'request_timeout',
            `no byte arrived for ${idleMs} ms after the first ${receivedBytes}; send the file again`,
          ),
        ),
      );
      iterator.next().then(resolve, reject).finally(cancel);
    });
  let ended = false;
  try {
    for (let step = await next(); step.done !== true; step = await next()) {
      receivedBytes += step.value.length;
      yield step.value;
    }
    ended = true;
  } finally {
    // Not waited for: a source that stalls does not end either.
    if (!ended) void iterator.return?.()?.catch(() => undefined);
  }
}
