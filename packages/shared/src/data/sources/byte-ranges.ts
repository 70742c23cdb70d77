import type { ByteRange } from '@octomil/shared/storage';

/** Sorted and disjoint; ranges with at most `gapBytes` between them become one, gap included. */
export function joinRanges(ranges: readonly ByteRange[], gapBytes = 0): ByteRange[] {
  const joined: { start: number; end: number }[] = [];
  for (const { start, end } of [...ranges].sort((a, b) => a.start - b.start)) {
    if (end <= start) continue;
    const last = joined.at(-1);
    if (last !== undefined && start <= last.end + gapBytes) last.end = Math.max(last.end, end);
    else joined.push({ start, end });
  }
  return joined;
}

/** What of `wanted` lies outside `held`, which is sorted and disjoint. */
export function missingRanges(wanted: readonly ByteRange[], held: readonly ByteRange[]): ByteRange[] {
  const missing: ByteRange[] = [];
  for (const { start, end } of joinRanges(wanted)) {
    let from = start;
    for (const have of held) {
      if (have.end <= from) continue;
      if (have.start >= end) break;
      if (have.start > from) missing.push({ start: from, end: have.start });
      from = Math.max(from, have.end);
    }
    if (from < end) missing.push({ start: from, end });
  }
  return missing;
}

/**
 * Few ranges that hold what of `wanted` is not in `held`: neighbours with at most `gapBytes` between them as one, but no
 * byte that is held.
 */
export function rangesToFetch(wanted: readonly ByteRange[], held: readonly ByteRange[], gapBytes: number): ByteRange[] {
  const missing = missingRanges(wanted, held);
  const gaps = missing.slice(1).map(({ start }, i) => ({ start: missing[i]?.end ?? start, end: start }));
  const fillable = gaps.filter(
    (gap) => gap.end - gap.start <= gapBytes && totalBytes(missingRanges([gap], held)) === gap.end - gap.start,
  );
  return joinRanges([...missing, ...fillable]);
}

export function totalBytes(ranges: readonly ByteRange[]): number {
  return ranges.reduce((sum, { start, end }) => sum + end - start, 0);
}
