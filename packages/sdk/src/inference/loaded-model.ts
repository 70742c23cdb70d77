import { OctomilClientError } from '../client-error.js';
import type { PredictOptions } from './inference.js';
import type { RouteOptions } from './places.js';
import type { Prediction } from './prediction.js';
import type { PredictionStream } from './prediction-stream.js';
import type { GenerationInput, GenerationOptions } from './request.js';

export interface LoadModelOptions extends RouteOptions {
  /**
   * MiB of model files that the client keeps in memory, from now on. Beyond, what was not used for longest is unloaded
   * once nothing is generated with it; the model asked for is loaded in any case. Default: as the client was made with.
   */
  readonly cacheSizeMb?: number | undefined;
}

interface Predictor {
  predict(model: string, options: PredictOptions): Promise<Prediction>;
  predictStream(model: string, options: PredictOptions): PredictionStream;
}

/** A model that answers at once. One that the cache had to unload meanwhile is loaded again. */
export class LoadedModel {
  readonly name: string;
  /** Where it runs, and nowhere else. */
  readonly route: RouteOptions;
  readonly #predictor: Predictor;
  readonly #unload: () => Promise<void>;
  #disposed = false;

  constructor(name: string, predictor: Predictor, route: RouteOptions, unload: () => Promise<void>) {
    this.name = name;
    this.route = route;
    this.#predictor = predictor;
    this.#unload = unload;
  }

  /** @throws OctomilClientError as `Client.predict`; `wrong_state` once disposed of */
  async predict(input: GenerationInput, options: GenerationOptions = {}): Promise<Prediction> {
    this.#check();
    return this.#predictor.predict(this.name, { ...options, ...this.route, input });
  }

  /** @throws OctomilClientError as `Client.predictStream`; `wrong_state` once disposed of */
  stream(input: GenerationInput, options: GenerationOptions = {}): PredictionStream {
    this.#check();
    return this.#predictor.predictStream(this.name, { ...options, ...this.route, input });
  }

  /** Unloads the model, once nothing is generated with it. Safe to repeat. */
  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    await this.#unload();
  }

  #check(): void {
    if (this.#disposed) throw new OctomilClientError('wrong_state', `"${this.name}" was disposed of; load it again`);
  }
}
