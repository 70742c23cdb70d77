/** Ratio between the ends of a bucket: a percentile is off by less than a sixth. */
const GROWTH = 2 ** 0.25;
const SMALLEST_MS = 1;
/** Up to about 1.2 hours. */
export const HISTOGRAM_BUCKETS = 88;

/** Which bucket a duration belongs to: 0 up to 1 ms, then each a fifth longer than the one before. */
export function bucketOf(durationMs: number): number {
  if (!(durationMs > SMALLEST_MS)) return 0;
  const index = Math.ceil(Math.log(durationMs / SMALLEST_MS) / Math.log(GROWTH) - 1e-9);
  return Math.min(HISTOGRAM_BUCKETS - 1, index);
}

/** Upper end of a bucket, in milliseconds. */
export function bucketEndMs(bucket: number): number {
  return SMALLEST_MS * GROWTH ** bucket;
}

/**
 * Nearest-rank percentile of counts by bucket: the upper end of the bucket that holds it; null without any.
 *
 * @param share in (0, 1]
 */
export function histogramPercentile(counts: readonly number[], share: number): number | null {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) return null;
  const rank = Math.ceil(total * share);
  let seen = 0;
  for (const [bucket, count] of counts.entries()) {
    seen += count;
    if (seen >= rank) return bucketEndMs(bucket);
  }
  return bucketEndMs(counts.length - 1);
}
