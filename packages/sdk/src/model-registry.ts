import { OctomilClientError } from './client-error.js';
import type { ClientOptions } from './client-options.js';
import { HttpClient } from './http-client.js';
import { plainDigest } from './training-run.js';
import { listOf } from './training-session.js';
import { camelNames } from './wire-names.js';

export interface Model {
  readonly id: string;
  readonly name: string;
  readonly [field: string]: unknown;
}

export interface ModelVersion {
  /** Semantic version. */
  readonly version: string;
  /** `draft`, `published` or `deprecated`. */
  readonly status: string;
  readonly [field: string]: unknown;
}

export interface EnsureModelOptions {
  readonly name: string;
  readonly framework?: string;
  readonly useCase?: string;
  readonly description?: string;
  readonly signal?: AbortSignal;
}

export interface UploadOptions {
  /** Name or id. */
  readonly modelId: string;
  /** Read by Node; browsers use `uploadVersion`. */
  readonly filePath: string;
  /** Semantic version that does not exist yet. */
  readonly version: string;
  readonly description?: string;
  readonly signal?: AbortSignal;
}

export interface PulledModel {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Hex SHA-256 of the bytes, checked against what the registry promised. */
  readonly digest: string;
  readonly fileName: string | undefined;
}

/** Models and their immutable versions. */
export class ModelRegistry {
  readonly #http: HttpClient;

  /** @throws OctomilClientError `invalid_api_key` without a key, `invalid_input` for an unusable `apiBase` */
  constructor(options: ClientOptions = {}) {
    this.#http = new HttpClient(options);
  }

