import type { ClientOptions } from '../client-options.js';
import { HttpClient } from '../http-client.js';
import type { Paging } from '../models/model.js';
import { listOf } from '../training-session.js';
import { camelNames } from '../wire-names.js';
import { wirePath } from '../wire-path.js';
import type { Device } from './device.js';
import { eachDevice } from './each-device.js';

/** Devices under one name, for selectors of rollouts and trainings. */
export interface DeviceGroup {
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly [field: string]: unknown;
}

/** Which group. */
export interface OfGroup {
  /** Name or id. */
  readonly group: string;
  readonly signal?: AbortSignal | undefined;
}

export class Groups {
  readonly #http: HttpClient;

  /** @throws OctomilClientError `invalid_api_key` without a key, `invalid_input` for an unusable `apiBase` */
  constructor(options: ClientOptions | HttpClient = {}) {
    this.#http = HttpClient.of(options);
  }

  /** @throws OctomilClientError `conflict` when the name is taken */
  async create(options: {
    readonly name: string;
    readonly description?: string;
    readonly signal?: AbortSignal;
  }): Promise<DeviceGroup> {
    const { signal, ...json } = options;
    return readGroup(await this.#http.json('POST', GROUPS, { json, signal }));
  }

  /** By name; all of them, unless `limit` says otherwise. */
  async list(options: Paging = {}): Promise<DeviceGroup[]> {
    const { limit = Number.POSITIVE_INFINITY, offset = 0, signal } = options;
    const groups: DeviceGroup[] = [];
    while (groups.length < limit) {
      const size = Math.min(PAGE_SIZE, limit - groups.length);
      const query = { limit: size, offset: offset + groups.length };
      const page = listOf(await this.#http.json('GET', GROUPS, { query, signal }), 'groups');
      groups.push(...page.map(readGroup));
      if (page.length < size) break;
    }
    return groups;
  }

  /** @throws OctomilClientError `not_found` */
  async get(options: OfGroup): Promise<DeviceGroup> {
    return readGroup(await this.#http.json('GET', groupPath(options), { signal: options.signal }));
  }

  /** Its devices stay. @throws OctomilClientError `not_found` */
  async delete(options: OfGroup): Promise<void> {
    await this.#http.json('DELETE', groupPath(options), { signal: options.signal });
  }

  /** @throws OctomilClientError `not_found`, `conflict` when the new name is taken */
  async update(options: OfGroup & { readonly name?: string; readonly description?: string }): Promise<DeviceGroup> {
    const { name, description, signal } = options;
    return readGroup(await this.#http.json('PATCH', groupPath(options), { json: { name, description }, signal }));
  }

  /** Newest first, a page at a time. @throws OctomilClientError `not_found` */
  devices(options: OfGroup): AsyncGenerator<Device, void, undefined> {
    return eachDevice(this.#http, `${groupPath(options)}/devices`, {}, options);
  }

  /**
   * All of them or none. Repeating it changes nothing.
   *
   * @param options `devices`: ids or identifiers, at most 10,000
   * @throws OctomilClientError `not_found`, `device_not_registered`
   */
  addDevices(options: OfGroup & { readonly devices: readonly string[] }): Promise<DeviceGroup> {
    return this.#change('devices', options);
  }

  /** Repeating it changes nothing. @throws OctomilClientError `not_found`, `device_not_registered` */
  removeDevices(options: OfGroup & { readonly devices: readonly string[] }): Promise<DeviceGroup> {
    return this.#change('devices/remove', options);
  }

  async #change(what: string, options: OfGroup & { readonly devices: readonly string[] }): Promise<DeviceGroup> {
    const json = { devices: options.devices };
    return readGroup(await this.#http.json('POST', `${groupPath(options)}/${what}`, { json, signal: options.signal }));
  }
}

const GROUPS = '/device-groups';
const PAGE_SIZE = 1000;

function groupPath({ group }: OfGroup): string {
  return `${GROUPS}${wirePath(group)}`;
}

function readGroup(value: unknown): DeviceGroup {
  const fields = camelNames(value as Record<string, unknown>);
  return {
    ...fields,
    id: String(fields['id']),
    name: String(fields['name']),
    description: typeof fields['description'] === 'string' ? fields['description'] : '',
  };
}
