import { errorFromAnswer, OctomilClientError } from './client-error.js';
import { type ClientOptions, type ResolvedOptions, resolveOptions } from './client-options.js';

export interface RequestOptions {
  readonly query?: Readonly<Record<string, string | number | boolean | undefined>>;
  /** Sent as JSON. */
  readonly json?: unknown;
  /** Sent as it is; set its content type in `headers`. */
  readonly body?: Uint8Array<ArrayBuffer> | URLSearchParams | Blob;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
  /** Overrides the client's `timeoutMs`. */
  readonly timeoutMs?: number;
  /** 1 where the caller has its own way of trying again. */
  readonly maxAttempts?: number;
}

const FIRST_DELAY_MS = 250;
const LONGEST_DELAY_MS = 10_000;
/** A coordinator that asks for more patience than this is answered with its error instead of silence. */
const LONGEST_RETRY_AFTER_SECONDS = 60;

/** HTTP as the coordinator speaks it: bearer key, JSON, typed errors, retries that cannot do a thing twice. */
export class HttpClient {
  readonly #options: ResolvedOptions;

  constructor(options: ClientOptions) {
    this.#options = resolveOptions(options);
  }

  get apiBase(): string {
    return this.#options.apiBase;
  }

  get timing(): ResolvedOptions['timing'] {
    return this.#options.timing;
  }

  /**
   * The JSON of the answer.
   *
   * @throws OctomilClientError with the coordinator's code, or `network_unavailable`, `request_timeout`, `cancelled`
   */
  async json<T = unknown>(method: string, path: string, options: RequestOptions = {}): Promise<T> {
    const { response, content } = await this.#whole(method, path, options);
    const text = new TextDecoder().decode(content);
    if (text === '') return undefined as T;
    try {
      return JSON.parse(text) as T;
    } catch (cause) {
      throw new OctomilClientError(
        'network_unavailable',
        `${method} ${path} was answered with HTTP ${response.status} and something other than JSON: ${text.slice(0, 120)}; does ${this.apiBase} point at a coordinator?`,
        { status: response.status, cause },
      );
    }
  }

  /** @throws OctomilClientError as `json` */
  async bytes(
    method: string,
    path: string,
    options: RequestOptions = {},
  ): Promise<{ headers: Headers; bytes: Uint8Array<ArrayBuffer> }> {
    const { response, content } = await this.#whole(method, path, options);
    return { headers: response.headers, bytes: content };
  }

  /**
   * The answer, once its head is there and its status is below 400.
   *
   * A GET, PUT or DELETE is tried again after 429, 502, 503, 504, a lost connection or a timeout. A POST only when it
   * cannot have been carried out: 429, 503, or a connection that was never made. Waits double from 250 ms to 10 s,
   * with full jitter, or last as long as `Retry-After` says.
   *
   * @throws OctomilClientError as `json`
   */
  async send(method: string, path: string, options: RequestOptions = {}): Promise<Response> {
    const maxAttempts = options.maxAttempts ?? this.#options.maxAttempts;
    for (let attempt = 1; ; attempt++) {
      const outcome = await this.#attempt(method, path, options);
      if (outcome instanceof Response) return outcome;
      const delayMs = this.#delayMs(outcome.error, attempt);
      if (attempt >= maxAttempts || delayMs === undefined || !mayRepeat(method, outcome)) throw outcome.error;
      await this.sleep(delayMs, options.signal);
    }
  }

  /** @throws OctomilClientError `cancelled` */
  async sleep(delayMs: number, signal: AbortSignal | undefined): Promise<void> {
    try {
      await this.timing.sleep(delayMs, signal);
    } catch (cause) {
      throw cancelled(cause);
    }
  }

