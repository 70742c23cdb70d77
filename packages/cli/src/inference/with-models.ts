import type { Options } from '../program.js';
import { interruptible } from '../terminal/interrupt.js';
import { readerGone } from '../terminal/out.js';
import { type LocalModels, localModels } from './local-models.js';

/**
 * Does something with models of this machine until it is done, interrupted, or nobody reads it any more; then the engines
 * are ended.
 *
 * @param model path or name, as it was given; undefined: those of the models file
 * @returns the exit code of `task`; 0 when the reader of a pipe has left, as `head` does when it has enough
 * @throws OctomilError as `localModels` and `task`
 */
export async function withModels(
  model: unknown,
  options: Options,
  task: (models: LocalModels, signal: AbortSignal) => Promise<number>,
): Promise<number> {
  const interrupt = interruptible();
  const reader = readerGone();
  const signal = AbortSignal.any([interrupt.signal, reader.signal]);
  let models: LocalModels | undefined;
  try {
    models = await localModels(typeof model === 'string' ? model : undefined, options, signal);
    return await task(models, signal);
  } catch (error) {
    if (reader.signal.aborted) return 0;
    throw error;
  } finally {
    await models?.stop();
    reader.release();
    interrupt.release();
  }
}
