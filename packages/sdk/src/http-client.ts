import { errorFromAnswer, OctomilClientError } from './client-error.js';
import {
  type AuthTokenProvider,
  type ClientOptions,
  checkedToken,
  plainTextWarning,
  type ResolvedOptions,
  resolveOptions,
} from './client-options.js';
import { readWhole } from './read-whole.js';
import { timerAfter } from './timer.js';

export interface RequestOptions {
  /** A list is sent as the same name several times. */
  readonly query?: Query;
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
  /** Of a POST. Default: a random one per call, the same over its retries. False: none. */
  readonly idempotencyKey?: string | false;
}

export type Query = Readonly<Record<string, string | number | boolean | readonly string[] | undefined>>;

const FIRST_DELAY_MS = 250;
const LONGEST_DELAY_MS = 10_000;
/** A coordinator that asks for more patience than this is answered with its error instead of silence. */
const LONGEST_RETRY_AFTER_SECONDS = 60;

/** HTTP as the coordinator speaks it: bearer key, JSON, typed errors, retries that cannot do a thing twice. */
export class HttpClient {
  readonly #options: ResolvedOptions;
  #token: Promise<string> | undefined;
  #warned = false;

  constructor(options: ClientOptions) {
    this.#options = resolveOptions(options);
  }

  /** One connection for several classes, or a new one. */
  static of(options: ClientOptions | HttpClient): HttpClient {
    return options instanceof HttpClient ? options : new HttpClient(options);
  }

  get apiBase(): string {
    return this.#options.apiBase;
  }

  get orgId(): string | undefined {
    return this.#options.orgId;
  }

  /** For requests that are made elsewhere. @throws OctomilClientError `authentication_failed`, `invalid_api_key` */
  async authorization(): Promise<Record<string, string>> {
    return { authorization: `Bearer ${await this.#currentToken()}` };
  }

  /** Says something to whoever listens for warnings. */
  warn(message: string): void {
    this.#options.onWarning(message);
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
        `${method} ${shown(path)} was answered with HTTP ${response.status} and something other than JSON: ${text.slice(0, 120)}; does ${this.apiBase} point at a coordinator?${this.#baseHint()}`,
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
   * Tried again after 429, 502, 503, 504, a lost connection or a timeout. A POST carries an `Idempotency-Key`, under which
   * the coordinator does it once; without one (an absolute URL, `idempotencyKeys: false`) it is repeated only when it cannot
   * have been carried out: 429, 503, or a connection that was never made. Waits double from 250 ms to 10 s, with jitter,
   * or last as long as `Retry-After` says.
   *
   * @throws OctomilClientError as `json`
   */
  async send(method: string, path: string, options: RequestOptions = {}): Promise<Response> {
    return this.#send(method, path, this.#withKey(method, path, options));
  }

  async #send(method: string, path: string, options: RequestOptions): Promise<Response> {
    const maxAttempts = options.maxAttempts ?? this.#options.maxAttempts;
    let refreshed = false;
    for (let attempt = 1; ; attempt++) {
      const outcome = await this.#attempt(method, path, options);
      if (outcome.ok) return outcome.response;
      const { error } = outcome;
      if (error.status === 401 && outcome.token !== undefined && this.#options.tokensChange && !refreshed) {
        refreshed = true;
        if (await this.#otherToken(outcome.token)) {
          attempt--;
          continue;
        }
      }
      const delayMs = this.#delayMs(error, attempt);
      const repeatable = isRepeatable(method, options);
      if (attempt >= maxAttempts || delayMs === undefined || !mayRepeat(outcome, repeatable)) throw error;
      await this.sleep(delayMs, options.signal);
    }
  }

  /** One logical call has one key, however often it is sent. */
  #withKey(method: string, path: string, options: RequestOptions): RequestOptions {
    if (method !== 'POST' || isAbsolute(path) || !this.#options.idempotencyKeys) return options;
    return { ...options, idempotencyKey: options.idempotencyKey ?? randomUuid() };
  }

