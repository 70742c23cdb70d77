import type { ClientOptions } from './client-options.js';
import { HttpClient, type Query } from './http-client.js';
import { listOf, readRound, readSession, type TrainingRound, type TrainingSession } from './training-session.js';
import { camelNames } from './wire-names.js';
import { wirePath } from './wire-path.js';

/** A row as the coordinator describes it, with names in camelCase. */
export type Listed = Readonly<Record<string, unknown>>;

export interface EnrollmentTokenOptions {
  readonly labels?: Readonly<Record<string, string>>;
  /** The only device it enrols; needed to enrol a device that exists already. Default: any device that is new. */
  readonly deviceIdentifier?: string;
  /** Default: the coordinator's. */
  readonly expiresInSeconds?: number;
}

/** What an organization's administrators do: keys, enrolment, devices, and a look at every session and round. */
export class Organization {
  readonly #http: HttpClient;

  /** @throws OctomilClientError `invalid_api_key` without a key, `invalid_input` for an unusable `apiBase` */
  constructor(options: ClientOptions | HttpClient = {}) {
    this.#http = HttpClient.of(options);
  }

  /** The new key is in the answer's `key`, once. */
  createKey(options: { name: string; scopes?: readonly string[] }, signal?: AbortSignal): Promise<Listed> {
    return this.#row('POST', '/keys', options, signal);
  }

  /** Without the keys themselves. */
  listKeys(signal?: AbortSignal): Promise<Listed[]> {
    return this.#rows('/keys', 'keys', {}, signal);
  }

  /** @throws OctomilClientError `not_found` */
  revokeKey(keyId: string, signal?: AbortSignal): Promise<Listed> {
    return this.#row('DELETE', wirePath('keys', keyId), undefined, signal);
  }

  /** A second live key in place of this one; the old one works until it is revoked. */
  rotateKey(keyId: string, signal?: AbortSignal): Promise<Listed> {
    return this.#row('POST', wirePath('keys', keyId, 'rotate'), {}, signal);
  }

  /** A token that enrols one device, once; it is in the answer's `token`. */
  createEnrollmentToken(options: EnrollmentTokenOptions = {}, signal?: AbortSignal): Promise<Listed> {
    const json = {
      ...(options.labels === undefined ? {} : { labels: options.labels }),
      ...(options.deviceIdentifier === undefined ? {} : { device_identifier: options.deviceIdentifier }),
      ...(options.expiresInSeconds === undefined ? {} : { expires_in_seconds: options.expiresInSeconds }),
    };
    return this.#row('POST', '/enrollment-tokens', json, signal);
  }

  /** At most a thousand; `status` is `online`, `offline` or `revoked`. */
  listDevices(signal?: AbortSignal): Promise<Listed[]> {
    return this.#rows('/devices', 'devices', { limit: 1000 }, signal);
  }

  /** @throws OctomilClientError `device_not_registered`, `not_found` */
  device(deviceId: string, signal?: AbortSignal): Promise<Listed> {
    return this.#row('GET', wirePath('devices', deviceId), undefined, signal);
  }

  /** Its credential stops working at once. */
  revokeDevice(deviceId: string, signal?: AbortSignal): Promise<Listed> {
    return this.#row('POST', wirePath('devices', deviceId, 'revoke'), {}, signal);
  }

  /** Newest first. */
  async listSessions(signal?: AbortSignal): Promise<TrainingSession[]> {
    return listOf(await this.#http.json('GET', '/training/sessions', { signal }), 'sessions').map(readSession);
  }

  /** @throws OctomilClientError `not_found` */
  async round(roundId: string, signal?: AbortSignal): Promise<TrainingRound> {
    return readRound(await this.#http.json('GET', wirePath('training', 'rounds', roundId), { signal }));
  }

  /** @throws OctomilClientError `not_found`, `wrong_state` */
  async retryRound(roundId: string, signal?: AbortSignal): Promise<TrainingRound> {
    const path = wirePath('training', 'rounds', roundId, 'retry');
    return readRound(await this.#http.json('POST', path, { json: {}, signal }));
  }

  /** @throws OctomilClientError `not_found`, `wrong_state` */
  async abortRound(roundId: string, signal?: AbortSignal): Promise<TrainingRound> {
    const path = wirePath('training', 'rounds', roundId, 'abort');
    return readRound(await this.#http.json('POST', path, { json: {}, signal }));
  }

  async #row(method: string, path: string, json: unknown, signal: AbortSignal | undefined): Promise<Listed> {
    const body = json === undefined ? {} : { json };
    const answer = await this.#http.json<Record<string, unknown> | undefined>(method, path, { ...body, signal });
    return camelNames(answer ?? {});
  }

  async #rows(path: string, name: string, query: Query, signal: AbortSignal | undefined): Promise<Listed[]> {
    const rows = listOf(await this.#http.json('GET', path, { query, signal }), name);
    return rows.map((row) => camelNames(row as Record<string, unknown>));
  }
}
