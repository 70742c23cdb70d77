import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import type { EngineHealth, GenerationEngine, GenerationEvent, GenerationRequest } from '../engine/index.js';
import { type QueueStats, RequestQueue } from '../queue/index.js';
import type { ServedModelSource } from './models-file.js';

export interface ServedModelOptions {
  readonly source: ServedModelSource;
  readonly openEngine: (source: ServedModelSource) => GenerationEngine;
  readonly queue: { readonly maxDepth: number; readonly timeoutMs: number };
  /** The engine is ended after this long without a request; undefined: never. */
  readonly idleUnloadMs: number | undefined;
  readonly clock: Clock;
}

const DEFAULT_SLOTS = 4;

/** A model with its queue. Its engine is started with the first request, or by `load`. */
export class ServedModel {
  readonly name: string;
  readonly createdSeconds: number;
  /** Generations and embeddings that were asked for. */
  requests = 0;
  readonly #options: ServedModelOptions;
  readonly #queue: RequestQueue;
  #engine: GenerationEngine | undefined;
  #active = 0;
  #callOffUnload: () => void = () => undefined;

  constructor(name: string, options: ServedModelOptions) {
    this.name = name;
    this.#options = options;
    this.createdSeconds = Math.floor(options.clock.now() / 1_000);
    this.#queue = new RequestQueue({ ...options.queue, concurrency: this.slots, clock: options.clock });
  }

  get source(): ServedModelSource {
    return this.#options.source;
  }

  /** Generations at once. */
  get slots(): number {
    return this.#options.source.parallelSequences ?? DEFAULT_SLOTS;
  }

  get isLoaded(): boolean {
    return this.#engine !== undefined && (this.#engine.health?.().state ?? 'ready') === 'ready';
  }

  get isSpeculative(): boolean {
    return this.#options.source.draftModelPath !== undefined;
  }

  get engineName(): string {
    return this.#engine?.description.engine ?? 'llama.cpp';
  }

  get contextTokens(): number | undefined {
    return this.#engine?.description.contextTokens;
  }

  get queueStats(): QueueStats {
    return this.#queue.stats();
  }

  get health(): EngineHealth | { readonly state: 'unloaded' } {
    if (this.#engine === undefined) return { state: 'unloaded' };
    return this.#engine.health?.() ?? { state: 'ready', rssBytes: undefined, restarts: 0, reason: undefined };
  }

  /** Starts the engine; whether it can load the model shows in `health`, and to those who ask it. */
  load(): void {
    this.#engine ??= this.#options.openEngine({ ...this.source, parallelSequences: this.slots });
  }

  /**
   * Generates when it has its turn.
   *
   * @throws QueueFullError, QueueTimeoutError; OctomilError as the engine
   */
  async *generate(request: GenerationRequest, signal: AbortSignal): AsyncGenerator<GenerationEvent, void, undefined> {
    this.#begin();
    try {
      yield* this.#queue.submitGenerateStream(request, {
        generateStreamFn: (asked, turn) => this.#loaded().generate(asked, turn.signal),
        signal,
      });
    } finally {
      this.#finish();
    }
  }

  /** @throws as `generate` */
  async embed(inputs: readonly string[], signal: AbortSignal): ReturnType<GenerationEngine['embed']> {
    this.#begin();
    try {
      return await this.#queue.submitGenerate(inputs, {
        generateFn: (asked, turn) => this.#loaded().embed(asked, turn.signal),
        signal,
      });
    } finally {
      this.#finish();
    }
  }

  /** Ends what runs. */
  async stop(): Promise<void> {
    this.#callOffUnload();
    const queue = this.#queue.stop({ abortActive: true });
    await this.#engine?.stop();
    await queue;
  }

  #loaded(): GenerationEngine {
    this.load();
    if (this.#engine === undefined) throw new OctomilError('internal', 'a model was loaded and is not there');
    return this.#engine;
  }

  #begin(): void {
    this.requests += 1;
    this.#active += 1;
    this.#callOffUnload();
  }

  #finish(): void {
    this.#active -= 1;
    const { idleUnloadMs, clock } = this.#options;
    if (this.#active > 0 || idleUnloadMs === undefined) return;
    this.#callOffUnload = clock.after(idleUnloadMs, () => {
      const engine = this.#engine;
      this.#engine = undefined;
      void engine?.stop();
    });
  }
}
