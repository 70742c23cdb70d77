const FIRST_MS = 5_000;
const LONGEST_MS = 600_000;
/** Space comes back unannounced, and looking for it costs nothing. */
const LONGEST_FOR_SPACE_MS = 60_000;

/**
 * How long a failed activation waits: 5 s at first, twice as long each time, at most 10 min (1 min for want of disk
 * space), of which the last half is drawn.
 *
 * @param failures from 1
 * @param random 0 to 1
 */
export function activationRetryMs(failures: number, forSpace: boolean, random: number): number {
  const longest = forSpace ? LONGEST_FOR_SPACE_MS : LONGEST_MS;
  return Math.min(longest, FIRST_MS * 2 ** Math.min(30, failures - 1)) * (0.5 + random / 2);
}
