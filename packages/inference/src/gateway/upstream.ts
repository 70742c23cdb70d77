import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import { Agent, type Dispatcher, request } from 'undici';
import { type BackendTimeouts, Deadlines } from './deadlines.js';
import { type LineReader, LineResponse } from './line-response.js';
import { networkFailure, refusal } from './upstream-failure.js';

export interface UpstreamOptions {
  readonly name: string;
  /** Base address; paths are put behind it. */
  readonly baseUrl: string;
  readonly headers: Readonly<Record<string, string>>;
  /** What of the headers nobody may hear, also where the server says it back. */
  readonly secret?: string | undefined;
  readonly timeouts: BackendTimeouts;
  readonly clock: Clock;
}

export interface StreamCall {
  readonly path: string;
  readonly body: unknown;
  readonly signal: AbortSignal;
  readonly streaming: boolean;
  readonly onLines: LineReader;
}

const MAX_JSON_BYTES = 64 * 1024 * 1024;
const MAX_ERROR_BYTES = 64 * 1024;
const CUT_OFF = new Set(['UND_ERR_SOCKET', 'ECONNRESET', 'EPIPE']);
/** A kept connection that the server closed meanwhile shows that at the first write. */
const STALE_MS = 1_000;

type Response = Dispatcher.ResponseData;

/** HTTP to one server: its connections, its time limits, and its failures in our words. */
export class Upstream {
  readonly name: string;
  readonly origin: string;
  readonly #options: UpstreamOptions;
  /** Path of the base address, without a slash at its end. */
  readonly #prefix: string;
  readonly #agent: Agent;

  constructor(options: UpstreamOptions) {
    this.#options = options;
    this.name = options.name;
    const { origin, pathname } = new URL(options.baseUrl);
    this.origin = origin;
    this.#prefix = pathname.replace(/\/+$/, '');
    // The limits of a request are ours: undici's do not tell text from keep-alive comments.
    this.#agent = new Agent({
      connect: { timeout: options.timeouts.connectMs },
      headersTimeout: 0,
      bodyTimeout: 0,
    });
  }

  /**
   * Sends a request and reads its answer line by line, until it is whole.
   *
   * @throws OctomilError as `InferenceBackend.generate`
   */
  async stream(call: StreamCall): Promise<void> {
    await this.#within(call.signal, call.streaming, async (signal, deadlines) => {
      const body = JSON.stringify(call.body);
      await this.#onLiveConnection(signal, () => this.#readLines(call, body, signal, deadlines));
    });
  }

  /** @throws OctomilError as `InferenceBackend.generate` */
  async json(method: 'GET' | 'POST', path: string, body: unknown, signal: AbortSignal): Promise<unknown> {
    return this.#within(signal, false, async (inner) => {
      const response = await this.#send(method, path, body, inner);
      const text = await readText(response, MAX_JSON_BYTES, this.name);
      try {
        return JSON.parse(text) as unknown;
      } catch {
        throw new OctomilError('inference_failed', `${this.name} answered what is not JSON: ${text.slice(0, 100)}`, {
          details: { provider: this.name },
        });
      }
    });
  }

  #readLines({ path, onLines }: StreamCall, body: string, signal: AbortSignal, deadlines: Deadlines): Promise<void> {
    const { headers, clock } = this.#options;
    const { name: backend, origin } = this;
    const response = new LineResponse({ backend, origin, onLines, deadlines, clock, signal });
    this.#agent.dispatch(
      {
        origin,
        path: `${this.#prefix}${path}`,
        method: 'POST',
        headers: { ...headers, 'content-type': 'application/json' },
        body,
      },
      response,
    );
    return response.done;
  }

  stop(): Promise<void> {
    return this.#agent.destroy();
  }

  /** Sends once more where the connection was gone before; not what a server may have begun, or died of. */
  async #onLiveConnection<T>(signal: AbortSignal, send: () => Promise<T>): Promise<T> {
    const { clock } = this.#options;
    const sentAtMs = clock.now();
    try {
      return await send();
    } catch (error) {
      if (signal.aborted || clock.now() - sentAtMs > STALE_MS || !isStale(error)) throw error;
      return send();
    }
  }

  async #within<T>(
    signal: AbortSignal,
    streaming: boolean,
    work: (signal: AbortSignal, deadlines: Deadlines) => Promise<T>,
  ): Promise<T> {
    signal.throwIfAborted();
    const { timeouts, clock } = this.#options;
    const inner = new AbortController();
    const leave = (): void => inner.abort(signal.reason);
    signal.addEventListener('abort', leave, { once: true });
    const deadlines = new Deadlines({
      backend: this.name,
      timeouts,
      streaming,
      clock,
      expired: (error) => inner.abort(error),
    });
    try {
      return await work(inner.signal, deadlines);
    } catch (error) {
      // Whoever aborts says why; what undici throws then says less.
      if (inner.signal.aborted) throw inner.signal.reason;
      inner.abort();
      throw discreet(networkFailure(this.name, this.origin, error, false), this.#options.secret);
    } finally {
      deadlines.close();
      signal.removeEventListener('abort', leave);
    }
  }

  async #send(method: 'GET' | 'POST', path: string, body: unknown, signal: AbortSignal): Promise<Response> {
    const { headers } = this.#options;
    const send = (): Promise<Response> =>
      request(`${this.origin}${this.#prefix}${path}`, {
        method,
        dispatcher: this.#agent,
        signal,
        headers: { ...headers, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
    const response = await this.#onLiveConnection(signal, send);
    if (response.statusCode >= 200 && response.statusCode < 300) return response;
    const retryAfter = response.headers['retry-after'];
    const said = await readText(response, MAX_ERROR_BYTES, this.name).catch(() => '');
    throw refusal(this.name, response.statusCode, said, typeof retryAfter === 'string' ? retryAfter : undefined);
  }
}

/** Some servers repeat a key that they refuse. */
function discreet(error: OctomilError, secret: string | undefined): OctomilError {
  if (secret === undefined || secret === '' || !error.reason.includes(secret)) return error;
  return new OctomilError(error.code, error.reason.replaceAll(secret, '[the key]'), {
    ...(error.details === undefined ? {} : { details: error.details }),
    ...(error.retryAfterSeconds === undefined ? {} : { retryAfterSeconds: error.retryAfterSeconds }),
  });
}

function isStale(error: unknown): boolean {
  const { code, socket } = (error ?? {}) as { code?: unknown; socket?: { bytesRead?: unknown } | null };
  // On one that never gave an answer, nothing was kept.
  return CUT_OFF.has(String(code)) && socket?.bytesRead !== 0;
}

async function readText(response: Response, maxBytes: number, backend: string): Promise<string> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of response.body as AsyncIterable<Buffer>) {
    bytes += part.length;
    if (bytes > maxBytes) {
      throw new OctomilError('inference_failed', `${backend} answered more than ${maxBytes} bytes`, {
        details: { provider: backend },
      });
    }
    parts.push(part);
  }
  return Buffer.concat(parts).toString('utf8');
}
