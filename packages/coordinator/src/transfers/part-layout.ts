import { OctomilError } from '@octomil/shared/errors';

const MIB = 1024 * 1024;

/** Bounds of a part, as the ones of cloud buckets: below 5 MiB they refuse, above 16 MiB a cut costs too much. */
export const PART_SIZE_BYTES = { smallest: 5 * MIB, usual: 8 * MIB, largest: 16 * MIB } as const;
/** What a bucket takes of one upload. */
const MAX_PARTS = 10_000;

/** How an upload is cut: every part has `partSizeBytes` but the last, which has the rest. */
export interface PartLayout {
  readonly sizeBytes: number;
  readonly partSizeBytes: number;
  readonly partCount: number;
}

/**
 * Cuts `sizeBytes` into parts.
 *
 * @throws `too_large` beyond 10,000 parts; `invalid_input` for an empty upload
 */
export function cutIntoParts(sizeBytes: number, partSizeBytes: number): PartLayout {
  if (sizeBytes < 1) throw new OctomilError('invalid_input', 'an upload of 0 bytes needs no ticket');
  const partCount = Math.ceil(sizeBytes / partSizeBytes);
  if (partCount > MAX_PARTS) {
    throw new OctomilError(
      'too_large',
      `${sizeBytes} bytes need ${partCount} parts of ${partSizeBytes} bytes, more than ${MAX_PARTS}`,
      { details: { sizeBytes, limitBytes: MAX_PARTS * partSizeBytes } },
    );
  }
  return { sizeBytes, partSizeBytes, partCount };
}

/** Where part `index` (from 0) lies. @throws `invalid_input` naming the range */
export function partRange(layout: PartLayout, index: number): { start: number; end: number } {
  if (!Number.isSafeInteger(index) || index < 0 || index >= layout.partCount) {
    throw new OctomilError(
      'invalid_input',
      `there is no part ${index}: this upload has parts 0 to ${layout.partCount - 1}`,
    );
  }
  const start = index * layout.partSizeBytes;
  return { start, end: Math.min(start + layout.partSizeBytes, layout.sizeBytes) };
}
