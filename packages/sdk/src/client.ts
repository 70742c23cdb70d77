import { AuditLog } from './audit-log.js';
import type { ClientOptions } from './client-options.js';
import { Devices } from './devices/devices.js';
import { Groups } from './devices/groups.js';
import { Federation } from './federation.js';
import { HttpClient } from './http-client.js';
import { ModelRegistry } from './model-registry.js';
import { type Listed, Organization } from './organization.js';
import type { RolloutsApi } from './rollouts/rollouts-api.js';
import { listOf } from './training-session.js';
import { camelNames } from './wire-names.js';

/**
 * Everything of an organization behind one key.
 *
 * ```ts
 * const client = new Client({ apiKey: 'edg_…', orgId: 'your-org-id' });
 * const rollout = await client.rollouts.create({ modelId: 'triage', version: '2.0.0', rolloutPercentage: 10 });
 * await client.rollouts.start({ modelId: 'triage', rolloutId: rollout.id });
 * ```
 */
export class Client {
  readonly registry: ModelRegistry;
  readonly rollouts: RolloutsApi;
  readonly devices: Devices;
  readonly groups: Groups;
  readonly organization: Organization;
  readonly auditLog: AuditLog;
  readonly #http: HttpClient;

  /** @throws OctomilClientError `invalid_api_key` without a key, `invalid_input` for an unusable `apiBase` */
  constructor(options: ClientOptions = {}) {
    this.#http = new HttpClient(options);
    this.registry = new ModelRegistry(this.#http);
    this.rollouts = this.registry.rollouts;
    this.devices = new Devices(this.#http);
    this.groups = new Groups(this.#http);
    this.organization = new Organization(this.#http);
    this.auditLog = new AuditLog(this.#http);
  }

  /** @param which the name, made on first use when there is none; or the id of one that exists */
  federation(which: string | { readonly id: string }): Federation {
    return new Federation(typeof which === 'string' ? { name: which } : which, this.#http);
  }

  /** @throws OctomilClientError `conflict` when this organization has one of the name */
  async createFederation(options: {
    readonly name: string;
    readonly description?: string;
    readonly signal?: AbortSignal;
  }): Promise<Listed> {
    const { signal, ...json } = options;
    return camelNames(await this.#http.json<Record<string, unknown>>('POST', '/federations', { json, signal }));
  }

  /**
   * Federations that this organization owns or has joined.
   *
   * @param options `status`: `invited` for invitations that wait for an answer instead
   */
  async federations(options: { readonly status?: 'invited'; readonly signal?: AbortSignal } = {}): Promise<Listed[]> {
    const { status, signal } = options;
    const rows = listOf(await this.#http.json('GET', '/federations', { query: { status }, signal }), 'federations');
    return rows.map((row) => camelNames(row as Record<string, unknown>));
  }
}