  /** The model of this name, in any case of letters; made when there is none. Safe to call from many places at once. */
  async ensureModel(options: EnsureModelOptions): Promise<Model> {
    const { signal } = options;
    const wanted = options.name.toLowerCase();
    const existing = (await this.listModels(signal)).find((model) => model.name.toLowerCase() === wanted);
    if (existing !== undefined) return existing;
    const json = {
      name: options.name,
      description: options.description ?? '',
      framework: options.framework ?? 'octomil',
      use_case: options.useCase ?? 'federated_training',
    };
    try {
      return readModel(await this.#http.json('POST', '/models', { json, signal }));
    } catch (error) {
      // Somebody else made it between the two requests.
      if (!(error instanceof OctomilClientError) || error.code !== 'conflict') throw error;
      const made = (await this.listModels(signal)).find((model) => model.name.toLowerCase() === wanted);
      if (made === undefined) throw error;
      return made;
    }
  }

  async listModels(signal?: AbortSignal): Promise<Model[]> {
    return listOf(await this.#http.json('GET', '/models', { signal }), 'models').map(readModel);
  }

  /** @throws OctomilClientError `model_not_found` */
  async model(nameOrId: string, signal?: AbortSignal): Promise<Model> {
    return readModel(await this.#http.json('GET', `/models/${encodeURIComponent(nameOrId)}`, { signal }));
  }

  /** Newest first. @throws OctomilClientError `model_not_found` */
  async versions(nameOrId: string, signal?: AbortSignal): Promise<ModelVersion[]> {
    const answer = await this.#http.json('GET', `/models/${encodeURIComponent(nameOrId)}/versions`, { signal });
    return listOf(answer, 'versions').map(readVersion);
  }

  /** @param version semantic version or `latest` @throws OctomilClientError `model_not_found`, `version_not_found` */
  async version(nameOrId: string, version: string, signal?: AbortSignal): Promise<ModelVersion> {
    return readVersion(await this.#http.json('GET', versionPath(nameOrId, version), { signal }));
  }

  /**
   * Makes a version from a local file (Node only).
   *
   * @throws OctomilClientError `conflict` when the version exists, `model_not_found`, `runtime_unavailable` outside Node,
   * `not_found` for a file that cannot be read
   */
  async uploadVersionFromPath(options: UploadOptions): Promise<ModelVersion> {
    // Not an import: bundlers for browsers would have to resolve it.
    const builtin = typeof process === 'undefined' ? undefined : process.getBuiltinModule;
    if (builtin === undefined) {
      throw new OctomilClientError('runtime_unavailable', 'there are no files here; use uploadVersion with a Blob');
    }
    const { openAsBlob } = builtin('node:fs');
    let content: Blob;
    try {
      content = await openAsBlob(options.filePath);
    } catch (cause) {
      throw new OctomilClientError('not_found', `${options.filePath} cannot be read`, { cause });
    }
    const { filePath, ...rest } = options;
    return this.uploadVersion({ ...rest, content, fileName: filePath.replace(/^.*[\\/]/, '') });
  }

  /** @throws OctomilClientError `conflict` when the version exists, `model_not_found` */
  async uploadVersion(
    options: Omit<UploadOptions, 'filePath'> & { readonly content: Blob; readonly fileName: string },
  ): Promise<ModelVersion> {
    const { version, content, fileName, signal } = options;
    const base = `/models/${encodeURIComponent(options.modelId)}/versions`;
    const target = await this.#http.json<{ upload_url: string; storage_key: string }>('POST', `${base}/upload-url`, {
      body: new URLSearchParams({ version, filename: fileName, content_type: 'application/octet-stream' }),
      signal,
    });
    await this.#http.bytes('PUT', target.upload_url, {
      body: content,
      headers: { 'content-type': 'application/octet-stream' },
      // A megabyte per second at least, as the published clients allow.
      timeoutMs: Math.max(600_000, content.size / 1024),
      signal,
    });
    const confirmed = await this.#http.json('POST', `${base}/confirm-upload`, {
      body: new URLSearchParams({
        version,
        storage_key: target.storage_key,
        file_size: String(content.size),
        description: options.description ?? '',
      }),
      signal,
    });
    return readVersion(confirmed);
  }

  /** Repeating it changes nothing. @throws OctomilClientError `model_not_found`, `version_not_found` */
  async publishVersion(options: { modelId: string; version: string; signal?: AbortSignal }): Promise<ModelVersion> {
    const path = `${versionPath(options.modelId, options.version)}/publish`;
    return readVersion(await this.#http.json('POST', path, { json: {}, signal: options.signal }));
  }

  /**
   * The bytes of a version's file, whole and checked.
   *
   * @param options `version`: default `latest`; `format`: default the weights, `model.json` for the description
   * @throws OctomilClientError `model_not_found`, `version_not_found`, `checksum_mismatch`
   */
  async pullModel(options: {
    model: string;
    version?: string;
    format?: string;
    signal?: AbortSignal;
  }): Promise<PulledModel> {
    const path = `${versionPath(options.model, options.version ?? 'latest')}/download`;
    const { headers, bytes } = await this.#http.bytes('GET', path, {
      query: { format: options.format },
      headers: { accept: '*/*' },
      signal: options.signal,
    });
    const digest = await sha256Hex(bytes);
    const promised = plainDigest(headers.get('x-model-hash') ?? '');
    if (promised !== '' && promised !== digest) {
      throw new OctomilClientError(
        'checksum_mismatch',
        `${options.model} arrived with SHA-256 ${digest} instead of ${promised}; pull it again`,
      );
    }
    // A name, never a path: whoever writes the file under it must not be led into another folder.
    const fileName = /filename="?([^";]+)"?/
      .exec(headers.get('content-disposition') ?? '')?.[1]
      ?.replace(/^.*[\\/]/s, '');
    return { bytes, digest, fileName: fileName === undefined || /^\.*$/.test(fileName) ? undefined : fileName };
  }
}

function versionPath(model: string, version: string): string {
  return `/models/${encodeURIComponent(model)}/versions/${encodeURIComponent(version)}`;
}

async function sha256Hex(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function readModel(value: unknown): Model {
  const fields = camelNames(value as Record<string, unknown>);
  return { ...fields, id: String(fields['id']), name: String(fields['name']) };
}

function readVersion(value: unknown): ModelVersion {
  const fields = camelNames(value as Record<string, unknown>);
  return { ...fields, version: String(fields['version']), status: String(fields['status'] ?? '') };
}
