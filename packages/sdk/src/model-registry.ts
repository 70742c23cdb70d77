import { OctomilClientError } from './client-error.js';
import type { ClientOptions } from './client-options.js';
import { HttpClient } from './http-client.js';
import { Conversions, versionPath } from './models/conversions.js';
import {
  type Model,
  type ModelFields,
  type ModelFilter,
  type ModelVersion,
  type OfVersion,
  type Paging,
  readModel,
  readVersion,
} from './models/model.js';
import {
  type PulledFile,
  type PulledModel,
  type PullOptions,
  type PullToPathOptions,
  pullBytes,
  pullToPath,
} from './models/pull.js';
import { type BlobUploadOptions, openFile, pushVersion, type UploadOptions } from './models/push.js';
import type { Rollout, RolloutSettings } from './rollouts/rollout.js';
import { type OfRollout, RolloutsApi } from './rollouts/rollouts-api.js';
import { listOf } from './training-session.js';
import { camelNames, snakeNames } from './wire-names.js';
import { wirePath } from './wire-path.js';

export interface EnsureModelOptions extends ModelFields {
  readonly name: string;
  readonly signal?: AbortSignal | undefined;
}

/** The most that one answer lists. */
const PAGE_SIZE = 100;

/**
 * Models, their immutable versions and their rollouts.
 *
 * ```ts
 * const registry = new ModelRegistry({ apiKey: 'edg_…' });
 * const model = await registry.ensureModel({ name: 'mnist', framework: 'pytorch' });
 * await registry.uploadVersionFromPath({ modelId: model.id, filePath: 'model.pt', version: '1.0.0' });
 * await registry.publishVersion({ modelId: model.id, version: '1.0.0' });
 * await registry.createRollout({ modelId: model.id, version: '1.0.0', rolloutPercentage: 10 });
 * ```
 */
export class ModelRegistry {
  readonly rollouts: RolloutsApi;
  readonly conversions: Conversions;
  readonly #http: HttpClient;

