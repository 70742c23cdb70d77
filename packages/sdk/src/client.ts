import { RoutingPolicyClient } from '@octomil/inference/routing';
import { AuditLog } from './audit-log.js';
import type { ClientOptions } from './client-options.js';
import { Devices } from './devices/devices.js';
import { Groups } from './devices/groups.js';
import { Features } from './features/features.js';
import { Federation } from './federation.js';
import { HttpClient } from './http-client.js';
import type { EmbeddingResult, EmbedOptions, StreamToken } from './inference/gateway-source.js';
import {
  Inference,
  type InferenceOptions,
  type PredictOptions,
  type StreamPredictOptions,
} from './inference/inference.js';
import {
  type InferenceMetrics,
  type InferenceMetricsOptions,
  readInferenceMetrics,
} from './inference/inference-metrics.js';
import type { LoadedModel, LoadModelOptions } from './inference/loaded-model.js';
import type { Prediction } from './inference/prediction.js';
import type { PredictionStream } from './inference/prediction-stream.js';
import type { GenerationInput } from './inference/request.js';
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
 * const answer = await client.predict('phi-4-mini', { messages: [{ role: 'user', content: 'Summarize this report.' }] });
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
  readonly features: Features;
  readonly #http: HttpClient;
  readonly #inference: Inference;

  /** @throws OctomilClientError `invalid_api_key` without a key, `invalid_input` for an unusable `apiBase` */
  constructor(options: ClientOptions & InferenceOptions = {}) {
    this.#http = new HttpClient(options);
    this.#inference = new Inference(this.#http, options);
    this.registry = new ModelRegistry(this.#http);
    this.rollouts = this.registry.rollouts;
    this.devices = new Devices(this.#http);
    this.groups = new Groups(this.#http);
    this.organization = new Organization(this.#http);
    this.auditLog = new AuditLog(this.#http);
    this.features = new Features(this.#http);
  }

  /**
   * One answer: from a model on this device where there is one and it can run, else from the gateway. `metrics.route` says
   * which, and why.
   *
   * ```ts
   * const result = await client.predict('phi-4-mini', { messages, maxTokens: 256, temperature: 0.7 });
   * console.log(`${result}`, result.metrics.route.reason);
   * ```
   *
   * @throws OctomilClientError `invalid_input`, `context_too_large`, `model_not_found`, `runtime_unavailable`,
   * `rate_limited`, `request_timeout`, `cancelled` and others of the gateway
   */
  async predict(model: string, options: PredictOptions): Promise<Prediction> {
    return this.#inference.predict(model, options);
  }

  /** As `predict`, piece by piece. @throws OctomilClientError as `predict`, and `stream_interrupted`, while it is iterated */
  predictStream(model: string, options: PredictOptions): PredictionStream {
    return this.#inference.predictStream(model, options);
  }

  /**
   * Tokens of a model in the cloud, whatever there is on this device. The last one is `done`; leaving the loop ends the
   * generation.
   *
   * @throws OctomilClientError as `predict`, and `stream_interrupted` when the stream breaks off
   */
  streamPredict(
    model: string,
    input: GenerationInput,
    options?: StreamPredictOptions,
  ): AsyncGenerator<StreamToken, void, undefined> {
    return this.#inference.streamPredict(model, input, options);
  }

  /** Vectors from the cloud, one for each text. @throws OctomilClientError as `predict` */
  async embed(options: EmbedOptions): Promise<EmbeddingResult> {
    return this.#inference.embed(options);
  }

  /**
   * Decides once where a model runs, and loads it where that is here. `predict` and `predictStream` use what is loaded.
   *
   * @throws OctomilClientError `model_load_failed`, `runtime_unavailable`, `model_not_found` when it runs nowhere
   */
  async loadModel(name: string, options?: LoadModelOptions): Promise<LoadedModel> {
    return this.#inference.loadModel(name, options);
  }

  /** How generations went, here and in the cloud. @throws OctomilClientError `invalid_input` naming the field */
  async inferenceMetrics(options: InferenceMetricsOptions = {}): Promise<InferenceMetrics[]> {
    return readInferenceMetrics(this.#http, options);
  }

  /**
   * The organization's policy for `QueryRouter`, kept until it expires and never a reason to fail.
   *
   * ```ts
   * const policy = await client.routingPolicy().current();
   * const router = new QueryRouter(models, { policy: () => policy });
   * ```
   */
  routingPolicy(): RoutingPolicyClient {
    const url = `${this.#http.apiBase}/route/policy`;
    return new RoutingPolicyClient({ url, headers: () => this.#http.authorization() });
  }

  /** Unloads all models. Generations under way on this device fail; the client can be used again. */
  async dispose(): Promise<void> {
    await this.#inference.dispose();
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
