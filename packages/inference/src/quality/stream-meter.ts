/** How one generation went. Times in milliseconds. */
export interface StreamMetrics {
  /** Time to the first chunk; null while there was none. */
  readonly ttfcMs: number | null;
  /** Mean pause between two chunks; null with fewer than two. */
  readonly meanChunkLatencyMs: number | null;
  readonly totalChunks: number;
  readonly totalDurationMs: number;
  /** Chunks per second, over the whole duration. */
  readonly throughput: number;
}

/**
 * Measures a stream of chunks from the moment it is made.
 *
 * ```ts
 * const meter = new StreamMeter();
 * for await (const chunk of stream) meter.chunk();
 * console.log(meter.summary());
 * ```
 */
export class StreamMeter {
  readonly #now: () => number;
  readonly #startedAtMs: number;
  #firstAtMs: number | undefined;
  #lastAtMs = 0;
  #chunks = 0;

  /** @param now milliseconds of a clock that only goes forward */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#startedAtMs = now();
  }

  /** `count` chunks came at once. */
  chunk(count = 1): void {
    this.#lastAtMs = this.#now();
    this.#firstAtMs ??= this.#lastAtMs;
    this.#chunks += count;
  }

  get elapsedMs(): number {
    return this.#now() - this.#startedAtMs;
  }

  get chunks(): number {
    return this.#chunks;
  }

  summary(): StreamMetrics {
    const totalDurationMs = this.elapsedMs;
    const first = this.#firstAtMs;
    return {
      ttfcMs: first === undefined ? null : first - this.#startedAtMs,
      meanChunkLatencyMs:
        first === undefined || this.#chunks < 2 ? null : (this.#lastAtMs - first) / (this.#chunks - 1),
      totalChunks: this.#chunks,
      totalDurationMs,
      throughput: totalDurationMs > 0 ? (this.#chunks * 1000) / totalDurationMs : 0,
    };
  }
}
