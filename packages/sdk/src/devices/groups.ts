import type { ClientOptions } from '../client-options.js';
import { HttpClient } from '../http-client.js';
import { listOf } from '../training-session.js';
import { camelNames } from '../wire-names.js';
import { wirePath } from '../wire-path.js';

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

  async list(signal?: AbortSignal): Promise<DeviceGroup[]> {
    return listOf(await this.#http.json('GET', GROUPS, { signal }), 'groups').map(readGroup);
  }

  /** @throws OctomilClientError `not_found` */
  async get(options: OfGroup): Promise<DeviceGroup> {
    return readGroup(await this.#http.json('GET', groupPath(options), { signal: options.signal }));
  }

  /** Its devices stay. @throws OctomilClientError `not_found` */
  async delete(options: OfGroup): Promise<void> {
    await this.#http.json('DELETE', groupPath(options), { signal: options.signal });
  }

  /** Repeating it changes nothing. @param options `devices`: ids or identifiers @throws OctomilClientError `not_found`, `device_not_registered` */
  async addDevices(options: OfGroup & { readonly devices: readonly string[] }): Promise<void> {
    const { devices, signal } = options;
    await this.#http.json('POST', `${groupPath(options)}/devices`, { json: { devices }, signal });
  }

  /** Repeating it changes nothing. @throws OctomilClientError `not_found` */
  async removeDevice(options: OfGroup & { readonly deviceId: string }): Promise<void> {
    const path = `${groupPath(options)}/devices${wirePath(options.deviceId)}`;
    await this.#http.json('DELETE', path, { signal: options.signal });
  }
}

const GROUPS = '/device-groups';

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