  #currentToken(): Promise<string> {
    return this.#token ?? this.#askToken(undefined);
  }

  /** @returns whether there is another token than the one refused, from here or from a request beside this one */
  async #otherToken(refused: string): Promise<boolean> {
    const held = this.#token;
    if ((await this.#currentToken()) === refused && this.#token === held) await this.#askToken(refused);
    return (await this.#currentToken()) !== refused;
  }

  /** A failure is not remembered: the next request asks again. */
  #askToken(refused: string | undefined): Promise<string> {
    const asked = askedToken(this.#options.tokens, refused);
    this.#token = asked;
    asked.catch(() => {
      if (this.#token === asked) this.#token = undefined;
    });
    return asked;
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

  async #attempt(method: string, path: string, options: RequestOptions): Promise<Outcome> {
    const timeoutMs = options.timeoutMs ?? this.#options.timeoutMs;
    // An absolute URL carries its own permission, and may lead to somebody else's bucket.
    const token = isAbsolute(path) ? undefined : await this.#currentToken();
    if (token !== undefined) this.#warnOnce();
    const timeout = new AbortController();
    const timer = timerAfter(timeoutMs, () => timeout.abort());
    const signal = options.signal === undefined ? timeout.signal : AbortSignal.any([timeout.signal, options.signal]);
    let response: Response;
    try {
      options.signal?.throwIfAborted();
      response = await this.#options.fetch(this.#url(path, options.query), { ...init(method, token, options), signal });
    } catch (cause) {
      if (options.signal?.aborted) throw cancelled(cause);
      const error = timeout.signal.aborted
        ? new OctomilClientError('request_timeout', `${method} ${shown(path)} had no answer within ${timeoutMs} ms`, {
            cause,
          })
        : unreachable(this.apiBase, path, cause);
      const unsent = systemCode(cause) === 'ECONNREFUSED' || systemCode(cause) === 'ENOTFOUND';
      return { ok: false, error, unsent, token };
    } finally {
      // From here on the body may take as long as it takes: an event stream has no end in sight.
      clearTimeout(timer);
    }
    if (response.ok) return { ok: true, response };
    const text = await readWhole(response, timeoutMs).then(
      (bytes) => new TextDecoder().decode(bytes),
      () => '',
    );
    const error = errorFromAnswer(response, text, `${method} ${shown(path)}`, isAbsolute(path) ? '' : this.#baseHint());
    return { ok: false, error, unsent: false, token };
  }

  /** What to say beside a 404: a path may have been left out of the base. */
  #baseHint(): string {
    const { apiBase } = this;
    if (/\/api\/v\d+$/.test(apiBase)) return '';
    return `; apiBase "${apiBase}" does not end in /api/v1, as a coordinator's does: try ${new URL('/api/v1', apiBase).href}`;
  }

  #warnOnce(): void {
    if (this.#warned) return;
    this.#warned = true;
    const warning = plainTextWarning(this.apiBase);
    if (warning !== undefined) this.warn(warning);
  }

  #url(path: string, query: RequestOptions['query']): string {
    const url = new URL(isAbsolute(path) ? path : `${this.apiBase}${path}`);
    for (const [name, value] of Object.entries(query ?? {})) {
      if (value === undefined) continue;
      for (const one of Array.isArray(value) ? value : [value]) url.searchParams.append(name, String(one));
    }
    return url.href;
  }

  /** Head and body. A body that breaks off, as when the coordinator is killed while it sends, is asked for again too. */
  async #whole(
    method: string,
    path: string,
    options: RequestOptions,
  ): Promise<{ response: Response; content: Uint8Array<ArrayBuffer> }> {
    const keyed = this.#withKey(method, path, options);
    const maxAttempts = isRepeatable(method, keyed) ? (options.maxAttempts ?? this.#options.maxAttempts) : 1;
    for (let attempt = 1; ; attempt++) {
      const response = await this.#send(method, path, keyed);
      try {
        return { response, content: await this.#read(response, path, options) };
      } catch (error) {
        if (attempt >= maxAttempts || options.signal?.aborted) throw error;
        await this.sleep(this.backoffMs(attempt), options.signal);
      }
    }
  }

  async #read(response: Response, path: string, options: RequestOptions): Promise<Uint8Array<ArrayBuffer>> {
    try {
      return await readWhole(response, options.timeoutMs ?? this.#options.timeoutMs);
    } catch (cause) {
      if (options.signal?.aborted) throw cancelled(cause);
      throw new OctomilClientError('network_unavailable', `the connection broke while ${shown(path)} was read`, {
        status: response.status,
        cause,
      });
    }
  }
}

function isAbsolute(path: string): boolean {
  return /^https?:/.test(path);
}

/** For messages. Of an absolute URL the origin alone: what follows it may be a permission. */
function shown(path: string): string {
  return isAbsolute(path) ? new URL(path).origin : path;
}

type Outcome = { readonly ok: true; readonly response: Response } | FailedAttempt;

interface FailedAttempt {
  readonly ok: false;
  readonly error: OctomilClientError;
  /** The request never reached a coordinator. */
  readonly unsent: boolean;
  /** What it was sent with. */
  readonly token: string | undefined;
}

function init(method: string, token: string | undefined, options: RequestOptions): RequestInit {
  const headers: Record<string, string> = {
    ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    accept: 'application/json',
    ...(options.json === undefined ? {} : { 'content-type': 'application/json' }),
    ...(typeof options.idempotencyKey === 'string' ? { 'idempotency-key': options.idempotencyKey } : {}),
    ...options.headers,
  };
  const body = options.json === undefined ? options.body : JSON.stringify(options.json);
  return { method, headers, ...(body === undefined ? {} : { body }) };
}

/** @throws OctomilClientError `authentication_failed` when the provider fails, `invalid_api_key` for what is no token */
async function askedToken(provider: AuthTokenProvider, refused: string | undefined): Promise<string> {
  try {
    return checkedToken(await provider(refused), 'the token');
  } catch (cause) {
    if (cause instanceof OctomilClientError) throw cause;
    throw new OctomilClientError('authentication_failed', 'the token provider failed', { cause });
  }
}

/** Whether sending it twice is the same as once: by the method (a PATCH here sets values), or by its key. */
function isRepeatable(method: string, options: RequestOptions): boolean {
  return method !== 'POST' || typeof options.idempotencyKey === 'string';
}

function mayRepeat({ error, unsent }: FailedAttempt, repeatable: boolean): boolean {
  if (unsent) return true;
  const { status } = error;
  if (status === 429 || (status === 503 && error.retryClass !== 'never')) return true;
  if (!repeatable) return false;
  // 409 with Retry-After: the first sending of this key is still being carried out.
  return (
    status === 502 ||
    status === 504 ||
    status === undefined ||
    (status === 409 && error.retryAfterSeconds !== undefined)
  );
}

/** Version 4 of RFC 9562. `crypto.randomUUID` is missing from pages that came over plain http. */
export function randomUuid(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

function unreachable(apiBase: string, path: string, cause: unknown): OctomilClientError {
  const code = systemCode(cause);
  const detail = code === undefined ? '' : ` (${code})`;
  const reason = isAbsolute(path)
    ? `nobody answers at ${shown(path)}${detail}`
    : `no coordinator answers at ${apiBase}${detail}; start one with "octomil up", or set OCTOMIL_API_BASE`;
  return new OctomilClientError('network_unavailable', reason, { cause });
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
