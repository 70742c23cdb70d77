/** Half-open range of placements, within [0, 1). */
export interface PlacementRange {
  readonly from: number;
  readonly to: number;
}

/** Ratios are kept to this many decimals, so that ten steps of 0.1 are 1. */
const RATIO_DECIMALS = 8;

/**
 * The placements that belong to a rollout: `(placement + offset) mod 1 < share`, as one or two ranges, so that SQL can
 * walk an index and decides exactly as memory does. With the same offset, a larger share holds every smaller one.
 *
 * @param offset in [0, 1)
 * @param share 0 to 1
 */
export function shareRanges(offset: number, share: number): readonly PlacementRange[] {
  if (share <= 0) return [];
  if (share >= 1) return [{ from: 0, to: 1 }];
  const from = offset === 0 ? 0 : 1 - offset;
  const end = from + share;
  if (end <= 1) return [{ from, to: end }];
  // Rounding may bring both ends together, never past each other.
  return [
    { from, to: 1 },
    { from: 0, to: Math.min(end - 1, from) },
  ];
}

export function inShare(placement: number, offset: number, share: number): boolean {
  return shareRanges(offset, share).some(({ from, to }) => placement >= from && placement < to);
}

export function roundRatio(ratio: number): number {
  return Number(ratio.toFixed(RATIO_DECIMALS));
}

/** Percent, 0 to 100, to a ratio. */
export function ratioOf(percentage: number): number {
  return roundRatio(percentage / 100);
}

/** A ratio in percent, without the noise of binary fractions. */
export function percentageOf(ratio: number): number {
  return Number((ratio * 100).toFixed(RATIO_DECIMALS - 2));
}

/** The share after one more step, at most the target. */
export function nextShare(share: number, increment: number, target: number): number {
  return Math.min(roundRatio(share + increment), target);
}
