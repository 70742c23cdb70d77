import type { FinishReason } from '@octomil/inference/engine';
import type { PredictionChunk, PredictionEnd, PredictionMetrics } from './prediction.js';

/**
 * An answer while it is generated: iterate it once. Nothing is asked before that, and leaving the loop ends the generation.
 *
 * ```ts
 * const stream = client.predictStream('phi-4-mini', { messages });
 * for await (const chunk of stream) process.stdout.write(chunk.text);
 * console.log(stream.metrics?.timeToFirstChunkMs);
 * ```
 */
export class PredictionStream implements AsyncIterable<PredictionChunk> {
  readonly #chunks: AsyncGenerator<PredictionChunk, PredictionEnd, undefined>;
  #end: PredictionEnd | undefined;

  constructor(chunks: AsyncGenerator<PredictionChunk, PredictionEnd, undefined>) {
    this.#chunks = chunks;
  }

  /** Once the answer is whole. */
  get metrics(): PredictionMetrics | undefined {
    return this.#end?.metrics;
  }

  /** Once the answer is whole. */
  get finishReason(): FinishReason | undefined {
    return this.#end?.finishReason;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<PredictionChunk, void, undefined> {
    this.#end = yield* this.#chunks;
  }
}