  /** Full jitter (Brooker, "Exponential Backoff and Jitter", 2015), half of it kept so that a wait is never nothing. */
  backoffMs(attempt: number): number {
    const ceilingMs = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** (attempt - 1));
    return ceilingMs / 2 + (this.timing.random() * ceilingMs) / 2;
  }

  #delayMs(error: OctomilClientError, attempt: number): number | undefined {
    if (error.retryAfterSeconds === undefined) return this.backoffMs(attempt);
    return error.retryAfterSeconds > LONGEST_RETRY_AFTER_SECONDS ? undefined : error.retryAfterSeconds * 1000;
  }

  async #attempt(method: string, path: string, options: RequestOptions): Promise<Response | FailedAttempt> {
    const timeoutMs = options.timeoutMs ?? this.#options.timeoutMs;
    const timeout = new AbortController();
    const timer = setTimeout(() => timeout.abort(), timeoutMs);
    const signal = options.signal === undefined ? timeout.signal : AbortSignal.any([timeout.signal, options.signal]);
    let response: Response;
    try {
      options.signal?.throwIfAborted();
      response = await this.#options.fetch(this.#url(path, options.query), {
        ...this.#init(method, path, options),
        signal,
      });
    } catch (cause) {
      if (options.signal?.aborted) throw cancelled(cause);
      const error = timeout.signal.aborted
        ? new OctomilClientError('request_timeout', `${method} ${path} had no answer within ${timeoutMs} ms`, { cause })
        : unreachable(this.apiBase, cause);
      return { error, unsent: systemCode(cause) === 'ECONNREFUSED' || systemCode(cause) === 'ENOTFOUND' };
    } finally {
      // From here on the body may take as long as it takes: an event stream has no end in sight.
      clearTimeout(timer);
    }
    if (response.ok) return response;
    const text = await readWhole(response, timeoutMs).then(
      (bytes) => new TextDecoder().decode(bytes),
      () => '',
    );
    return { error: errorFromAnswer(response, text, `${method} ${path}`), unsent: false };
  }

  #url(path: string, query: RequestOptions['query']): string {
    const url = new URL(isAbsolute(path) ? path : `${this.apiBase}${path}`);
    for (const [name, value] of Object.entries(query ?? {})) {
      if (value !== undefined) url.searchParams.set(name, String(value));
    }
    return url.href;
  }

  #init(method: string, path: string, options: RequestOptions): RequestInit {
    const headers: Record<string, string> = {
      // An absolute URL carries its own permission, and may lead to somebody else's bucket.
      ...(isAbsolute(path) ? {} : { authorization: `Bearer ${this.#options.apiKey}` }),
      accept: 'application/json',
      ...(options.json === undefined ? {} : { 'content-type': 'application/json' }),
      ...options.headers,
    };
    const body = options.json === undefined ? options.body : JSON.stringify(options.json);
    return { method, headers, ...(body === undefined ? {} : { body }) };
  }

  /** Head and body. A body that breaks off, as when the coordinator is killed while it sends, is asked for again too. */
  async #whole(
    method: string,
    path: string,
    options: RequestOptions,
  ): Promise<{ response: Response; content: Uint8Array<ArrayBuffer> }> {
    const maxAttempts = isRepeatable(method) ? (options.maxAttempts ?? this.#options.maxAttempts) : 1;
    for (let attempt = 1; ; attempt++) {
      const response = await this.send(method, path, options);
      try {
        return { response, content: await this.#read(response, options) };
      } catch (error) {
        if (attempt >= maxAttempts || options.signal?.aborted) throw error;
        await this.sleep(this.backoffMs(attempt), options.signal);
      }
    }
  }

  async #read(response: Response, options: RequestOptions): Promise<Uint8Array<ArrayBuffer>> {
    try {
      return await readWhole(response, options.timeoutMs ?? this.#options.timeoutMs);
    } catch (cause) {
      if (options.signal?.aborted) throw cancelled(cause);
      throw new OctomilClientError('network_unavailable', `the connection broke while reading ${response.url}`, {
        status: response.status,
        cause,
      });
    }
  }
}

/** @throws whatever breaks the connection, and after `silenceMs` without a byte: a large body may take long, a dead one not */
async function readWhole(response: Response, silenceMs: number): Promise<Uint8Array<ArrayBuffer>> {
  const reader = response.body?.getReader();
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  for (let silent = false; reader !== undefined; ) {
    const timer = setTimeout(() => {
      silent = true;
      // Ends the read below as well.
      reader.cancel().catch(() => undefined);
    }, silenceMs);
    const { done, value } = await reader.read().finally(() => clearTimeout(timer));
    if (silent) throw new OctomilClientError('request_timeout', `no byte came for ${silenceMs} ms`);
    if (done) break;
    chunks.push(value);
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

function isAbsolute(path: string): boolean {
  return /^https?:/.test(path);
}

interface FailedAttempt {
  readonly error: OctomilClientError;
  /** The request never reached a coordinator. */
  readonly unsent: boolean;
}

/** Whether carrying a request out twice is the same as once. */
function isRepeatable(method: string): boolean {
  return method !== 'POST' && method !== 'PATCH';
}

function mayRepeat(method: string, { error, unsent }: FailedAttempt): boolean {
  if (unsent) return true;
  const notCarriedOut = error.status === 429 || (error.status === 503 && error.retryClass !== 'never');
  if (!isRepeatable(method)) return notCarriedOut;
  return notCarriedOut || error.status === 502 || error.status === 504 || error.status === undefined;
}

function unreachable(apiBase: string, cause: unknown): OctomilClientError {
  const code = systemCode(cause);
  return new OctomilClientError(
    'network_unavailable',
    `no coordinator answers at ${apiBase}${code === undefined ? '' : ` (${code})`}; start one with "octomil up", or set OCTOMIL_API_BASE`,
    { cause },
  );
}

function cancelled(cause: unknown): OctomilClientError {
  return new OctomilClientError('cancelled', 'the request was cancelled', { cause });
}

/** Node's fetch hides `ECONNREFUSED` and its like in the cause of a TypeError. Duck-typed: errors of another realm count. */
function systemCode(thrown: unknown): string | undefined {
  let error = thrown as { code?: unknown; cause?: unknown; errors?: readonly unknown[] } | null | undefined;
  for (let depth = 0; depth < 4 && typeof error === 'object' && error !== null; depth++) {
    if (typeof error.code === 'string') return error.code;
    // An address with several interpretations (IPv4, IPv6) fails once for each.
    error = (error.cause ?? error.errors?.[0]) as typeof error;
  }
  return undefined;
}
