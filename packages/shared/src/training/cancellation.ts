import { OctomilError } from '@octomil/shared/errors';

/** @throws OctomilError `cancelled`, with the signal's reason as its cause */
export function throwIfCancelled(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw cancelledBy(signal);
}

export function cancelledBy(signal: AbortSignal): OctomilError {
  return new OctomilError('cancelled', 'the training task was cancelled', { cause: signal.reason });
}
