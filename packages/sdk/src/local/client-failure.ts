import { isErrorCode } from '@octomil/shared/errors';
import { OctomilClientError } from '../client-error.js';

/**
 * Whatever was thrown, as the one error of this package. Errors of the shared rooms keep their code; they may come from
 * another copy of them, so they are known by what they have.
 */
export function clientError(thrown: unknown, signal?: AbortSignal): OctomilClientError {
  if (thrown instanceof OctomilClientError) return thrown;
  if (signal?.aborted === true)
    return new OctomilClientError('cancelled', 'the training was cancelled', { cause: thrown });
  const error = thrown as { code?: unknown; reason?: unknown; message?: unknown; details?: unknown } | null | undefined;
  const text = error?.reason ?? error?.message ?? thrown;
  const reason = typeof text === 'string' ? text : String(text);
  const details = typeof error?.details === 'object' && error.details !== null ? error.details : undefined;
  const code = isErrorCode(error?.code) ? error.code : 'training_failed';
  return new OctomilClientError(code, reason, {
    cause: thrown,
    ...(details === undefined ? {} : { details: details as Readonly<Record<string, unknown>> }),
  });
}
