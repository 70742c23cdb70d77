import { type ErrorCode, OctomilError } from '../../errors/index.js';

/** What can be wrong with a bucket or an object in it. */
export type BucketProblem =
  | 'missing_object'
  | 'missing_bucket'
  | 'no_credentials'
  | 'bad_credentials'
  | 'expired_credentials'
  | 'denied'
  | 'wrong_region'
  | 'changed'
  | 'unreachable'
  | 'timeout'
  | 'busy'
  | 'full'
  | 'refused';

/** Data that a site reads, or the coordinator's own objects: the same problem is another's to mend. */
export type BucketPurpose = 'source' | 'store';

const CODES: Readonly<Record<BucketPurpose, Readonly<Record<BucketProblem, ErrorCode>>>> = {
  source: {
    missing_object: 'data_unreadable',
    missing_bucket: 'data_unreadable',
    no_credentials: 'data_unreadable',
    bad_credentials: 'data_unreadable',
    expired_credentials: 'data_unreadable',
    denied: 'data_unreadable',
    wrong_region: 'data_unreadable',
    changed: 'data_unreadable',
    refused: 'data_unreadable',
    unreachable: 'network_unavailable',
    timeout: 'request_timeout',
    busy: 'network_unavailable',
    full: 'insufficient_storage',
  },
  store: {
    missing_object: 'not_found',
    missing_bucket: 'config_invalid',
    no_credentials: 'config_invalid',
    bad_credentials: 'config_invalid',
    expired_credentials: 'config_invalid',
    denied: 'config_invalid',
    wrong_region: 'config_invalid',
    changed: 'conflict',
    refused: 'internal',
    unreachable: 'network_unavailable',
    timeout: 'request_timeout',
    busy: 'network_unavailable',
    full: 'insufficient_storage',
  },
};

/** A provider's own words for the same things. */
export interface ProviderWords {
  readonly name: string;
  /** How credentials are given, as the end of a sentence. */
  readonly credentials: string;
  /** What lets somebody read, as the end of a sentence. */
  readonly permissions: string;
  readonly endpoint: string;
}

/** What is known of a failure, without anything that may be secret. */
export interface Failure {
  readonly problem: BucketProblem;
  /** The provider's word for it, such as `NoSuchKey`. */
  readonly providerCode?: string | undefined;
  readonly status?: number | undefined;
}

/**
 * Makes errors about one bucket. The SDK's error is never kept, not even as a cause: it carries the request with its
 * signatures and tokens, and a log would print them.
 */
export class BucketErrors {
  readonly #words: ProviderWords;
  /** The bucket as a URL without secrets, such as `s3://bucket/`. */
  readonly #where: string;
  readonly #purpose: BucketPurpose;

  constructor(words: ProviderWords, where: string, purpose: BucketPurpose) {
    this.#words = words;
    this.#where = where;
    this.#purpose = purpose;
  }

  make({ problem, providerCode, status }: Failure, key?: string): OctomilError {
    const place = key === undefined ? this.#where : `${this.#where}${key}`;
    const code = CODES[this.#purpose][problem];
    const said = [safeWord(providerCode), status === undefined ? undefined : `status ${status}`].filter(Boolean);
    const answer = said.length === 0 ? '' : ` (${said.join(', ')})`;
    return new OctomilError(code, `${place}: ${this.#reason(problem)}${answer}`, {
      details: {
        problem,
        location: place,
        ...(safeWord(providerCode) === undefined ? {} : { provider_code: safeWord(providerCode) }),
      },
    });
  }

  #reason(problem: BucketProblem): string {
    const { name, credentials, permissions, endpoint } = this.#words;
    switch (problem) {
      case 'missing_object':
        return 'there is no such object; check the key, its upper and lower case included';
      case 'missing_bucket':
        return `there is no such bucket or container at ${endpoint}; check its name and the endpoint`;
      case 'no_credentials':
        return `no credentials for ${name} were found; ${credentials}`;
      case 'bad_credentials':
        return `${name} does not know these credentials; ${credentials}`;
      case 'expired_credentials':
        return `the credentials for ${name} have expired, or this machine's clock is wrong; renew them: ${credentials}`;
      case 'denied':
        return `${name} denies access; ${permissions}`;
      case 'wrong_region':
        return `the bucket lies in another region; set AWS_REGION to its region`;
      case 'changed':
        return 'the object changed while it was read; read it again, and write a new object rather than over one in use';
      case 'unreachable':
        return `${name} cannot be reached; check the network, HTTPS_PROXY (at a site also proxy of agent.yaml) and ${endpoint}`;
      case 'timeout':
        return `${name} did not answer in time; try again, or check the network and the proxy`;
      case 'busy':
        return `${name} is overloaded or failing; try again later`;
      case 'full':
        return `${name} has no room left; free some or raise the quota`;
      case 'refused':
        return `${name} refused the request`;
    }
  }
}

/** The problem that an error of {@link BucketErrors} names. */
export function problemOf(error: unknown): BucketProblem | undefined {
  return error instanceof OctomilError ? (error.details?.['problem'] as BucketProblem | undefined) : undefined;
}

/** Provider codes are words; anything else might quote a request. */
function safeWord(text: string | undefined): string | undefined {
  return text !== undefined && /^[A-Za-z][A-Za-z0-9._-]{1,63}$/.test(text) ? text : undefined;
}

const NETWORK_CODES: Readonly<Record<string, BucketProblem>> = {
  ECONNREFUSED: 'unreachable',
  ECONNRESET: 'unreachable',
  EPIPE: 'unreachable',
  ENOTFOUND: 'unreachable',
  EAI_AGAIN: 'unreachable',
  EHOSTUNREACH: 'unreachable',
  ENETUNREACH: 'unreachable',
  ETIMEDOUT: 'timeout',
  ESOCKETTIMEDOUT: 'timeout',
  REQUEST_SEND_ERROR: 'unreachable',
  PARSE_ERROR: 'unreachable',
  ERR_STREAM_PREMATURE_CLOSE: 'unreachable',
  UND_ERR_SOCKET: 'unreachable',
  UND_ERR_CONNECT_TIMEOUT: 'timeout',
  UND_ERR_HEADERS_TIMEOUT: 'timeout',
  UND_ERR_BODY_TIMEOUT: 'timeout',
};

/** The failures of a connection, whatever library threw them. */
export function networkProblem(error: unknown): BucketProblem | undefined {
  for (
    let current = error as { code?: unknown; name?: unknown; cause?: unknown } | undefined, depth = 0;
    depth < 4;
    depth++
  ) {
    if (typeof current !== 'object' || current === null) return undefined;
    const { code } = current;
    if (typeof code === 'string' && Object.hasOwn(NETWORK_CODES, code)) return NETWORK_CODES[code];
    if (typeof code === 'string' && /^(CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO_|ERR_TLS|ERR_SSL|EPROTO)/.test(code))
      return 'unreachable';
    if (current.name === 'TimeoutError') return 'timeout';
    current = current.cause as typeof current;
  }
  return undefined;
}

/** What a status says where nothing better is known. */
export function problemOfStatus(status: number | undefined): BucketProblem | undefined {
  if (status === undefined) return undefined;
  if (status === 401) return 'bad_credentials';
  if (status === 403) return 'denied';
  if (status === 404) return 'missing_object';
  if (status === 408) return 'timeout';
  if (status === 412 || status === 304) return 'changed';
  if (status === 507) return 'full';
  if (status === 429 || status >= 500) return 'busy';
  return undefined;
}
