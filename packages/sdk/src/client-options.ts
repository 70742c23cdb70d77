import { OctomilClientError } from './client-error.js';

export const DEFAULT_API_BASE = 'http://127.0.0.1:8000/api/v1';

/** How to reach a coordinator. */
export interface ClientOptions {
  /**
   * Organization API key, `edg_…`. Default: `OCTOMIL_API_KEY`, else `OCTOMIL_SERVER_KEY`, where there is an environment.
   */
  readonly apiKey?: string | undefined;
  /** In place of a key: short-lived tokens, such as those of a device. Wins over `apiKey`. */
  readonly authTokenProvider?: AuthTokenProvider | undefined;
  /** Sent as `org_id`, to be checked against the key's. Default: `OCTOMIL_ORG_ID`, else the key's organization. */
  readonly orgId?: string | undefined;
  /**
   * Base URL ending in `/api/v1`. Default: `OCTOMIL_API_BASE` where there is an environment,
   * else {@link DEFAULT_API_BASE}.
   */
  readonly apiBase?: string | undefined;
  /** Milliseconds that one attempt may wait for its answer's head. Default 60 000, at most 24.8 days; then `request_timeout`. */
  readonly timeoutMs?: number;
  /** Attempts per request, the first included. Default 4; 1 never retries. */
  readonly maxAttempts?: number;
  /**
   * Whether a POST that may have been carried out is sent again under its `Idempotency-Key`. Default true; false for a
   * server that does not honour such keys, where it would be done twice.
   */
  readonly idempotencyKeys?: boolean;
  /** Hears, once per client, of a key that travels unencrypted. Default: a warning of the process, where there is one. */
  readonly onWarning?: ((message: string) => void) | undefined;
  /** Replaces the global `fetch`. */
  readonly fetch?: typeof fetch;
  /** Replaces waiting and chance, so that a test of retries takes no time. */
  readonly timing?: Timing;
}

/**
 * Gives the token to send as `Authorization: Bearer`. Asked before the first request and, once per request, after an
 * answer of 401: then with the token that was refused. In between the token is kept.
 */
export type AuthTokenProvider = (refusedToken?: string) => string | Promise<string>;

export interface Timing {
  /** Rejects with the signal's reason when it aborts first. */
  sleep(delayMs: number, signal?: AbortSignal): Promise<void>;
  /** Uniform in [0, 1). */
  random(): number;
}

export interface ResolvedOptions {
  readonly tokens: AuthTokenProvider;
  /** Asking again after a 401 may help. */
  readonly tokensChange: boolean;
  readonly orgId: string | undefined;
  /** Without a trailing slash. */
  readonly apiBase: string;
  readonly timeoutMs: number;
  readonly maxAttempts: number;
  readonly idempotencyKeys: boolean;
  readonly onWarning: (message: string) => void;
  readonly fetch: typeof fetch;
  readonly timing: Timing;
}

/** @throws OctomilClientError `invalid_api_key` without a key, `invalid_input` for a base that is no http(s) URL */
export function resolveOptions(options: ClientOptions): ResolvedOptions {
  const apiBase = (options.apiBase ?? environmentVariable('OCTOMIL_API_BASE') ?? DEFAULT_API_BASE).replace(/\/+$/, '');
  if (!URL.canParse(apiBase) || !/^https?:$/.test(new URL(apiBase).protocol)) {
    throw new OctomilClientError(
      'invalid_input',
      `apiBase "${apiBase}" is not an http(s) URL; write it like ${DEFAULT_API_BASE}`,
    );
  }
  return {
    tokens: options.authTokenProvider ?? fixedKey(options.apiKey),
    tokensChange: options.authTokenProvider !== undefined,
    orgId: options.orgId ?? environmentVariable('OCTOMIL_ORG_ID'),
    apiBase,
    timeoutMs: options.timeoutMs ?? 60_000,
    maxAttempts: Math.max(1, options.maxAttempts ?? 4),
    idempotencyKeys: options.idempotencyKeys ?? true,
    onWarning: options.onWarning ?? warnOfProcess,
    fetch: options.fetch ?? ((input, init) => fetch(input, init)),
    timing: options.timing ?? systemTiming,
  };
}

function fixedKey(given: string | undefined): AuthTokenProvider {
  const apiKey = given ?? environmentVariable('OCTOMIL_API_KEY') ?? environmentVariable('OCTOMIL_SERVER_KEY');
  if (apiKey === undefined || apiKey === '') {
    throw new OctomilClientError('invalid_api_key', 'no API key was given; pass apiKey or set OCTOMIL_API_KEY');
  }
  const key = checkedToken(apiKey, 'the API key');
  return () => key;
}

/** A line break or space around a pasted key would make the header invalid in a way that names no cause. */
export function checkedToken(token: string, what: string): string {
  const trimmed = token.trim();
  if (!/^[\x21-\x7e]+$/.test(trimmed)) {
    throw new OctomilClientError('invalid_api_key', `${what} holds characters that no key has; copy it again`);
  }
  return trimmed;
}

/** @returns what to tell whoever sends a key to this address, or undefined where nobody listens in between */
export function plainTextWarning(apiBase: string): string | undefined {
  const { protocol, hostname } = new URL(apiBase);
  if (protocol === 'https:' || hostname === 'localhost' || hostname.endsWith('.localhost')) return undefined;
  if (hostname === '[::1]' || /^127(\.\d+){3}$/.test(hostname)) return undefined;
  return `the Octomil API key goes to ${hostname} unencrypted: whoever is on the way can read it; use https`;
}

/** Undefined in a browser, where there is no environment. */
export function environmentVariable(name: string): string | undefined {
  const value = typeof process === 'undefined' ? undefined : process.env?.[name];
  return value === '' ? undefined : value;
}

function warnOfProcess(message: string): void {
  if (typeof process !== 'undefined') process.emitWarning?.(message, { code: 'OCTOMIL_PLAIN_HTTP' });
}

const systemTiming: Timing = {
  random: () => Math.random(),
  sleep: (delayMs, signal) =>
    new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(signal.reason);
        return;
      }
      const onAbort = (): void => {
        clearTimeout(timer);
        reject(signal?.reason);
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', onAbort);
        resolve();
      }, delayMs);
      signal?.addEventListener('abort', onAbort, { once: true });
    }),
};
