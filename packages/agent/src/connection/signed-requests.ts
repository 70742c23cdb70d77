import { OctomilError } from '@octomil/shared/errors';
import { isLoopback, reachesThisMachine } from '../config/address.js';
import type { Bandwidth } from './bandwidth.js';
import type { ConnectionSettings } from './coordinator-client.js';
import { fromHttpFailure, networkFailure } from './http-failure.js';
import { type HttpPool, openPool, pacedBody, SILENCE_TIMEOUT_MS } from './http-pool.js';

/** What signed requests of the three providers name. */
const BUCKET_HEADER = /^(?:content-(?:range|type|md5)|x-(?:amz|goog|ms)-[a-z0-9-]{1,60})$/i;

/** A secret until it expires. */
export interface SignedDownload {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
}

/** A secret, too. */
export interface SignedPart extends SignedDownload {
  readonly method: string;
}

/**
 * Requests that the coordinator signed, to the bucket where it keeps its objects. Our credential stays here, and what is
 * no bucket's request is not made.
 */
export class SignedRequests {
  readonly #settings: ConnectionSettings;
  readonly #bandwidth: Bandwidth;
  /** By origin; there is one in practice. */
  readonly #pools = new Map<string, HttpPool>();

  /** @param bandwidth of parts that are sent */
  constructor(settings: ConnectionSettings, bandwidth: Bandwidth) {
    this.#settings = settings;
    this.#bandwidth = bandwidth;
  }

  /**
   * Bytes from `offset` on by a signed request, without our credential.
   *
   * @throws OctomilError `policy_denied` for a request that is not made; `ticket_expired` where the bucket takes it no
   * longer; `network_unavailable`, `request_timeout`, `download_failed`. The URL is a secret and in none of them
   */
  async *download(download: SignedDownload, offset: number, signal: AbortSignal): AsyncGenerator<Buffer> {
    const url = URL.canParse(download.url) ? new URL(download.url) : undefined;
    const headers = Object.entries(download.headers);
    if (url === undefined || !this.#maySend(url) || headers.some(([name]) => !BUCKET_HEADER.test(name))) {
      throw new OctomilError(
        'policy_denied',
        `the coordinator names ${url?.host ?? 'no URL'} for a download that this agent does not make; it needs https and a bucket's headers`,
      );
    }
    const { dispatcher, request } = await this.#pool(url);
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

  /**
   * Sends one part by a signed request, to the bucket where the coordinator keeps its objects. Our credential stays here.
   * Only where that is as safe as sending to the coordinator, and only headers that buckets ask for.
   *
   * @throws OctomilError `policy_denied` for a request that is not made; `network_unavailable`, `request_timeout`, or by
   * the bucket's status. The URL is a secret and in none of them
   */
  async put(part: SignedPart, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
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
    const { dispatcher, request } = await this.#pool(url);
    let status: number;
    try {
      const response = await request(url, {
        dispatcher,
        method: 'PUT',
        ...pacedBody(this.#bandwidth, bytes, Object.fromEntries(headers), signal),
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

  async close(): Promise<void> {
    const pools = await Promise.all(this.#pools.values());
    this.#pools.clear();
    for (const { dispatcher } of pools) await dispatcher.destroy();
  }

  /** As for the coordinator itself: no plaintext over a network, and nothing that listens on this machine. */
  #maySend(url: URL): boolean {
    const { coordinator, insecure } = this.#settings;
    if (url.username !== '' || url.password !== '') return false;
    if (reachesThisMachine(url.hostname) && !isLoopback(coordinator.host)) return false;
    if (isLoopback(url.hostname)) return true;
    return url.protocol === 'https:' || (url.protocol === 'http:' && insecure);
  }

  #pool({ origin }: URL): HttpPool {
    let pool = this.#pools.get(origin);
    if (pool === undefined) {
      pool = openPool(this.#settings, new URL(origin), false);
      this.#pools.set(origin, pool);
    }
    return pool;
  }
}

/** Where that is another time than here, the request was over before it was made. */
function byClock(date: unknown): string {
  const atMs = Date.parse(String(date));
  return Number.isNaN(atMs) ? '' : `, by its clock at ${new Date(atMs).toISOString()}`;
}
