import type { Clock } from '@octomil/shared/runtime';

/** Bulk bytes wait here for their turn: everything that this agent sends and fetches shares one limit. */
export interface Bandwidth {
  /** Whether there is any limit. */
  readonly limited: boolean;
  /**
   * Resolves when this many bytes may be sent, or were received no faster than allowed.
   *
   * @throws the signal's reason when it aborts first: nothing is counted then
   */
  take(bytes: number, signal?: AbortSignal): Promise<void>;
  /** The bytes in small pieces, each when it may be sent. */
  paced(bytes: Uint8Array, signal?: AbortSignal): AsyncIterable<Uint8Array>;
}

/** What may go at once after a pause. */
const BURST_MS = 250;
/** Small enough that transfers take turns, and that a slow line sends something every second. */
const PIECE_BYTES = 16_384;
const UNLIMITED_PIECE_BYTES = 65_536;

export const unlimited: Bandwidth = {
  limited: false,
  take: async () => undefined,
  async *paced(bytes) {
    yield* pieces(bytes, UNLIMITED_PIECE_BYTES);
  },
};

/**
 * A token bucket, kept as the time at which all that was taken is paid for (the generic cell rate algorithm, ITU-T I.371).
 * Who asks first goes first.
 *
 * @param megabitsPerSecond 1,000,000 bits; undefined: no limit
 */
export function bandwidthLimit(megabitsPerSecond: number | undefined, clock: Clock): Bandwidth {
  if (megabitsPerSecond === undefined) return unlimited;
  const bytesPerMs = (megabitsPerSecond * 1_000_000) / 8 / 1_000;
  let paidAtMs = Number.NEGATIVE_INFINITY;
  const take = async (bytes: number, signal?: AbortSignal): Promise<void> => {
    signal?.throwIfAborted();
    const nowMs = clock.now();
    const costMs = bytes / bytesPerMs;
    paidAtMs = Math.max(paidAtMs, nowMs - BURST_MS) + costMs;
    if (paidAtMs <= nowMs) return;
    try {
      await clock.sleep(paidAtMs - nowMs, signal);
    } catch (error) {
      paidAtMs -= costMs;
      throw error;
    }
  };
  return {
    limited: true,
    take,
    async *paced(bytes, signal) {
      for (const piece of pieces(bytes, PIECE_BYTES)) {
        await take(piece.length, signal);
        yield piece;
      }
    },
  };
}

function* pieces(bytes: Uint8Array, sizeBytes: number): Generator<Uint8Array> {
  for (let start = 0; start < bytes.length; start += sizeBytes) yield bytes.subarray(start, start + sizeBytes);
}
