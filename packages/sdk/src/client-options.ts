import { OctomilClientError } from './client-error.js';

export const DEFAULT_API_BASE = 'http://127.0.0.1:8000/api/v1';

/** How to reach a coordinator. */
export interface ClientOptions {
  /** Organization API key, `edg_…`. Default: `OCTOMIL_API_KEY` where there is an environment. */
  readonly apiKey?: string | undefined;
  /**
   * Base URL ending in `/api/v1`. Default: `OCTOMIL_API_BASE` where there is an environment,
   * else {@link DEFAULT_API_BASE}.
   */
  readonly apiBase?: string | undefined;
  /** Milliseconds that one attempt may wait for its answer's head. Default 60 000; then `request_timeout`. */
  readonly timeoutMs?: number;
  /** Attempts per request, the first included. Default 4; 1 never retries. */
  readonly maxAttempts?: number;
  /** Replaces the global `fetch`. */
  readonly fetch?: typeof fetch;
  /** Replaces waiting and chance, so that a test of retries takes no time. */
  readonly timing?: Timing;
}

export interface Timing {
  /** Rejects with the signal's reason when it aborts first. */
  sleep(delayMs: number, signal?: AbortSignal): Promise<void>;
  /** Uniform in [0, 1). */
  random(): number;
}

export interface ResolvedOptions {
  readonly apiKey: string;
  /** Without a trailing slash. */
  readonly apiBase: string;
  readonly timeoutMs: number;
  readonly maxAttempts: number;
  readonly fetch: typeof fetch;
  readonly timing: Timing;
}

/** @throws OctomilClientError `invalid_api_key` without a key, `invalid_input` for a base that is no http(s) URL */
export function resolveOptions(options: ClientOptions): ResolvedOptions {
  const apiKey = options.apiKey ?? environmentVariable('OCTOMIL_API_KEY');
  if (apiKey === undefined || apiKey === '') {
    throw new OctomilClientError('invalid_api_key', 'no API key was given; pass apiKey or set OCTOMIL_API_KEY');
  }
  // A line break or space around a pasted key would make the header invalid in a way that names no cause.
  if (!/^[\x21-\x7e]+$/.test(apiKey.trim())) {
    throw new OctomilClientError('invalid_api_key', 'the API key holds characters that no key has; copy it again');
  }
  const apiBase = (options.apiBase ?? environmentVariable('OCTOMIL_API_BASE') ?? DEFAULT_API_BASE).replace(/\/+$/, '');
  if (!URL.canParse(apiBase) || !/^https?:$/.test(new URL(apiBase).protocol)) {
    throw new OctomilClientError(
      'invalid_input',
      `apiBase "${apiBase}" is not an http(s) URL; write it like ${DEFAULT_API_BASE}`,
    );
  }
  return {
    apiKey: apiKey.trim(),
    apiBase,
    timeoutMs: options.timeoutMs ?? 60_000,
    maxAttempts: Math.max(1, options.maxAttempts ?? 4),
    fetch: options.fetch ?? ((input, init) => fetch(input, init)),
    timing: options.timing ?? systemTiming,
  };
}

/** Undefined in a browser, where there is no environment. */
function environmentVariable(name: string): string | undefined {
  const value = typeof process === 'undefined' ? undefined : process.env?.[name];
  return value === '' ? undefined : value;
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
