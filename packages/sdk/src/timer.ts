/** The longest that a timer waits, 24.8 days; one that is to wait longer fires at once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** As `setTimeout`, for times that a caller gives: `Infinity` and whatever is beyond a timer mean the longest. */
export function timerAfter(delayMs: number, callback: () => void): ReturnType<typeof setTimeout> {
  return setTimeout(callback, Math.min(delayMs, LONGEST_TIMER_MS));
}
