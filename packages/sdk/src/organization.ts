import type { ClientOptions } from './client-options.js';
import { HttpClient } from './http-client.js';
import { listOf, readRound, readSession, type TrainingRound, type TrainingSession } from './training-session.js';
import { camelNames } from './wire-names.js';

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
  createKey(options: { name: string; scopes?: readonly string[] }): Promise<Listed> {
    return this.#row('POST', '/keys', options);
  }

  /** Without the keys themselves. */
  listKeys(): Promise<Listed[]> {
    return this.#rows('/keys', 'keys');
  }

  /** @throws OctomilClientError `not_found` */
  revokeKey(keyId: string): Promise<Listed> {
    return this.#row('DELETE', `/keys/${encodeURIComponent(keyId)}`);
  }

  /** A second live key in place of this one; the old one works until it is revoked. */
  rotateKey(keyId: string): Promise<Listed> {
    return this.#row('POST', `/keys/${encodeURIComponent(keyId)}/rotate`, {});
  }

  /** A token that enrols one device, once; it is in the answer's `token`. */
  createEnrollmentToken(options: EnrollmentTokenOptions = {}): Promise<Listed> {
    return this.#row('POST', '/enrollment-tokens', {
      ...(options.labels === undefined ? {} : { labels: options.labels }),
      ...(options.deviceIdentifier === undefined ? {} : { device_identifier: options.deviceIdentifier }),
      ...(options.expiresInSeconds === undefined ? {} : { expires_in_seconds: options.expiresInSeconds }),
    });
  }

  /** At most a thousand; `status` is `online`, `offline` or `revoked`. */
  listDevices(): Promise<Listed[]> {
    return this.#rows('/devices', 'devices', { limit: 1000 });
  }

  /** @throws OctomilClientError `device_not_registered`, `not_found` */
  device(deviceId: string): Promise<Listed> {
    return this.#row('GET', `/devices/${encodeURIComponent(deviceId)}`);
  }

  /** Its credential stops working at once. */
  revokeDevice(deviceId: string): Promise<Listed> {
    return this.#row('POST', `/devices/${encodeURIComponent(deviceId)}/revoke`, {});
  }

  /** Newest first. */
  async listSessions(): Promise<TrainingSession[]> {
    return listOf(await this.#http.json('GET', '/training/sessions'), 'sessions').map(readSession);
  }

  /** @throws OctomilClientError `not_found` */
  async round(roundId: string): Promise<TrainingRound> {
    return readRound(await this.#http.json('GET', `/training/rounds/${encodeURIComponent(roundId)}`));
  }

  /** @throws OctomilClientError `not_found`, `wrong_state` */
  async retryRound(roundId: string): Promise<TrainingRound> {
    const path = `/training/rounds/${encodeURIComponent(roundId)}/retry`;
    return readRound(await this.#http.json('POST', path, { json: {} }));
  }

  /** @throws OctomilClientError `not_found`, `wrong_state` */
  async abortRound(roundId: string): Promise<TrainingRound> {
    const path = `/training/rounds/${encodeURIComponent(roundId)}/abort`;
    return readRound(await this.#http.json('POST', path, { json: {} }));
  }

  async #row(method: string, path: string, json?: unknown): Promise<Listed> {
    const answer = await this.#http.json<Record<string, unknown> | undefined>(
      method,
      path,
      json === undefined ? {} : { json },
    );
    return camelNames(answer ?? {});
  }

  async #rows(path: string, name: string, query: Readonly<Record<string, number>> = {}): Promise<Listed[]> {
    const rows = listOf(await this.#http.json('GET', path, { query }), name);
    return rows.map((row) => camelNames(row as Record<string, unknown>));
  }
}
