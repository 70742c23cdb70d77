import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Logger } from '@octomil/shared/runtime';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { explainProblems, type SchemaProblem } from './schema-problems.js';

/** `error` in the published documents, by status. */
const DOCUMENT_NAMES: Readonly<Record<number, string>> = {
  400: 'bad_request',
  401: 'unauthorized',
  403: 'forbidden',
  404: 'not_found',
  405: 'method_not_allowed',
  409: 'conflict',
  410: 'gone',
  413: 'payload_too_large',
  414: 'uri_too_long',
  415: 'unsupported_media_type',
  416: 'range_not_satisfiable',
  422: 'unprocessable_entity',
  429: 'rate_limited',
  503: 'service_unavailable',
  504: 'gateway_timeout',
  507: 'insufficient_storage',
};

/** One body that every published client can read: documents' `error`, our `code`, `detail` for older ones. */
export function errorBody(error: OctomilError, status: number, requestId: string): Record<string, unknown> {
  const { retry, category } = error.entry;
  return {
    error: DOCUMENT_NAMES[status] ?? (status >= 500 ? 'internal_error' : 'bad_request'),
    code: error.code,
    message: error.reason,
    detail: error.reason,
    retryable: retry === 'immediate_safe' || retry === 'backoff_safe',
    category,
    request_id: requestId,
    ...(error.details === undefined ? {} : { details: error.details }),
  };
}

/** Sends any failure as that body; what was not foreseen goes to the log with its cause, and nowhere else. */
export function answerError(
  thrown: unknown,
  request: FastifyRequest,
  reply: FastifyReply,
  logger: Logger,
): FastifyReply {
  const { error, status } = translate(thrown);
  if (status >= 500) {
    const context = { error: thrown, requestId: request.id, method: request.method, route: request.routeOptions.url };
    logger.error(context, 'a request failed');
  }
  request.mayRepeat = error.entry.retry !== 'never';
  if (error.retryAfterSeconds !== undefined) reply.header('retry-after', String(Math.ceil(error.retryAfterSeconds)));
  return reply
    .code(status)
    .type('application/json; charset=utf-8')
    .send(errorBody(error, status, request.id));
}

/** Must not read `{"detail":"Not Found"}`: the published client takes that for a server that is still starting. */
export function answerMissingRoute(
  request: FastifyRequest,
  reply: FastifyReply,
  methodsOf: (path: string) => readonly string[],
): FastifyReply {
  const path = request.url.split('?', 1)[0] ?? '';
  const shown = path.length > 200 ? `${path.slice(0, 200)}…` : path;
  const allowed = methodsOf(path);
  if (allowed.length === 0) {
    const error = new OctomilError('not_found', `there is no ${request.method} ${shown}; see /openapi.json`);
    return reply.code(404).send(errorBody(error, 404, request.id));
  }
  const error = new OctomilError(
    'invalid_input',
    `${request.method} is not allowed on ${shown}; ${allowed.join(', ')} is`,
    {
      details: { allowed },
    },
  );
  return reply
    .code(405)
    .header('allow', allowed.join(', '))
    .send(errorBody(error, 405, request.id));
}

interface FastifyFailure {
  readonly code?: string;
  readonly statusCode: number;
  readonly message: string;
  readonly validation?: readonly SchemaProblem[];
  readonly validationContext?: string;
}

function translate(thrown: unknown): { error: OctomilError; status: number } {
  if (!(thrown instanceof OctomilError) && isFastifyFailure(thrown) && thrown.statusCode < 500) {
    const code = thrown.statusCode === 413 ? 'too_large' : 'invalid_input';
    const { reason, field } = explain(thrown);
    const details = field === '' ? {} : { details: { field } };
    return { error: new OctomilError(code, reason, { cause: thrown, ...details }), status: thrown.statusCode };
  }
  const error = toOctomilError(thrown);
  return { error, status: error.entry.http };
}

function isFastifyFailure(thrown: unknown): thrown is FastifyFailure {
  return thrown instanceof Error && 'statusCode' in thrown && typeof thrown.statusCode === 'number';
}

const PLAINER: Readonly<Record<string, string>> = {
  FST_ERR_CTP_BODY_TOO_LARGE:
    'the body is larger than this route takes: 1 MiB for JSON and forms; upload files instead',
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'this Content-Type is not read here; send application/json',
  FST_ERR_CTP_INVALID_JSON_BODY: 'the body is not valid JSON',
  FST_ERR_CTP_EMPTY_JSON_BODY: 'the body is empty, but Content-Type says JSON; send {} or leave the header out',
  FST_ERR_BAD_URL: 'the address holds a % that begins no character; encode it as %25',
};

/** Fastify's own message names neither the field nor what to do. */
function explain({ code, validation, validationContext, message }: FastifyFailure): { reason: string; field: string } {
  if (validation === undefined) return { reason: PLAINER[code ?? ''] ?? message, field: '' };
  const { reason, field } = explainProblems(validation);
  return { reason: `${validationContext ?? 'request'}: ${reason}`, field };
}
