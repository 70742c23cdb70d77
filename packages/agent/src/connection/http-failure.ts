import { type ErrorCode, isErrorCode, OctomilError, toOctomilError } from '@octomil/shared/errors';

const CODE_OF_STATUS: Readonly<Record<number, ErrorCode>> = {
  400: 'invalid_input',
  401: 'authentication_failed',
  403: 'forbidden',
  404: 'not_found',
  408: 'request_timeout',
  409: 'wrong_state',
  410: 'ticket_expired',
  413: 'too_large',
  422: 'update_rejected',
  429: 'rate_limited',
  507: 'insufficient_storage',
};

/** The coordinator's error from a REST answer; from a proxy or a balancer, whose body is its own, by the status alone. */
export function fromHttpFailure(statusCode: number, body: string, what: string): OctomilError {
  let parsed: unknown;
  try {
    parsed = JSON.parse(body);
  } catch {
    parsed = undefined;
  }
  const outer = (typeof parsed === 'object' && parsed !== null ? parsed : {}) as Record<string, unknown>;
  const inner = (
    typeof outer['error'] === 'object' && outer['error'] !== null ? outer['error'] : outer
  ) as typeof outer;
  if (isErrorCode(inner['code'])) return OctomilError.fromBody(inner);
  const code = CODE_OF_STATUS[statusCode] ?? (statusCode >= 500 ? 'network_unavailable' : 'invalid_input');
  return new OctomilError(code, `${what} was answered ${statusCode}`, { details: { statusCode } });
}

/** Worth another attempt, on this transport or another. */
export function isPassing(error: unknown): boolean {
  return (
    error instanceof OctomilError &&
    (error.entry.retry === 'backoff_safe' || error.code === 'request_timeout' || error.code === 'rate_limited')
  );
}

/** Of a request that was cut, or whose signal fell. */
export function networkFailure(error: unknown, signal: AbortSignal): OctomilError {
  if (signal.aborted) return toOctomilError(signal.reason, 'cancelled');
  if (error instanceof OctomilError) return error;
  const code = (error as { code?: unknown }).code;
  const timeout = code === 'UND_ERR_HEADERS_TIMEOUT' || code === 'UND_ERR_BODY_TIMEOUT';
  return new OctomilError(
    timeout ? 'request_timeout' : 'network_unavailable',
    `the transfer was cut: ${error instanceof Error ? error.message || String(code) : String(error)}`,
    { cause: error },
  );
}
