import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Dispatcher } from 'undici';
import { isLoopback, reachesThisMachine } from '../config/address.js';
import { proxyFor } from '../config/proxy.js';
import { type Bandwidth, unlimited } from './bandwidth.js';
import { type ConnectionSettings, readTlsMaterial } from './coordinator-client.js';
import { fromHttpFailure } from './http-failure.js';

/** Answer to `complete`: the coordinator's verdict on an update. */
export type UploadVerdict = { readonly accepted: true } | { readonly accepted: false; readonly problem: OctomilError };

export interface TicketAccess {
  readonly ticketId: string;
  readonly token: string;
}

const CONNECT_TIMEOUT_MS = 10_000;
/** No byte for this long ends a request. */
const SILENCE_TIMEOUT_MS = 60_000;
/** `complete` answers after the update was checked and stored. */
const VERDICT_TIMEOUT_MS = 300_000;
/** Of an update that is checked by a job: the answer comes within this time, with the verdict or without. */
const VERDICT_WAIT_MS = 5_000;
const VERDICT_PAUSE_MS = 100;
/** For verdicts and errors, which are a few lines: nobody who answers fills this process's memory. */
const MAX_ANSWER_BYTES = 65_536;

/** What signed requests of the three providers name. */
const BUCKET_HEADER = /^(?:content-(?:range|type|md5)|x-(?:amz|goog|ms)-[a-z0-9-]{1,60})$/i;

/** A secret until it expires. */
export interface SignedDownload {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
}

type Pool = Promise<{ readonly dispatcher: Dispatcher; readonly request: typeof import('undici').request }>;

/**
 * Bulk bytes over HTTP, where the coordinator offers it: one pool of kept-open connections, private CA and proxy as for
 * gRPC. Failures that another transport or a later attempt may avoid have the retry class `backoff_safe`.
 */
export class HttpTransfers {
  readonly #settings: ConnectionSettings;
  readonly #credential: () => string;
  readonly #bandwidth: Bandwidth;
  #baseUrl: string | undefined;
  #pool: Pool | undefined;
  /** By origin; there is one in practice. */
  readonly #buckets = new Map<string, Pool>();

  /** @param bandwidth of parts that are sent; what is fetched is counted by whoever reads it */
  constructor(settings: ConnectionSettings, credential: () => string, bandwidth: Bandwidth = unlimited) {
    this.#settings = settings;
    this.#credential = credential;
    this.#bandwidth = bandwidth;
  }

