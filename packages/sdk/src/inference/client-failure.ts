import { type ErrorCode, isErrorCode } from '@octomil/shared/errors';
import { OctomilClientError } from '../client-error.js';

/** Whatever was thrown, as the one error of this package. What other rooms throw is known by what it has. */
export function clientError(thrown: unknown, fallback: ErrorCode): OctomilClientError {
  if (thrown instanceof OctomilClientError) return thrown;
  const error = thrown as { code?: unknown; reason?: unknown; message?: unknown; details?: unknown } | null | undefined;
  const text = error?.reason ?? error?.message ?? thrown;
  const details = typeof error?.details === 'object' ? error.details : undefined;
  return new OctomilClientError(isErrorCode(error?.code) ? error.code : fallback, String(text), {
    cause: thrown,
    ...(details === undefined || details === null ? {} : { details: details as Readonly<Record<string, unknown>> }),
  });
}
