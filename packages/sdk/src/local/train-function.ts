import type { NamedTensor } from '@octomil/shared/tensors';
import { OctomilClientError } from '../client-error.js';
import type { LocalRound, LocalTrainFn, LocalTrainResult } from './options.js';
import { isWeights, stateDict } from './weights.js';

/** Lets a caller's function train. @throws OctomilClientError `training_failed` for what it throws, `invalid_input` */
export async function runTrainFunction(
  localTrainFn: LocalTrainFn,
  base: readonly NamedTensor[],
  told: LocalRound,
): Promise<LocalTrainResult> {
  if (typeof localTrainFn !== 'function') {
    throw new OctomilClientError('invalid_input', 'localTrainFn is missing: give a function that trains');
  }
  let result: LocalTrainResult;
  try {
    result = await localTrainFn(copied(base), told);
  } catch (cause) {
    if (told.signal?.aborted === true) throw cause;
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new OctomilClientError('training_failed', `localTrainFn failed in round ${told.round}: ${why}`, { cause });
  }
  if (typeof result === 'object' && result !== null && isWeights(result.weights)) return result;
  throw new OctomilClientError(
    'invalid_input',
    'localTrainFn must give { weights, sampleCount, metrics }, with weights as { name: { shape, data } }',
  );
}

/** A function may train in place; the base is needed again for the difference. */
function copied(base: readonly NamedTensor[]): ReturnType<typeof stateDict> {
  return stateDict(base.map((tensor) => ({ ...tensor, data: tensor.data.slice() })));
}