  /** Called with every Welcome. An address that would send secrets in plaintext over a network is not used. */
  offer(transferUrl: string): 'http' | 'none' | 'unsafe' {
    this.#baseUrl = undefined;
    if (transferUrl === '' || !URL.canParse(transferUrl)) return 'none';
    const url = new URL(transferUrl);
    // Parts of requests are appended to it; anything behind the path would let the coordinator choose other requests.
    if (/[?#@]/.test(transferUrl)) return 'unsafe';
    // A coordinator elsewhere has no business with what listens on this machine.
    if (reachesThisMachine(url.hostname) && !isLoopback(this.#settings.coordinator.host)) return 'unsafe';
    if (
      url.protocol !== 'https:' &&
      (url.protocol !== 'http:' || !(isLoopback(url.hostname) || this.#settings.insecure))
    )
      return 'unsafe';
    this.#baseUrl = transferUrl.replace(/\/+$/, '');
    return 'http';
  }

  get available(): boolean {
    return this.#baseUrl !== undefined;
  }

  /**
   * The bytes of a base from `offset` on.
   *
   * @throws OctomilError `network_unavailable`, `request_timeout`, or what the coordinator answered
   */
  async *download(sha256: string, offset: number, signal: AbortSignal): AsyncGenerator<Buffer> {
    const response = await this.#request('GET', `/api/v1/transfers/objects/${sha256}`, {
      signal,
      ...(offset === 0 ? {} : { headers: { range: `bytes=${offset}-` } }),
    });
    if (offset > 0 && response.statusCode !== 206) {
      await response.body.dump();
      throw new OctomilError('download_failed', `the coordinator did not resume at byte ${offset}`);
    }
    try {
      for await (const chunk of response.body) yield chunk as Buffer;
    } catch (error) {
      throw networkFailure(error, signal);
    }
  }

  /**
   * A signed request that fetches a base from the bucket; undefined where the coordinator has none to give, also an older
   * one.
   *
   * @throws OctomilError `network_unavailable`, `request_timeout`, or what the coordinator answered
   */
  async downloadAddress(sha256: string, signal: AbortSignal): Promise<SignedDownload | undefined> {
    try {
      const response = await this.#request('GET', `/api/v1/transfers/objects/${sha256}/address`, { signal });
      return readAddress(await readAnswer(response.body, signal));
    } catch (error) {
      // The coordinator's own bytes are asked for next: it then says what is wrong.
      if (error instanceof OctomilError && error.code === 'not_found') return undefined;
      throw error;
    }
  }

  /**
   * Bytes from `offset` on by a signed request, without our credential.
   *
   * @throws OctomilError `policy_denied` for a request that is not made; `ticket_expired` where the bucket takes it no
   * longer; `network_unavailable`, `request_timeout`, `download_failed`. The URL is a secret and in none of them
   */
  async *downloadDirect(download: SignedDownload, offset: number, signal: AbortSignal): AsyncGenerator<Buffer> {
    const url = URL.canParse(download.url) ? new URL(download.url) : undefined;
    const headers = Object.entries(download.headers);
    if (url === undefined || !this.#maySend(url) || headers.some(([name]) => !BUCKET_HEADER.test(name))) {
      throw new OctomilError(
        'policy_denied',
        `the coordinator names ${url?.host ?? 'no URL'} for a download that this agent does not make; it needs https and a bucket's headers`,
      );
    }
    const { dispatcher, request } = await this.#bucket(url);
    try {
      const response = await request(url, {
        dispatcher,
        method: 'GET',
        headers: { ...Object.fromEntries(headers), ...(offset === 0 ? {} : { range: `bytes=${offset}-` }) },
        signal,
        headersTimeout: SILENCE_TIMEOUT_MS,
        bodyTimeout: SILENCE_TIMEOUT_MS,
      });
      const { statusCode } = response;
      if (statusCode !== (offset === 0 ? 200 : 206)) {
        response.body.on('error', () => undefined).destroy();
        // 400 is Google's word for a signature past its end.
        if (statusCode === 400 || statusCode === 401 || statusCode === 403) {
          throw new OctomilError(
            'ticket_expired',
            `${url.host} answers ${statusCode}: the signed request is over${byClock(response.headers['date'])}`,
          );
        }
        throw new OctomilError(
          'download_failed',
          `${url.host} answers ${statusCode} to a download from byte ${offset}`,
        );
      }
      for await (const chunk of response.body) yield chunk as Buffer;
    } catch (error) {
      throw networkFailure(error, signal);
    }
  }

  /** Sends one part; repeating it is safe. */
  async putPart(ticket: TicketAccess, part: number, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    const response = await this.#request('PUT', `/api/v1/transfers/${ticket.ticketId}/parts/${part}`, {
      signal,
      headers: { 'x-octomil-ticket': ticket.token, 'content-type': 'application/octet-stream' },
      body: bytes,
    });
    await response.body.dump();
  }

  /**
   * Sends one part by a signed request, to the bucket where the coordinator keeps its objects. Our credential stays here.
   * Only where that is as safe as sending to the coordinator, and only headers that buckets ask for.
   *
   * @throws OctomilError `policy_denied` for a request that is not made; `network_unavailable`, `request_timeout`, or by
   * the bucket's status. The URL is a secret and in none of them
   */
  async putDirect(
    part: { readonly method: string; readonly url: string; readonly headers: Readonly<Record<string, string>> },
    bytes: Uint8Array,
    signal: AbortSignal,
  ): Promise<void> {
    const url = URL.canParse(part.url) ? new URL(part.url) : undefined;
    const headers = Object.entries(part.headers);
    if (
      url === undefined ||
      part.method !== 'PUT' ||
      !this.#maySend(url) ||
      headers.some(([name]) => !BUCKET_HEADER.test(name))
    ) {
      throw new OctomilError(
        'policy_denied',
        `the coordinator asks for an upload to ${url?.host ?? 'no URL'} that this agent does not make; it needs PUT, https and a bucket's headers`,
      );
    }
    const { dispatcher, request } = await this.#bucket(url);
    let status: number;
    try {
      const response = await request(url, {
        dispatcher,
        method: 'PUT',
        ...this.#body(bytes, Object.fromEntries(headers), signal),
        signal,
        headersTimeout: SILENCE_TIMEOUT_MS,
        bodyTimeout: SILENCE_TIMEOUT_MS,
      });
      status = response.statusCode;
      await response.body.dump();
    } catch (error) {
      throw networkFailure(error, signal);
    }
    // 308 is what a resumable session answers to all parts but the last.
    if (status >= 300 && status !== 308) throw fromHttpFailure(status, '', `PUT to ${url.host}`);
  }

  /**
   * Asks for the verdict on an update whose parts are sent, until there is one: what went to a bucket is checked by a job.
   *
   * @throws OctomilError `too_large` when the answer is no verdict by its size, `network_unavailable` when it is none by
   * its form, or what the coordinator answered
   */
  async complete(ticket: TicketAccess, signal: AbortSignal): Promise<UploadVerdict> {
    let body: VerdictBody;
    do {
      const response = await this.#request(
        'POST',
        `/api/v1/transfers/${ticket.ticketId}/complete?wait_ms=${VERDICT_WAIT_MS}`,
        { signal, headers: { 'x-octomil-ticket': ticket.token }, timeoutMs: VERDICT_TIMEOUT_MS },
      );
      body = verdictBody(await readAnswer(response.body, signal));
      // The coordinator waited for it; a pause of ours is only for one that does not.
      if (body.state === 'validating') await sleep(VERDICT_PAUSE_MS, undefined, { signal }).catch(() => undefined);
      if (signal.aborted) throw toOctomilError(signal.reason, 'cancelled');
    } while (body.state === 'validating');
    if (body.accepted === true) return { accepted: true };
    const reason = typeof body.reason === 'object' && body.reason !== null ? body.reason : {};
    return { accepted: false, problem: OctomilError.fromBody(reason) };
  }

  async close(): Promise<void> {
    const pools = await Promise.all([this.#pool, ...this.#buckets.values()]);
    this.#pool = undefined;
    this.#buckets.clear();
    for (const pool of pools) await pool?.dispatcher.destroy();
  }

  /** As for the coordinator itself: no plaintext over a network, and nothing that listens on this machine. */
  #maySend(url: URL): boolean {
    const { coordinator, insecure } = this.#settings;
    if (url.username !== '' || url.password !== '') return false;
    if (reachesThisMachine(url.hostname) && !isLoopback(coordinator.host)) return false;
    if (isLoopback(url.hostname)) return true;
    return url.protocol === 'https:' || (url.protocol === 'http:' && insecure);
  }

  #bucket({ origin }: URL): Pool {
    let pool = this.#buckets.get(origin);
    if (pool === undefined) {
      pool = this.#open(new URL(origin), false);
      this.#buckets.set(origin, pool);
    }
    return pool;
  }

  async #request(
    method: 'GET' | 'PUT' | 'POST',
    path: string,
    options: { signal: AbortSignal; headers?: Record<string, string>; body?: Uint8Array; timeoutMs?: number },
  ): Promise<Dispatcher.ResponseData> {
    const baseUrl = this.#baseUrl;
    if (baseUrl === undefined)
      throw new OctomilError('network_unavailable', 'the coordinator offers no HTTP transfers');
    const { dispatcher, request } = await this.#connected(new URL(baseUrl));
    let response: Dispatcher.ResponseData;
    try {
      response = await request(`${baseUrl}${path}`, {
        dispatcher,
        method,
        ...this.#body(
          options.body,
          { authorization: `Bearer ${this.#credential()}`, ...options.headers },
          options.signal,
        ),
        signal: options.signal,
        headersTimeout: options.timeoutMs ?? SILENCE_TIMEOUT_MS,
        bodyTimeout: SILENCE_TIMEOUT_MS,
      });
    } catch (error) {
      throw networkFailure(error, options.signal);
    }
    if (response.statusCode < 300) return response;
    // Without a body that can be read the status says enough.
    const body = await readAnswer(response.body, options.signal).catch(() => '');
    throw fromHttpFailure(response.statusCode, body, `${method} ${path}`);
  }

  /** Piece by piece where a limit holds; the length is said all the same, since buckets want to know it. */
  #body(
    bytes: Uint8Array | undefined,
    headers: Record<string, string>,
    signal: AbortSignal,
  ): { headers: Record<string, string>; body?: Uint8Array | Readable } {
    if (bytes === undefined) return { headers };
    if (!this.#bandwidth.limited) return { headers, body: bytes };
    const length = { 'content-length': String(bytes.length) };
    return { headers: { ...headers, ...length }, body: Readable.from(this.#bandwidth.paced(bytes, signal)) };
  }

  /** The library is loaded with the first transfer: an idle agent does not carry it. */
  #connected(origin: URL): Pool {
    this.#pool ??= this.#open(origin, true);
    return this.#pool;
  }

  /** @param own the coordinator: a bucket has neither its private authority nor its name, and gets no certificate of ours */
  #open(origin: URL, own: boolean): Pool {
    return import('undici').then(({ Agent, ProxyAgent, request }) => {
      const port = Number(origin.port || (origin.protocol === 'https:' ? 443 : 80));
      const proxy = proxyFor(this.#settings.proxy, { host: origin.hostname.replace(/^\[|\]$/g, ''), port });
      const { serverName } = this.#settings.tls;
      const tls = own
        ? { ...readTlsMaterial(this.#settings), ...(serverName === undefined ? {} : { servername: serverName }) }
        : {};
      const pooling = { keepAliveTimeout: 60_000, connections: 8, connectTimeout: CONNECT_TIMEOUT_MS };
      if (proxy === undefined) {
        return {
          request,
          dispatcher: new Agent({ ...pooling, connect: { ...tls, noDelay: true, timeout: CONNECT_TIMEOUT_MS } }),
        };
      }
      const login = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`;
      const dispatcher = new ProxyAgent({
        ...pooling,
        uri: `http://${proxy.host}`,
        proxyTunnel: true,
        requestTls: tls,
        ...(login === ':' ? {} : { token: `Basic ${Buffer.from(login).toString('base64')}` }),
      });
      return { request, dispatcher };
    });
  }
}

/** @throws OctomilError `too_large` beyond {@link MAX_ANSWER_BYTES}; the connection is then closed */
async function readAnswer(body: AsyncIterable<unknown>, signal: AbortSignal): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    // Leaving the loop early destroys the body, so that the rest is not received.
    for await (const chunk of body) {
      const data = chunk as Buffer;
      bytes += data.length;
      if (bytes > MAX_ANSWER_BYTES) {
        throw new OctomilError(
          'too_large',
          `the coordinator's answer is longer than the ${MAX_ANSWER_BYTES} bytes that are read of one; check what answers at its transfer URL`,
          { details: { limitBytes: MAX_ANSWER_BYTES } },
        );
      }
      chunks.push(data);
    }
  } catch (error) {
    throw networkFailure(error, signal);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** Where that is another time than here, the request was over before it was made. */
function byClock(date: unknown): string {
  const atMs = Date.parse(String(date));
  return Number.isNaN(atMs) ? '' : `, by its clock at ${new Date(atMs).toISOString()}`;
}

function readAddress(text: string): SignedDownload | undefined {
  try {
    const { url, headers = {} } = JSON.parse(text) as { url?: unknown; headers?: unknown };
    if (typeof url !== 'string' || typeof headers !== 'object' || headers === null) return undefined;
    return Object.values(headers).every((value) => typeof value === 'string')
      ? { url, headers: headers as Record<string, string> }
      : undefined;
  } catch {
    return undefined;
  }
}

interface VerdictBody {
  readonly accepted?: unknown;
  readonly reason?: unknown;
  readonly state?: unknown;
}

function verdictBody(text: string): VerdictBody {
  try {
    const body: unknown = JSON.parse(text);
    if (typeof body === 'object' && body !== null) return body;
  } catch {}
  throw new OctomilError(
    'network_unavailable',
    'the answer to a completed upload is no verdict; check the transfer URL',
  );
}

function networkFailure(error: unknown, signal: AbortSignal): OctomilError {
  if (signal.aborted) return toOctomilError(signal.reason, 'cancelled');
  if (error instanceof OctomilError) return error;
  const code = (error as { code?: unknown }).code;
  const timeout = code === 'UND_ERR_HEADERS_TIMEOUT' || code === 'UND_ERR_BODY_TIMEOUT';
  return new OctomilError(
    timeout ? 'request_timeout' : 'network_unavailable',
    `the transfer was cut: ${error instanceof Error ? error.message || String(code) : String(error)}`,
    { cause: error },
  );
}
