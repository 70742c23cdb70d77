import { OctomilError } from '@octomil/shared/errors';

const MAX_SHOWN = 500;
/** What asks for more patience is not believed. */
const MAX_RETRY_AFTER_SECONDS = 86_400;

/** What a server that refused a request with `status` meant, in our codes. */
export function refusal(backend: string, status: number, body: string, retryAfter: string | undefined): OctomilError {
  const said = saidIn(body);
  const details = { provider: backend, status };
  const message = `${backend} answered ${status}${said.message === '' ? '' : `: ${said.message}`}`;
  const retryAfterSeconds = Number(retryAfter);
  const retry = retryAfterSeconds > 0 && retryAfterSeconds <= MAX_RETRY_AFTER_SECONDS ? { retryAfterSeconds } : {};
  if (said.code === 'context_length_exceeded' || /context (length|window|size)|too many tokens/i.test(said.message)) {
    if (status >= 400 && status < 500) return new OctomilError('context_too_large', message, { details });
  }
  if (status === 404 && said.isError) return new OctomilError('model_not_found', message, { details });
  if (status === 413) return new OctomilError('context_too_large', message, { details });
  if (status === 429) return new OctomilError('rate_limited', message, { details, ...retry });
  if (status === 400 || status === 422) return new OctomilError('invalid_input', message, { details });
  if (status < 500) {
    const hint = status === 401 || status === 403 ? 'is its key right?' : 'is its address right?';
    return new OctomilError('runtime_unavailable', `${message}; ${hint}`, { details });
  }
  return new OctomilError('inference_failed', message, { details, ...retry });
}

/** What a server says of a failure inside an answer that began with 200. */
export function errorInStream(backend: string, error: unknown): OctomilError {
  const said = saidIn(JSON.stringify({ error }));
  return new OctomilError(
    'inference_failed',
    `${backend} failed: ${said.message === '' ? 'no reason' : said.message}`,
    {
      details: { provider: backend },
    },
  );
}

export function endedEarly(backend: string): OctomilError {
  return new OctomilError('stream_interrupted', `${backend} ended the answer before it was whole`, {
    details: { provider: backend },
  });
}

export function unreadable(backend: string, line: string): OctomilError {
  return new OctomilError('inference_failed', `${backend} sent what cannot be read: ${line.slice(0, 100)}`, {
    details: { provider: backend },
  });
}

/** Failures of the network, by the codes of Node and undici. */
export function networkFailure(backend: string, origin: string, thrown: unknown, started: boolean): OctomilError {
  if (thrown instanceof OctomilError) return thrown;
  const code = String((thrown as { code?: unknown } | null)?.code ?? '');
  const details = { provider: backend };
  if (code === 'UND_ERR_CONNECT_TIMEOUT' || code === 'ETIMEDOUT') {
    return new OctomilError('request_timeout', `no connection to ${backend} at ${origin} in time`, {
      cause: thrown,
      details,
    });
  }
  const reason = code === '' ? (thrown instanceof Error ? thrown.message : String(thrown)) : code;
  return new OctomilError(
    started ? 'stream_interrupted' : 'network_unavailable',
    started ? `${backend} broke the answer off (${reason})` : `${backend} at ${origin} cannot be reached (${reason})`,
    { cause: thrown, details },
  );
}

/** Whether the server itself failed, rather than refused this one request: what opens its circuit. */
export function isBackendFault({ code }: OctomilError): boolean {
  return FAULTS.has(code);
}

/**
 * Whether a fault may come of what one caller asked: a prompt that crashes a model fails for whoever sends it, and says
 * nothing of the server's other models and callers. Not so where the server was not reached at all.
 */
export function mayBeOfOneCaller({ code, details }: OctomilError): boolean {
  return code !== 'network_unavailable' && (code !== 'request_timeout' || details?.['limit'] !== undefined);
}

/** Whether the time for the whole answer was over, whatever was written until then. */
export function isCutAtLimit({ code, details }: OctomilError): boolean {
  return code === 'request_timeout' && details?.['limit'] === 'total';
}

/** Whether another server may do better: not where the request itself is wrong. */
export function mayFallBack(error: OctomilError): boolean {
  return FAULTS.has(error.code) || ELSEWHERE.has(error.code);
}

const FAULTS: ReadonlySet<string> = new Set([
  'network_unavailable',
  'request_timeout',
  'inference_failed',
  'stream_interrupted',
]);
const ELSEWHERE: ReadonlySet<string> = new Set(['model_not_found', 'rate_limited', 'runtime_unavailable']);

interface Said {
  readonly message: string;
  readonly code: string;
  readonly isError: boolean;
}

/** `{"error":"text"}` of Ollama, `{"error":{"message","code"}}` of OpenAI, else the text itself. */
function saidIn(body: string): Said {
  try {
    const { error, message } = JSON.parse(body) as { error?: unknown; message?: unknown };
    if (typeof error === 'string') return { message: error.slice(0, MAX_SHOWN), code: '', isError: true };
    if (typeof error === 'object' && error !== null) {
      const inner = error as { message?: unknown; code?: unknown };
      return {
        message: String(inner.message ?? '').slice(0, MAX_SHOWN),
        code: String(inner.code ?? ''),
        isError: true,
      };
    }
    return { message: typeof message === 'string' ? message.slice(0, MAX_SHOWN) : '', code: '', isError: false };
  } catch {
    return { message: body.trim().startsWith('<') ? '' : body.trim().slice(0, MAX_SHOWN), code: '', isError: false };
  }
}
