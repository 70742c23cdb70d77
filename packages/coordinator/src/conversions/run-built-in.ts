import { Worker } from 'node:worker_threads';
import { type ErrorBody, OctomilError } from '@octomil/shared/errors';
import type { ConvertedFile, ConvertFileOptions } from '@octomil/shared/formats';
import { type Clock, type EntryPoint, entryPoint } from '@octomil/shared/runtime';

export interface BuiltInRun {
  readonly options: ConvertFileOptions;
  readonly timeoutMs: number;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** The thread's file; tests bring others. */
  readonly entry?: EntryPoint;
}

/** Names, shapes and the pickle of a state dict lie on the heap, weights outside of it. */
const MAX_HEAP_MIB = 256;

type Answer = { readonly done: ConvertedFile } | { readonly error: ErrorBody };

/**
 * Converts a file in a thread of its own, so that requests are answered meanwhile.
 *
 * @throws OctomilError as `convertFile`; `conversion_failed` when it takes too long or the thread ends; `cancelled`
 */
export async function runBuiltIn({ options, timeoutMs, clock, signal, entry }: BuiltInRun): Promise<ConvertedFile> {
  signal.throwIfAborted();
  const { path, execArgv } = entry ?? entryPoint(import.meta.url, 'conversion-worker');
  const worker = new Worker(path, {
    execArgv,
    workerData: options,
    resourceLimits: { maxOldGenerationSizeMb: MAX_HEAP_MIB, maxYoungGenerationSizeMb: 16 },
  });
  let cancelTimeout = (): void => undefined;
  let onAbort = (): void => undefined;
  try {
    return await new Promise<ConvertedFile>((resolve, reject) => {
      const failed = (reason: string, cause?: unknown): void =>
        reject(new OctomilError('conversion_failed', `the conversion to ${options.to} ${reason}`, { cause }));
      worker.once('message', (answer: Answer) => {
        if ('done' in answer) resolve(answer.done);
        else reject(OctomilError.fromBody(answer.error));
      });
      worker.once('error', (error) => failed(`could not go on: ${error.message}`, error));
      worker.once('exit', (code) => failed(`ended without a result (code ${code})`));
      cancelTimeout = clock.after(timeoutMs, () => failed(`took more than ${timeoutMs / 1000} seconds`));
      onAbort = () => reject(new OctomilError('cancelled', 'the conversion was cancelled'));
      signal.addEventListener('abort', onAbort, { once: true });
    });
  } finally {
    cancelTimeout();
    signal.removeEventListener('abort', onAbort);
    await worker.terminate();
  }
}
