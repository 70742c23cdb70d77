import { setTimeout as sleep } from 'node:timers/promises';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Dispatcher } from 'undici';
import { isLoopback, reachesThisMachine } from '../config/address.js';
import { type Bandwidth, unlimited } from './bandwidth.js';
import type { ConnectionSettings } from './coordinator-client.js';
import { fromHttpFailure, networkFailure } from './http-failure.js';
import { type HttpPool, openPool, pacedBody, SILENCE_TIMEOUT_MS } from './http-pool.js';
import { type SignedDownload, type SignedPart, SignedRequests } from './signed-requests.js';
import { readAddress, readAnswer, type VerdictBody, verdictBody } from './transfer-answers.js';

/** Answer to `complete`: the coordinator's verdict on an update. */
export type UploadVerdict = { readonly accepted: true } | { readonly accepted: false; readonly problem: OctomilError };

export interface TicketAccess {
  readonly ticketId: string;
  readonly token: string;
}

/** `complete` answers after the update was checked and stored. */
const VERDICT_TIMEOUT_MS = 300_000;
/** Of an update that is checked by a job: the answer comes within this time, with the verdict or without. */
const VERDICT_WAIT_MS = 5_000;
const VERDICT_PAUSE_MS = 100;

/**
 * Bulk bytes over HTTP, where the coordinator offers it: one pool of kept-open connections, private CA and proxy as for
 * gRPC. Failures that another transport or a later attempt may avoid have the retry class `backoff_safe`.
 */
export class HttpTransfers {
  readonly #settings: ConnectionSettings;
  readonly #credential: () => string;
  readonly #bandwidth: Bandwidth;
  #baseUrl: string | undefined;
  readonly #signed: SignedRequests;
  #pool: HttpPool | undefined;

  /** @param bandwidth of parts that are sent; what is fetched is counted by whoever reads it */
  constructor(settings: ConnectionSettings, credential: () => string, bandwidth: Bandwidth = unlimited) {
    this.#settings = settings;
    this.#credential = credential;
    this.#bandwidth = bandwidth;
    this.#signed = new SignedRequests(settings, bandwidth);
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

  /** @throws as `SignedRequests.download` */
  downloadDirect(download: SignedDownload, offset: number, signal: AbortSignal): AsyncGenerator<Buffer> {
    return this.#signed.download(download, offset, signal);
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

  /** Sends one part to the bucket. @throws as `SignedRequests.put` */
  putDirect(part: SignedPart, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    return this.#signed.put(part, bytes, signal);
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
    const pool = await this.#pool;
    this.#pool = undefined;
    await pool?.dispatcher.destroy();
    await this.#signed.close();
  }

  async #request(
    method: 'GET' | 'PUT' | 'POST',
    path: string,
    options: { signal: AbortSignal; headers?: Record<string, string>; body?: Uint8Array; timeoutMs?: number },
  ): Promise<Dispatcher.ResponseData> {
    const baseUrl = this.#baseUrl;
    if (baseUrl === undefined)
      throw new OctomilError('network_unavailable', 'the coordinator offers no HTTP transfers');
    this.#pool ??= openPool(this.#settings, new URL(baseUrl), true);
    const { dispatcher, request } = await this.#pool;
    let response: Dispatcher.ResponseData;
    try {
      response = await request(`${baseUrl}${path}`, {
        dispatcher,
        method,
        ...pacedBody(
          this.#bandwidth,
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
}
