import type { ServiceError } from '@grpc/grpc-js';
import { errorBodyOf, type Problem } from '@octomil/proto';
import { type ErrorCode, GRPC, isErrorCode, OctomilError } from '@octomil/shared/errors';

/** Plain fields of a `Problem` message. */
export interface ProblemFields {
  readonly code: string;
  readonly message: string;
  readonly detailsJson: string;
}

/** An error as it is told to the coordinator: code, message and details, never the cause. */
export function toProblem(error: OctomilError): ProblemFields {
  return {
    code: error.code,
    message: error.reason,
    detailsJson: error.details === undefined ? '' : JSON.stringify(error.details),
  };
}

export function fromProblem(problem: Problem | undefined): OctomilError {
  let details: unknown;
  try {
    details = problem?.detailsJson ? JSON.parse(problem.detailsJson) : undefined;
  } catch {
    details = undefined;
  }
  return OctomilError.fromBody({ code: problem?.code, message: problem?.message, details });
}

/**
 * What a failed gRPC call means: the coordinator's own error where it sent one, else what the library's status says.
 */
export function fromGrpcError(error: Partial<ServiceError>): OctomilError {
  const body = errorBodyOf(error);
  if (isErrorCode(body?.code)) {
    const named = OctomilError.fromBody(body ?? {});
    return new OctomilError(named.code, named.reason, {
      cause: error,
      ...(named.details === undefined ? {} : { details: named.details }),
    });
  }
  const reason = plainReason(error.details || error.message || 'no reason was given');
  return new OctomilError(CODE_OF_STATUS[error.code ?? GRPC.UNKNOWN] ?? 'network_unavailable', reason, {
    cause: error,
  });
}

/** Without what grpc-js puts around the network's own words. */
function plainReason(text: string): string {
  const [, inner] = /^No connection established\. Last error: (?:Error: )?(.*?)\.? Resolution note:/s.exec(text) ?? [];
  if (inner === undefined) return text;
  return inner.startsWith('Protocol error')
    ? 'what answers there is not the port for agents, which "octomil up" prints as Agents (gRPC)'
    : inner;
}

const CODE_OF_STATUS: Readonly<Record<number, ErrorCode>> = {
  [GRPC.CANCELLED]: 'network_unavailable',
  [GRPC.UNKNOWN]: 'server_error',
  [GRPC.INVALID_ARGUMENT]: 'invalid_input',
  [GRPC.DEADLINE_EXCEEDED]: 'request_timeout',
  [GRPC.NOT_FOUND]: 'not_found',
  [GRPC.PERMISSION_DENIED]: 'forbidden',
  [GRPC.UNIMPLEMENTED]: 'runtime_unavailable',
  [GRPC.INTERNAL]: 'server_error',
  [GRPC.UNAUTHENTICATED]: 'authentication_failed',
};
