import { type Failure, networkProblem, problemOfStatus } from './bucket-problem.js';

/** What an error of the SDK says, in the words of AWS and of servers that speak its protocol. */
export function s3Failure(error: unknown): Failure {
  const { name, Code, $metadata } = error as {
    name?: string;
    Code?: string;
    $metadata?: { httpStatusCode?: number };
  };
  const status = $metadata?.httpStatusCode;
  const providerCode = Code ?? name;
  return { problem: s3Problem(error, providerCode, status), providerCode, status };
}

function s3Problem(error: unknown, code: string | undefined, status: number | undefined): Failure['problem'] {
  switch (code ?? '') {
    case 'NoSuchKey':
    case 'NotFound':
    case 'NoSuchUpload':
      return 'missing_object';
    case 'NoSuchBucket':
      return 'missing_bucket';
    case 'CredentialsProviderError':
    case 'TokenProviderError':
      return 'no_credentials';
    case 'InvalidAccessKeyId':
    // versitygw's word for it.
    case 'XAdminUserNotFound':
    case 'SignatureDoesNotMatch':
    case 'InvalidToken':
      return 'bad_credentials';
    case 'ExpiredToken':
    case 'ExpiredTokenException':
    case 'TokenRefreshRequired':
    case 'RequestTimeTooSkewed':
    case 'RequestExpired':
      return 'expired_credentials';
    case 'AccessDenied':
    case 'AllAccessDisabled':
      return 'denied';
    case 'PermanentRedirect':
    case 'AuthorizationHeaderMalformed':
      return 'wrong_region';
    case 'PreconditionFailed':
      return 'changed';
    case 'QuotaExceeded':
      return 'full';
    case 'TimeoutError':
    case 'RequestTimeout':
      return 'timeout';
  }
  if (error instanceof Error && /Region is missing/i.test(error.message)) return 'wrong_region';
  if (
    error instanceof Error &&
    /Could not load credentials|could not be found in|Could not resolve credentials/i.test(error.message)
  )
    return 'no_credentials';
  return problemOfStatus(status) ?? networkProblem(error) ?? 'refused';
}
