import type { ClientOptions } from '../client-options.js';
import { HttpClient } from '../http-client.js';
import type { Paging } from '../models/model.js';
import { camelNames } from '../wire-names.js';
import { wirePath } from '../wire-path.js';
import { type Device, type OfDevice, readDevice } from './device.js';
import { eachDevice } from './each-device.js';

export interface DeviceListOptions extends Paging {
  readonly status?: 'online' | 'offline' | 'revoked';
  /** All of them must hold. */
  readonly labels?: Readonly<Record<string, string>>;
  /** Name or id. */
  readonly group?: string;
  /** How the device identifier begins. */
  readonly search?: string;
}

/** The devices of an organization: agents that were enrolled, and clients that registered themselves. */
export class Devices {
  readonly #http: HttpClient;

  /** @throws OctomilClientError `invalid_api_key` without a key, `invalid_input` for an unusable `apiBase` */
  constructor(options: ClientOptions | HttpClient = {}) {
    this.#http = HttpClient.of(options);
  }

  /** Newest first; all of them, unless `limit` says otherwise. Of very many, better {@link each}. */
  async list(options: DeviceListOptions = {}): Promise<Device[]> {
    const devices: Device[] = [];
    for await (const device of this.each(options)) devices.push(device);
    return devices;
  }

  /** Newest first, a page at a time. */
  each(options: DeviceListOptions = {}): AsyncGenerator<Device, void, undefined> {
    const { limit, offset, signal, labels = {}, status, group, search } = options;
    const label = Object.entries(labels).map(([name, value]) => `${name}=${value}`);
    return eachDevice(this.#http, '/devices', { status, group, search, label }, { limit, offset, signal });
  }

  /** @throws OctomilClientError `device_not_registered` */
  async get(options: OfDevice): Promise<Device> {
    return readDevice(await this.#http.json('GET', devicePath(options), { signal: options.signal }));
  }

  /**
   * Labels win over what the device says of itself; null takes one away.
   *
   * @throws OctomilClientError `device_not_registered`, `invalid_input` for more than a device may have
   */
  async setLabels(options: OfDevice & { readonly labels: Readonly<Record<string, string | null>> }): Promise<Device> {
    const { labels, signal } = options;
    return readDevice(await this.#http.json('PATCH', devicePath(options), { json: { labels }, signal }));
  }

  /** Its credential and its tokens stop working at once. @throws OctomilClientError `device_not_registered` */
  async revoke(options: OfDevice): Promise<Device> {
    return readDevice(
      await this.#http.json('POST', `${devicePath(options)}/revoke`, { json: {}, signal: options.signal }),
    );
  }

  /** The versions that it should run, and where to get them. @throws OctomilClientError `device_not_registered` */
  async desiredState(options: OfDevice): Promise<Readonly<Record<string, unknown>>> {
    const path = `${devicePath(options)}/desired-state`;
    return camelNames(await this.#http.json<Record<string, unknown>>('GET', path, { signal: options.signal }));
  }
}

export function devicePath({ deviceId }: Pick<OfDevice, 'deviceId'>): string {
  return wirePath('devices', deviceId);
}
