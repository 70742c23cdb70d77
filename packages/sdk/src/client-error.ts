import { ERROR_CODES, type ErrorCode, isErrorCode, type RetryClass } from '@octomil/shared/errors';

export interface ClientErrorFields extends ErrorOptions {
  /** HTTP status; absent when no answer came. */
  readonly status?: number | undefined;
  readonly requestId?: string | undefined;
  readonly details?: Readonly<Record<string, unknown>> | undefined;
  readonly retryAfterSeconds?: number | undefined;
}

/**
 * The one error that this package throws. `code` is for programs, `reason` for people; the message is both,
 * code first, because tools often show the message alone.
 */
export class OctomilClientError extends Error {
  override readonly name = 'OctomilClientError';
  readonly code: ErrorCode;
  readonly reason: string;
  /** When the same request may be tried again. */
  readonly retryClass: RetryClass;
  /** HTTP status; undefined when the coordinator gave no answer, or when a training session failed. */
  readonly status: number | undefined;
  /** What the coordinator's log calls this request. */
  readonly requestId: string | undefined;
  /** Facts for programs, such as the sites and their reasons. */
  readonly details: Readonly<Record<string, unknown>> | undefined;
  readonly retryAfterSeconds: number | undefined;

  constructor(code: ErrorCode, reason: string, fields: ClientErrorFields = {}) {
    super(`[${code}] ${reason}`, fields.cause === undefined ? {} : { cause: fields.cause });
    this.code = code;
    this.reason = reason;
    this.retryClass = ERROR_CODES[code].retry;
    this.status = fields.status;
    this.requestId = fields.requestId;
    this.details = fields.details;
    this.retryAfterSeconds = fields.retryAfterSeconds;
  }

  /** Whether trying again may help, at once or later. */
  get retryable(): boolean {
    return this.retryClass !== 'never';
  }
}

const STATUS_CODES: Readonly<Record<number, ErrorCode>> = {
  400: 'invalid_input',
  401: 'authentication_failed',
  403: 'forbidden',
  404: 'not_found',
  409: 'conflict',
  413: 'too_large',
  429: 'rate_limited',
  502: 'network_unavailable',
  503: 'network_unavailable',
  504: 'request_timeout',
};

/**
 * Reads an error answer: the coordinator's JSON body where there is one, otherwise (a proxy answered, say)
 * the status and the first of the text.
 *
 * @param hint said beside a `not_found`
 */
export function errorFromAnswer(response: Response, text: string, request: string, hint = ''): OctomilClientError {
  const body = parseObject(text);
  const { code: codeGiven, message: messageGiven } = said(body ?? {});
  const code = codeGiven ?? STATUS_CODES[response.status] ?? 'unknown';
  const reason =
    typeof messageGiven === 'string' && messageGiven !== ''
      ? messageGiven
      : `${request} was answered with HTTP ${response.status}${text === '' ? '' : `: ${text.slice(0, 200)}`}`;
  const hinted = response.status === 404 && code === 'not_found' ? `${reason}${hint}` : reason;
  const retryAfter = retryAfterSeconds(response.headers.get('retry-after'));
  const idInBody = body?.['request_id'];
  return new OctomilClientError(code, hinted, {
    status: response.status,
    requestId: response.headers.get('x-request-id') ?? (typeof idInBody === 'string' ? idInBody : undefined),
    details: asObject(body?.['details']),
    retryAfterSeconds: retryAfter,
  });
}

/** Reads an error that comes where an answer was: in a stream, say. */
export function errorFromFields(fields: Readonly<Record<string, unknown>>, fallback: ErrorCode): OctomilClientError {
  const { code, message } = said(fields);
  const reason =
    typeof message === 'string' && message !== '' ? message : 'the server reported an error without a word';
  const details = asObject(fields['details'] ?? asObject(fields['error'])?.['details']);
  return new OctomilClientError(code ?? fallback, reason, { details });
}

/** Names that OpenAI's clients know, where a server has only those. */
const FOREIGN_CODES: Readonly<Record<string, ErrorCode>> = {
  bad_request: 'invalid_input',
  context_length_exceeded: 'context_too_large',
  rate_limit_exceeded: 'rate_limited',
};

/** Ours beside OpenAI's `{ error: { message, code } }` wins; `{ error: "text" }` is a message too. */
function said(body: Readonly<Record<string, unknown>>): { code: ErrorCode | undefined; message: unknown } {
  const { error } = body;
  const nested = asObject(error);
  const given = [body['code'], nested?.['code']].filter((code) => typeof code === 'string');
  const code = given.find(isErrorCode) ?? given.map((name) => FOREIGN_CODES[name]).find((named) => named !== undefined);
  const message =
    body['message'] ?? nested?.['message'] ?? body['detail'] ?? (nested === undefined ? error : undefined);
  return { code, message };
}

/** Seconds form of `Retry-After` (RFC 9110, 10.2.3); the date form is ignored, for clocks differ. */
function retryAfterSeconds(header: string | null): number | undefined {
  return header !== null && /^\d+$/.test(header.trim()) ? Number(header) : undefined;
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    return asObject(JSON.parse(text));
  } catch {
    return undefined;
  }
}

function asObject(value: unknown): Record<string, unknown> | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : undefined;
}
