import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { errorJson } from './inference-routes.js';

/** Names that OpenAI's clients read, where they differ from ours. */
const CODES: Readonly<Record<string, string>> = {
  invalid_input: 'bad_request',
  context_too_large: 'context_length_exceeded',
};

/** OpenAI's error object, with our flat fields beside it. */
export function openAiErrorBody(error: OctomilError): Record<string, unknown> {
  const { retryable, category } = errorJson(error);
  const status = openAiStatus(error);
  const code = CODES[error.code] ?? error.code;
  const type = status === 429 ? 'rate_limit_error' : status < 500 ? 'invalid_request_error' : 'server_error';
  const field = error.details?.['field'];
  return {
    error: { message: error.reason, type, param: typeof field === 'string' ? field : null, code },
    code,
    message: error.reason,
    retryable,
    category,
  };
}

/** OpenAI answers 400 to a prompt longer than the context. */
export function openAiStatus(error: OctomilError): number {
  return error.code === 'context_too_large' ? 400 : error.entry.http;
}

/** For routes under `/v1`: every failure of theirs in OpenAI's shape, also that of a hook or a schema. */
export function answerOpenAiError(thrown: unknown, _request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const error = asRequestError(thrown);
  if (error.retryAfterSeconds !== undefined) reply.header('retry-after', String(Math.ceil(error.retryAfterSeconds)));
  return reply.code(openAiStatus(error)).send(openAiErrorBody(error));
}

/** Anything thrown on the way to an answer, with the field where a schema found it. */
export function asRequestError(thrown: unknown): OctomilError {
  const { statusCode, message, validation } = (thrown ?? {}) as {
    statusCode?: unknown;
    message?: unknown;
    validation?: readonly ValidationProblem[];
  };
  if (thrown instanceof OctomilError || typeof statusCode !== 'number' || statusCode >= 500)
    return toOctomilError(thrown);
  const [first] = validation ?? [];
  const field = fieldOf(first);
  const problem = first?.params?.requiredProperties === undefined ? (first?.message ?? 'is not valid') : 'is missing';
  const text = first === undefined ? String(message) : `${field} ${problem}`.trim();
  return new OctomilError(statusCode === 413 ? 'too_large' : 'invalid_input', text, {
    cause: thrown,
    ...(field === '' ? {} : { details: { field } }),
  });
}

interface ValidationProblem {
  readonly instancePath?: string;
  readonly message?: string;
  readonly params?: { readonly requiredProperties?: readonly string[] };
}

/** Where the problem is: of a field that is missing, its own name. */
function fieldOf(problem: ValidationProblem | undefined): string {
  const missing = problem?.params?.requiredProperties?.[0];
  const path = (problem?.instancePath ?? '').slice(1).replaceAll('/', '.');
  return [path, missing].filter((part) => part !== undefined && part !== '').join('.');
}