  /** @throws OctomilClientError `invalid_api_key` without a key, `invalid_input` for an unusable `apiBase` */
  constructor(options: ClientOptions | HttpClient = {}) {
    this.#http = HttpClient.of(options);
    this.rollouts = new RolloutsApi(this.#http);
    this.conversions = new Conversions(this.#http);
  }

  /** The model of this name, in any case of letters; made when there is none. Safe to call from many places at once. */
  async ensureModel(options: EnsureModelOptions): Promise<Model> {
    const { signal, ...fields } = options;
    const json = snakeNames({ framework: 'octomil', useCase: 'federated_training', ...fields });
    return readModel(await this.#http.json('POST', '/models/ensure', { json, query: this.#org, signal }));
  }

  /**
   * Another model each time; without a name it has its id for one.
   *
   * @throws OctomilClientError `conflict` when the name is taken, `invalid_input`
   */
  async createModel(
    options: ModelFields & { readonly name?: string; readonly signal?: AbortSignal } = {},
  ): Promise<Model> {
    const { signal, ...fields } = options;
    return readModel(await this.#http.json('POST', '/models', { json: snakeNames(fields), query: this.#org, signal }));
  }

  /** Newest first; all of them, unless `limit` says otherwise. */
  listModels(options: ModelFilter & Paging = {}): Promise<Model[]> {
    const { limit, offset, signal, ...filter } = options;
    const query = { ...this.#org, ...(snakeNames(filter) as Record<string, string | boolean>) };
    return this.#list('/models', 'models', query, { limit, offset, signal }, readModel);
  }

  /** With its versions. @throws OctomilClientError `model_not_found` */
  async model(nameOrId: string, signal?: AbortSignal): Promise<Model> {
    return readModel(await this.#http.json('GET', wirePath('models', nameOrId), { signal }));
  }

  /** @throws OctomilClientError `model_not_found`, `conflict` when the new name is taken, `invalid_input` */
  async updateModel(
    nameOrId: string,
    changes: ModelFields & { readonly name?: string },
    signal?: AbortSignal,
  ): Promise<Model> {
    return readModel(
      await this.#http.json('PATCH', wirePath('models', nameOrId), { json: snakeNames(changes), signal }),
    );
  }

  /** With its versions. @throws OctomilClientError `model_not_found`, `wrong_state` while a version is in use */
  async deleteModel(nameOrId: string, signal?: AbortSignal): Promise<void> {
    await this.#http.json('DELETE', wirePath('models', nameOrId), { signal });
  }

  /** Newest first; all of them, unless `limit` says otherwise. @throws OctomilClientError `model_not_found` */
  versions(nameOrId: string, options: Paging & { readonly status?: string } = {}): Promise<ModelVersion[]> {
    const { status, ...paging } = options;
    const query = status === undefined ? {} : { status };
    return this.#list(`${wirePath('models', nameOrId)}/versions`, 'versions', query, paging, readVersion);
  }

  /**
   * @param version semantic version, its number, or `latest`
   * @throws OctomilClientError `model_not_found`, `version_not_found`
   */
  async version(nameOrId: string, version: string, signal?: AbortSignal): Promise<ModelVersion> {
    return readVersion(await this.#http.json('GET', versionPath({ modelId: nameOrId, version }), { signal }));
  }

  /** The newest published version. @throws OctomilClientError `model_not_found`, `version_not_found` */
  latestVersion(nameOrId: string, signal?: AbortSignal): Promise<ModelVersion> {
    return this.version(nameOrId, 'latest', signal);
  }

  /**
   * Makes a version from a local file (Node only), streamed from disk.
   *
   * @throws OctomilClientError `conflict` when the version has such a file, `model_not_found`, `runtime_unavailable` outside
   * Node, `not_found` for a file that cannot be read; with `waitUntilReady`, `conversion_failed`
   */
  async uploadVersionFromPath(options: UploadOptions): Promise<ModelVersion> {
    const { filePath, ...rest } = options;
    return this.uploadVersion({ ...rest, ...(await openFile(filePath)) });
  }

  /** @throws OctomilClientError `conflict` when the version has such a file, `model_not_found`; with `waitUntilReady`, `conversion_failed` */
  async uploadVersion(options: BlobUploadOptions): Promise<ModelVersion> {
    const uploaded = await pushVersion(this.#http, options);
    if (options.waitUntilReady !== true) return uploaded;
    const { modelId, signal } = options;
    return this.conversions.ready({ modelId, version: uploaded.version, signal });
  }

  /** Repeating it changes nothing. @throws OctomilClientError `model_not_found`, `version_not_found`, `wrong_state` while it is converted */
  publishVersion(options: OfVersion): Promise<ModelVersion> {
    return this.#change('POST', options, 'publish', {});
  }

  /** Devices keep it; no new rollout takes it. @throws OctomilClientError `model_not_found`, `version_not_found` */
  deprecateVersion(options: OfVersion): Promise<ModelVersion> {
    return this.#change('POST', options, 'deprecate', {});
  }

  /** Adds to the version's metrics, such as `{ accuracy: 0.9 }`. @throws OctomilClientError `model_not_found`, `version_not_found` */
  updateMetrics(options: OfVersion & { readonly metrics: Readonly<Record<string, unknown>> }): Promise<ModelVersion> {
    return this.#change('PATCH', options, 'metrics', { metrics: options.metrics });
  }

  /** @throws OctomilClientError `model_not_found`, `version_not_found`, `wrong_state` while it is in use */
  async deleteVersion(options: OfVersion): Promise<void> {
    await this.#http.json('DELETE', versionPath(options), { signal: options.signal });
  }

  /** What the version was made of: training session, rounds, base version. @throws OctomilClientError as `version` */
  async lineage(options: OfVersion): Promise<Readonly<Record<string, unknown>>> {
    const path = `${versionPath(options)}/lineage`;
    return camelNames(await this.#http.json<Record<string, unknown>>('GET', path, { signal: options.signal }));
  }

  /**
   * The bytes of a version's file, whole and checked.
   *
   * @throws OctomilClientError `model_not_found`, `version_not_found`, `format_not_ready`, `checksum_mismatch`
   */
  pullModel(options: PullOptions): Promise<PulledModel> {
    return pullBytes(this.#http, options);
  }

  /**
   * Streams a version's file to disk (Node only). The file appears under its name when all of it is there and checked;
   * a pull that was cut off goes on where it stopped.
   *
   * @throws OctomilClientError as `pullModel`, and `insufficient_storage`, `download_failed`, `runtime_unavailable` outside Node
   */
  pullModelToPath(options: PullToPathOptions): Promise<PulledFile> {
    return pullToPath(this.#http, options);
  }

  /** As `rollouts.create`, but it starts at once unless `startImmediately` is false. */
  createRollout(options: RolloutSettings): Promise<Rollout> {
    return this.rollouts.create({ startImmediately: true, ...options });
  }

  /**
   * The version before becomes the desired one again.
   *
   * @param options `rolloutId`: default the model's newest rollout that was started
   * @throws OctomilClientError `not_found` where nothing was rolled out, `wrong_state`
   */
  async rollbackRollout(
    options: Omit<OfRollout, 'rolloutId'> & { readonly rolloutId?: number; readonly reason?: string },
  ): Promise<Rollout> {
    const rolloutId = options.rolloutId ?? (await this.#newestRollout(options));
    return this.rollouts.rollback({ ...options, rolloutId });
  }

  async #newestRollout(options: Omit<OfRollout, 'rolloutId'>): Promise<number> {
    const found = (await this.rollouts.list(options)).find(({ status }) => /^(active|paused|completed)$/.test(status));
    if (found !== undefined) return found.id;
    throw new OctomilClientError('not_found', `no rollout of ${options.modelId} is there to be rolled back`);
  }

  async #change(method: string, of: OfVersion, action: string, json: object): Promise<ModelVersion> {
    const path = `${versionPath(of)}/${action}`;
    return readVersion(await this.#http.json(method, path, { json, signal: of.signal }));
  }

  /** A key knows its organization; where one is named, the coordinator checks it. */
  get #org(): { org_id?: string } {
    const { orgId } = this.#http;
    return orgId === undefined ? {} : { org_id: orgId };
  }

  async #list<Row>(
    path: string,
    name: string,
    filter: Readonly<Record<string, string | boolean | undefined>>,
    { limit, offset = 0, signal }: Paging,
    read: (row: unknown) => Row,
  ): Promise<Row[]> {
    // By id: what is made meanwhile moves the pages along, and shows rows again.
    const rows = new Map<unknown, Row>();
    for (let asked = 0; limit === undefined || asked < limit; ) {
      const size = Math.min(PAGE_SIZE, (limit ?? Number.POSITIVE_INFINITY) - asked);
      const query = { ...filter, limit: size, offset: offset + asked };
      const page = listOf(await this.#http.json('GET', path, { query, signal }), name);
      for (const row of page) rows.set((row as { id?: unknown }).id ?? row, read(row));
      asked += page.length;
      if (page.length < size) break;
    }
    return [...rows.values()];
  }
}
