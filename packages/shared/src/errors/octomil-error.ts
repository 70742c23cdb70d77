import { type CodeEntry, ERROR_CODES, type ErrorCode, isErrorCode } from './codes.js';

export interface OctomilErrorOptions extends ErrorOptions {
  /** Facts for programs: the value, the limit, the device. They travel over the wire, so never secrets or data. */
  readonly details?: Readonly<Record<string, unknown>>;
  /** Seconds after which a retry makes sense, sent as `Retry-After`. */
  readonly retryAfterSeconds?: number;
}

/** What travels over a wire in place of an error: its cause stays behind, for the log alone. */
export interface ErrorBody {
  readonly code: ErrorCode;
  readonly message: string;
  readonly details?: Readonly<Record<string, unknown>>;
}

/**
 * The one error class. The message says what was wrong, the value, the limit and what to do;
 * the code, which comes first because tools often show the message alone, says what it means to a program.
 */
export class OctomilError extends Error {
  override readonly name = 'OctomilError';
  readonly code: ErrorCode;
  /** The message without the code in front. */
  readonly reason: string;
  readonly details: Readonly<Record<string, unknown>> | undefined;
  readonly retryAfterSeconds: number | undefined;

  constructor(code: ErrorCode, reason: string, options: OctomilErrorOptions = {}) {
    super(`[${code}] ${reason}`, options.cause === undefined ? {} : { cause: options.cause });
    this.code = code;
    this.reason = reason;
    this.details = options.details;
    this.retryAfterSeconds = options.retryAfterSeconds;
  }

  get entry(): CodeEntry {
    return ERROR_CODES[this.code];
  }

  toBody(): ErrorBody {
    return { code: this.code, message: this.reason, ...(this.details === undefined ? {} : { details: this.details }) };
  }

  /** Rebuilds an error that another process sent; an unknown code becomes `unknown`. */
  static fromBody(body: { code?: unknown; message?: unknown; details?: unknown }): OctomilError {
    const code = isErrorCode(body.code) ? body.code : 'unknown';
    const message = typeof body.message === 'string' ? body.message : 'no message was given';
    const details =
      typeof body.details === 'object' && body.details !== null ? (body.details as Record<string, unknown>) : undefined;
    return new OctomilError(code, message, details === undefined ? {} : { details });
  }
}

const SYSTEM_CODES: Readonly<Record<string, ErrorCode>> = {
  ENOSPC: 'insufficient_storage',
  EDQUOT: 'insufficient_storage',
  EADDRINUSE: 'port_in_use',
  ECONNREFUSED: 'network_unavailable',
  ECONNRESET: 'network_unavailable',
  EPIPE: 'network_unavailable',
  ENOTFOUND: 'network_unavailable',
  EAI_AGAIN: 'network_unavailable',
  ETIMEDOUT: 'request_timeout',
};

/**
 * Turns anything thrown into an OctomilError, once, at the edge. What is not ours becomes `fallback`,
 * with the original kept as the cause (for the log) and out of the message when `fallback` is `internal`.
 */
export function toOctomilError(thrown: unknown, fallback: ErrorCode = 'internal'): OctomilError {
  if (thrown instanceof OctomilError) return thrown;
  const systemCode = (thrown as { code?: unknown } | null)?.code;
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  const named = typeof systemCode === 'string' ? SYSTEM_CODES[systemCode] : undefined;
  if (named !== undefined) return new OctomilError(named, message, { cause: thrown });
  if (thrown instanceof Error && thrown.name === 'AbortError') {
    return new OctomilError('cancelled', 'the operation was cancelled', { cause: thrown });
  }
  return new OctomilError(
    fallback,
    fallback === 'internal' ? 'an unexpected error happened; the log of this process has its cause' : message,
    { cause: thrown },
  );
}
