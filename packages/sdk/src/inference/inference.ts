import type { EventReporter } from '@octomil/inference/quality';
import { OctomilClientError } from '../client-error.js';
import { environmentVariable } from '../client-options.js';
import type { HttpClient } from '../http-client.js';
import { eventReporter } from './event-reporting.js';
import {
  type EmbeddingResult,
  type EmbedOptions,
  embedWith,
  GatewaySource,
  type StreamToken,
} from './gateway-source.js';
import { type GeneratorContext, generate } from './generator.js';
import { LoadedModel, type LoadModelOptions } from './loaded-model.js';
import { ModelCache } from './model-cache.js';
import { Places, type RouteOptions } from './places.js';
import { Prediction, type PredictionChunk, type PredictionEnd } from './prediction.js';
import { PredictionStream } from './prediction-stream.js';
import {
  type GenerationInput,
  type GenerationOptions,
  type GenerationParameters,
  generationQuery,
  type WaitOptions,
} from './request.js';
import { LocalServer } from './serve-source.js';
import { eachWithinTime, withinTime } from './waiting.js';

/** Where a client may generate, besides the gateway. */
export interface InferenceOptions {
  /**
   * An `octomil serve` of this machine, asked for its models before each generation, every 15 seconds at most. Default:
   * `OCTOMIL_LOCAL_URL`, else `http://127.0.0.1:8080` in Node and none in a browser. False: none.
   */
  readonly localUrl?: string | false | undefined;
  /** Default: `OCTOMIL_LOCAL_KEY`. */
  readonly localApiKey?: string | undefined;
  /** Names of models and their GGUF files, as `octomil serve` reads it. Default: `OCTOMIL_MODELS_FILE`, else `~/.octomil/models.yaml`. */
  readonly modelsFile?: string | undefined;
  /** Default `auto`: on the device where it can, else in the cloud. */
  readonly route?: RouteOptions['route'];
  /** MiB of model files kept in memory. Default 4096; beyond, what was not used for longest is unloaded. */
  readonly cacheSizeMb?: number | undefined;
  /** Goes with what is reported about generations on this device: the id it is registered under. */
  readonly deviceId?: string | undefined;
  /** Whether the coordinator hears how generations on this device went; never what was asked or answered. Default true. */
  readonly reportEvents?: boolean | undefined;
}

export interface PredictOptions extends GenerationOptions, RouteOptions {
  /** The conversation so far; or `input`. */
  readonly messages?: GenerationInput | undefined;
  /** One question. */
  readonly input?: GenerationInput | undefined;
}

export interface StreamPredictOptions extends WaitOptions {
  readonly parameters?: GenerationParameters;
}

const DEFAULT_CACHE_MB = 4096;

/** Generation on the device and in the cloud, for `Client`. */
export class Inference {
  readonly #http: HttpClient;
  readonly #route: RouteOptions['route'];
  readonly #cache: ModelCache;
  readonly #places: Places;
  readonly #reporter: EventReporter | undefined;
  readonly #context: GeneratorContext;

