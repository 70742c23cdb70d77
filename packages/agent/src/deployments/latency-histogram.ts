/** Ratio between the ends of a bucket: a percentile is off by at most a tenth. */
const GROWTH = 1.1;
const SMALLEST_MS = 0.01;
/** Up to about 5 hours. */
const BUCKETS = 200;

/** Latencies in buckets that grow by a tenth each: its size does not depend on how many there are. */
export class LatencyHistogram {
  #count = 0;
  #sumMs = 0;
  readonly #buckets: Map<number, number>;

  constructor(stored?: StoredHistogram) {
    this.#buckets = new Map(stored?.buckets ?? []);
    for (const count of this.#buckets.values()) this.#count += count;
    this.#sumMs = stored?.sumMs ?? 0;
  }

  add(latencyMs: number): void {
    const index = latencyMs <= SMALLEST_MS ? 0 : Math.ceil(Math.log(latencyMs / SMALLEST_MS) / Math.log(GROWTH));
    const bucket = Math.min(BUCKETS, index);
    this.#buckets.set(bucket, (this.#buckets.get(bucket) ?? 0) + 1);
    this.#count += 1;
    this.#sumMs += latencyMs;
  }

  /** Mean, and the upper end of the bucket that holds the 95th percentile; null without any. */
  summary(): { readonly mean: number; readonly p95: number } | null {
    if (this.#count === 0) return null;
    const rank = Math.ceil(this.#count * 0.95);
    let seen = 0;
    let p95 = 0;
    for (const [bucket, count] of [...this.#buckets].sort(([a], [b]) => a - b)) {
      seen += count;
      p95 = SMALLEST_MS * GROWTH ** bucket;
      if (seen >= rank) break;
    }
    return { mean: this.#sumMs / this.#count, p95 };
  }

  toJSON(): StoredHistogram {
    return { sumMs: this.#sumMs, buckets: [...this.#buckets] };
  }
}

export interface StoredHistogram {
  readonly sumMs: number;
  readonly buckets: readonly (readonly [bucket: number, count: number])[];
}
