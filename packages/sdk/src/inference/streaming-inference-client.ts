import type { ClientOptions } from '../client-options.js';
import { HttpClient } from '../http-client.js';
import { Inference, type InferenceOptions } from './inference.js';
import type { RouteOptions } from './places.js';
import type { PredictionChunk, PredictionMetrics } from './prediction.js';
import type { GenerationInput, GenerationOptions } from './request.js';

/**
 * Streams generations and measures each: time to the first chunk, mean chunk latency, throughput, duration. What ran on
 * the device is reported to the coordinator, in batches and in the background; what ran in the cloud, its gateway has noted.
 *
 * ```ts
 * const inference = new StreamingInferenceClient({ apiKey: 'edg_…', deviceId: 'device-7' });
 * for await (const chunk of inference.generate('phi-4-mini', 'Hello')) process.stdout.write(chunk.text);
 * console.log(inference.lastResult?.timeToFirstChunkMs);
 * await inference.dispose();
 * ```
 */
export class StreamingInferenceClient {
  readonly #inference: Inference;
  #lastResult: PredictionMetrics | undefined;

  /** @throws OctomilClientError `invalid_api_key` without a key, `invalid_input` for an unusable `apiBase` */
  constructor(options: ClientOptions & InferenceOptions = {}) {
    this.#inference = new Inference(new HttpClient(options), options);
  }

  /** Of the last generation that came to its end. */
  get lastResult(): PredictionMetrics | undefined {
    return this.#lastResult;
  }

  /** @throws OctomilClientError as `Client.predictStream` */
  async *generate(
    model: string,
    input: GenerationInput,
    options: GenerationOptions & RouteOptions = {},
  ): AsyncGenerator<PredictionChunk, void, undefined> {
    const stream = this.#inference.predictStream(model, { ...options, input });
    yield* stream;
    this.#lastResult = stream.metrics;
  }

  /** Unloads all models, and delivers what is still to be reported. */
  dispose(): Promise<void> {
    return this.#inference.dispose();
  }
}