  constructor(http: HttpClient, options: InferenceOptions = {}) {
    this.#http = http;
    this.#route = options.route;
    this.#cache = new ModelCache(bytesOf(options.cacheSizeMb ?? DEFAULT_CACHE_MB));
    const monotonicMs = (): number => performance.now();
    this.#places = new Places({
      http,
      cache: this.#cache,
      modelsFile: options.modelsFile,
      server: localServer(http, options, monotonicMs),
    });
    this.#reporter = options.reportEvents === false ? undefined : eventReporter(http);
    this.#context = {
      places: this.#places,
      reporter: this.#reporter,
      deviceId: options.deviceId,
      monotonicMs,
      nowMs: () => Date.now(),
    };
  }

  async predict(model: string, options: PredictOptions): Promise<Prediction> {
    const query = generationQuery(inputOf(options), options);
    return withinTime(options, async (signal) => {
      const chunks = generate(this.#context, model, query, { ...this.#routed(options), signal, whole: true });
      let text = '';
      while (true) {
        const step = await chunks.next();
        if (step.done === true) return new Prediction({ model, text, ...step.value });
        text += step.value.text;
      }
    });
  }

  predictStream(model: string, options: PredictOptions): PredictionStream {
    const query = generationQuery(inputOf(options), options);
    const routed = this.#routed(options);
    const chunks: AsyncGenerator<PredictionChunk, PredictionEnd, undefined> = eachWithinTime(options, (signal) =>
      generate(this.#context, model, query, { ...routed, signal, whole: false }),
    );
    return new PredictionStream(chunks);
  }

  streamPredict(
    model: string,
    input: GenerationInput,
    options: StreamPredictOptions = {},
  ): AsyncGenerator<StreamToken, void, undefined> {
    const query = generationQuery(input, options.parameters ?? {});
    return eachWithinTime(options, (signal) => new GatewaySource(this.#http, model).tokens(query, signal));
  }

  embed(options: EmbedOptions): Promise<EmbeddingResult> {
    return embedWith(this.#http, options);
  }

  async loadModel(name: string, options: LoadModelOptions = {}): Promise<LoadedModel> {
    if (options.cacheSizeMb !== undefined) {
      this.#cache.limitBytes = bytesOf(options.cacheSizeMb);
    }
    const routed = this.#routed(options);
    const found = await this.#firstPlace(name, routed);
    const loaded = await found.open();
    loaded.release();
    return new LoadedModel(name, this, { ...routed, engine: found.engine }, async () => {
      if (found.engine === 'llama.cpp') await this.#places.unload(name, routed);
    });
  }

  /** Unloads all models, and delivers what is still to be reported. The client can be used again afterwards. */
  async dispose(): Promise<void> {
    await Promise.all([this.#cache.dispose(), this.#reporter?.flush()]);
  }

  async #firstPlace(name: string, options: RouteOptions): Promise<Extract<PlaceOrNone, { open: unknown }>> {
    const reasons: string[] = [];
    for await (const place of this.#places.of(name, options)) {
      if ('open' in place) return place;
      reasons.push(`${place.engine}: ${place.unfit}`);
    }
    throw new OctomilClientError('model_not_found', `"${name}" runs nowhere. ${reasons.join('; ')}`);
  }

  /** An engine that is asked for says where; the client's own preference is then none. */
  #routed({ route, engine, version }: RouteOptions): RouteOptions {
    return { route: route ?? (engine === undefined ? this.#route : 'auto'), engine, version };
  }
}

type PlaceOrNone = ReturnType<Places['of']> extends AsyncGenerator<infer Of> ? Of : never;

function bytesOf(cacheSizeMb: number): number {
  if (cacheSizeMb > 0) return cacheSizeMb * 1024 * 1024;
  throw new OctomilClientError('invalid_input', `cacheSizeMb is ${cacheSizeMb}; it must be above 0`, {
    details: { field: 'cacheSizeMb' },
  });
}

function inputOf({ messages, input }: PredictOptions): GenerationInput {
  const given = messages ?? input;
  if (given !== undefined && (messages === undefined || input === undefined)) return given;
  const reason = given === undefined ? 'nothing was asked; give messages or input' : 'give messages or input, not both';
  throw new OctomilClientError('invalid_input', reason, { details: { field: 'messages' } });
}

function localServer(http: HttpClient, options: InferenceOptions, nowMs: () => number): LocalServer | undefined {
  const url = options.localUrl ?? environmentVariable('OCTOMIL_LOCAL_URL');
  // A page that looks at addresses of the machine it is shown on makes its browser ask the person in front of it.
  if (url === false || (url === undefined && typeof process === 'undefined')) return undefined;
  const apiKey = options.localApiKey ?? environmentVariable('OCTOMIL_LOCAL_KEY');
  return new LocalServer({ http, apiKey }, url, nowMs);
}
